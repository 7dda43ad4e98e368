"""Recipes: one file an agent, read top to bottom beside the paper."""
