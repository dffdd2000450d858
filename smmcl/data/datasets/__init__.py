"""Datasets of pairs: who lists their files, and where their facts are registered."""
