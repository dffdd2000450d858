"""The streams and the pair made of two of them."""
