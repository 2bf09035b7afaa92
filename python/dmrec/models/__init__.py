"""Backbones, the meta-network, the recommender that joins them, and the baselines."""
