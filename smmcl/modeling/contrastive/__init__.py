"""The contrastive branch: which views are compared, what the comparison costs, who projects."""
