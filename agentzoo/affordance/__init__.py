"""Affordance maps: where in a picture the goal can be reached, and what LS-Imagine makes of it.

A map (h, w) in [0, 1] says how much each pixel of a frame has to do with the goal. From it follow
an intrinsic reward (`intrinsic`), whether and where a long-term transition jumps (`zoom`), and,
once the episode has gone on, how long the jump took and what it earned (`pending`). NumPy only.

Source: Li et al. 2025 (LS-Imagine, ICLR; arXiv:2410.03618); qiwang067/LS-Imagine, December 2024.
"""
