"""Bundles: the folder format, how it is read, checked and verified."""
