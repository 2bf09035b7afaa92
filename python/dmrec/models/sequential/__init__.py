"""Models that read the order of interactions: one file each; the transformer and the search that they share."""
