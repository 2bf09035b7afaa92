"""Exact top-K of a full ranking: public functions."""

from __future__ import annotations

from torch import Tensor

from .. import reference
from ..csr import Csr


def rank_topk(
    query: Tensor,
    items: Tensor,
    k: int,
    *,
    bias: Tensor | None = None,
    exclude: Csr | None = None,
    precision: str = "float32",
) -> tuple[Tensor, Tensor]:
    r"""The k best items of each query among all items, exactly, by :math:`Q W^T + b`.

    Order: score descending; equal scores by item id ascending; NaN scores last.

    Args:
        query: (B, H); float32, float64, float16 or bfloat16.
        items: (N, H), of the dtype of ``query``.
        k: at least 1; may exceed N.
        bias: (N,) added to the scores.
        exclude: (B, N) items that a query must not get, e.g. those seen in training; its values do not matter.
        precision: ``"float32"`` or ``"bf16"`` for the filter that precedes the exact scores; the ids are the same.

    Returns:
        scores (B, k), in the dtype of ``query``, and ids (B, k) int64. Where fewer than k candidates remain: score
        -inf and id -1. Not differentiable.

    Raises:
        TypeError: an argument has the wrong type, or dtypes differ.
        ValueError: shapes do not fit, or an option is out of range.

    >>> import torch
    >>> rank_topk(torch.ones(1, 1), torch.tensor([[1.0], [3.0], [3.0]]), 2)[1].tolist()
    [[1, 2]]
    """
    return reference.rank_topk(query, items, k, bias=bias, exclude=exclude, precision=precision)


def rank_scores(scores: Tensor, k: int, *, exclude: Csr | None = None) -> tuple[Tensor, Tensor]:
    """The k best items of each row of scores that exist already, in the order of `rank_topk`.

    Args:
        scores: (B, N); float32, float64, float16 or bfloat16.
        k: at least 1; may exceed N.
        exclude: (B, N) items that a row must not get.

    Returns:
        scores (B, k) and ids (B, k) int64, padded with -inf and -1.

    Raises:
        TypeError, ValueError: as `rank_topk`.

    >>> import torch
    >>> rank_scores(torch.tensor([[1.0, float("nan"), 1.0]]), 3)[1].tolist()
    [[0, 2, 1]]
    """
    return reference.rank_scores(scores, k, exclude=exclude)


def merge_topk(scores: Tensor, ids: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of candidates that several shards of the items have ranked, in the order of `rank_topk`.

    Args:
        scores: (B, M) scores of the candidates, in any order.
        ids: (B, M) int64 ids that are unique within a row; -1 marks padding.
        k: at least 1.

    Returns:
        scores (B, k) and ids (B, k) int64, padded with -inf and -1.

    Raises:
        TypeError, ValueError: as `rank_topk`.

    >>> import torch
    >>> merge_topk(torch.tensor([[1.0, 2.0, 2.0]]), torch.tensor([[7, 9, 8]]), 2)[1].tolist()
    [[8, 9]]
    """
    return reference.merge_topk(scores, ids, k)
