"""Profiles: short texts about items and users, from templates or from a language model."""
