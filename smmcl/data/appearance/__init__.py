"""Random changes of how the images of a pair look, in training."""
