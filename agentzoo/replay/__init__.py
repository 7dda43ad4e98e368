"""Replay: the buffer of transitions, its files, its samplers, and batches prepared ahead."""
