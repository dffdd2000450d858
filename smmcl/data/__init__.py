"""From files to tensors: reading, augmenting and serving pairs."""
