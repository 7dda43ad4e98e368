"""Blocks: nouns from the papers, each with its own test, unaware of who uses it."""
