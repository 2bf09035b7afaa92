"""Recommendation models. Each is one file, imported here so that configurations can name it."""

from . import ensemble
from .graph import lightgcn
from .linear import ease, l3ae, popularity
from .sequential import markov, sasrec, tiger
from .vae import cvga, l_diffrec, mult_vae

__all__ = [
    "cvga",
    "ease",
    "ensemble",
    "l3ae",
    "l_diffrec",
    "lightgcn",
    "markov",
    "mult_vae",
    "popularity",
    "sasrec",
    "tiger",
]
