"""The networks that one image of a pair goes through."""
