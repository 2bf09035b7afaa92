"""Training: the loop, its state, and what observes it."""
