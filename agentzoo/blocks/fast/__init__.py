"""Hand-written kernels, each beside the plain form that it equals and is tested against."""
