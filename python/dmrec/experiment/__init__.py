"""Grids of runs: what is planned, how it is run, what came of it."""
