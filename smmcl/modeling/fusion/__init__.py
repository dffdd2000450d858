"""Exchange and fusion of the two streams, one stage at a time."""
