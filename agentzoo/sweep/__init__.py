"""Sweeps: many runs by one file, on this machine or as Ray Tune's trials, and what they come to."""
