"""Generated pairs: dark streets and rooms, drawn when first used."""
