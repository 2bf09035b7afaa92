"""Datasets: the folder format, what is imported into it, what can be fetched."""
