"""The public operators, one file each."""

from .code_alignment import code_alignment
from .composite_prior import composite_prior
from .csr_aggregate import csr_aggregate, csr_dot
from .gaussian_kl import gaussian_kl
from .gaussian_w2 import gaussian_w2
from .matching_loss import matching_loss
from .multinomial_nll import multinomial_nll, multinomial_terms
from .rank_topk import merge_topk, prepare_items, rank_scores, rank_topk
from .residual_quantize import residual_quantize

__all__ = [
    "code_alignment",
    "composite_prior",
    "csr_aggregate",
    "csr_dot",
    "gaussian_kl",
    "gaussian_w2",
    "matching_loss",
    "merge_topk",
    "multinomial_nll",
    "multinomial_terms",
    "prepare_items",
    "rank_scores",
    "rank_topk",
    "residual_quantize",
]
