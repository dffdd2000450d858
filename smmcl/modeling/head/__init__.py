"""The heads: fused features in, class logits out."""
