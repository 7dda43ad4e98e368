"""A regular package: an environment may hold somebody else's `tests`, as opensimplex brings one."""
