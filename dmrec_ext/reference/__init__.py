"""Every operator in plain torch, equation by equation: the oracle of the tests and the path where nothing is native.

Same signatures and checks as the functions of `dmrec_ext`; gradients are torch's own; float64 stays float64.
"""

from .code_alignment import code_alignment
from .composite_prior import composite_prior
from .csr_aggregate import csr_aggregate, csr_dot
from .gaussian_kl import gaussian_kl
from .gaussian_w2 import gaussian_w2
from .matching_loss import matching_loss
from .multinomial_nll import LOGITS_BUDGET, multinomial_nll, multinomial_terms
from .rank_topk import merge_topk, rank_scores, rank_topk
from .residual_quantize import residual_quantize

__all__ = [
    "LOGITS_BUDGET",
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
    "rank_scores",
    "rank_topk",
    "residual_quantize",
]
