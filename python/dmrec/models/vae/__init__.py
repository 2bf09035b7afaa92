"""Variational autoencoders over the interactions of a user."""
