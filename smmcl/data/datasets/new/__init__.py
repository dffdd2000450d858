"""Writes a dataset file and a config for a folder of images; every guess is a sentence."""
