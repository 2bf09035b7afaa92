"""Fused operators for generative recommenders: diagonal Gaussians, sparse interactions, exact ranking, large softmax.

Where the native library has a kernel for an operator and device it runs that; elsewhere the same function runs on
the plain-torch code of `dmrec_ext.reference`. ``native_path(stem, device_type)`` reports which, and why.
"""

from . import reference
from ._library import NATIVE_ABSENT, OPERATORS, native_path, use_reference
from ._speeds import ProductSpeeds, fastest_precision, product_speeds
from .csr import Csr
from .ops import (
    code_alignment,
    composite_prior,
    csr_aggregate,
    csr_dot,
    gaussian_kl,
    gaussian_w2,
    matching_loss,
    merge_topk,
    multinomial_nll,
    multinomial_terms,
    prepare_items,
    rank_scores,
    rank_topk,
    residual_quantize,
)
from .reference import LOGITS_BUDGET
from .reference.rank_topk import PreparedItems

__all__ = [
    "LOGITS_BUDGET",
    "NATIVE_ABSENT",
    "OPERATORS",
    "Csr",
    "PreparedItems",
    "ProductSpeeds",
    "code_alignment",
    "composite_prior",
    "csr_aggregate",
    "csr_dot",
    "fastest_precision",
    "gaussian_kl",
    "gaussian_w2",
    "matching_loss",
    "merge_topk",
    "multinomial_nll",
    "multinomial_terms",
    "native_path",
    "prepare_items",
    "product_speeds",
    "rank_scores",
    "rank_topk",
    "reference",
    "residual_quantize",
    "use_reference",
]
