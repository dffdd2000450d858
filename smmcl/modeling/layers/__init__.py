"""Small pieces that streams, fusions, heads and the contrast share."""
