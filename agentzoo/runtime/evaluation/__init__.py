"""Evaluation: episodes played, scored, filmed, compared and played again."""
