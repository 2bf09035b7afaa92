"""Recommendations from trained models, with the ids of the data."""
