"""Training: the loop, what a run leaves behind, several runs in one go."""
