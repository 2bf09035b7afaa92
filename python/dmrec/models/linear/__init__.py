"""Models that are linear in the interactions, in closed form."""
