"""Workloads, named after what they stand for."""

# (B, D): a training batch of Mult-VAE; a batch whose tensors leave the caches
ROWS = {"batch (1024, 200)": (1024, 200), "large (16384, 256)": (16384, 256)}
