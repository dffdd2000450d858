"""The networks: streams, exchange between them, heads, contrastive branch."""
