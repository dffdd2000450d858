"""Pictures: panels of pairs, contact sheets, figures, features, and the report on runs."""
