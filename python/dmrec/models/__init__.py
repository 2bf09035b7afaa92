"""Recommendation models. Each is one file, imported here so that configurations can name it."""

from . import ensemble
from .graph import alpharec, kar, lightgcn, llmrec, promax, rlmrec_c, rlmrec_g, text_gcn
from .linear import ease, l3ae, popularity
from .sequential import markov, sasrec, tiger
from .vae import cvga, l_diffrec, mult_vae

__all__ = [
    "alpharec",
    "cvga",
    "ease",
    "ensemble",
    "kar",
    "l3ae",
    "l_diffrec",
    "lightgcn",
    "llmrec",
    "markov",
    "mult_vae",
    "popularity",
    "promax",
    "rlmrec_c",
    "rlmrec_g",
    "sasrec",
    "text_gcn",
    "tiger",
]
