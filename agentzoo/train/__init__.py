"""Training: the loop, collection, checkpoints, logs and plots of a run."""
