"""A trained model at work: predicting, sliding windows, folding, exporting."""
