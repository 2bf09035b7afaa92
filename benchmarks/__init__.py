"""Benchmarks: our operators and their peers in one process."""
