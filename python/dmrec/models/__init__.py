"""Backbones, baselines, the language network and the predictor. A model is one file, imported here to be known."""

from . import baselines, cvga, l_diffrec, lightgcn, mult_vae

__all__ = ["baselines", "cvga", "l_diffrec", "lightgcn", "mult_vae"]
