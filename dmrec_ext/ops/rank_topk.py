"""Exact top-K of a full ranking: public functions."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from .._checks import check_choice, check_like, check_tensor, fail, has_contents
from .._library import NATIVE, runs_native
from .._speeds import fastest_precision
from ..csr import Csr
from ..reference.rank_topk import PRECISIONS, PreparedItems, checked_topk_inputs, unprepared, version_of, without_lower

MOST_ON_CUDA = 1024
"""The largest k of the CUDA kernels; above, plain torch ranks there."""


def rank_topk(
    query: Tensor,
    items: Tensor | PreparedItems,
    k: int,
    *,
    bias: Tensor | None = None,
    exclude: Csr | None = None,
    precision: str = "auto",
    exact_scores: bool = False,
    at_least: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The k best items of each query among all items, exactly, by :math:`Q W^T + b`.

    Order: score descending; equal scores by item id ascending; NaN scores last.

    Args:
        query: (B, H); float32, float64, float16 or bfloat16.
        items: (N, H), of the dtype of ``query``; or what `prepare_items` made of them.
        k: at least 1; may exceed N.
        bias: (N,) added to the scores.
        exclude: (B, N) items that a query must not get, e.g. those seen in training; its values do not matter.
        precision: ``"float32"`` or ``"bf16"`` for the products that precede the exact scores; the result is the same.
            ``"auto"`` takes what is faster on the device, as `fastest_precision` measures it once in a process
            (float32 while compiling, and while a CUDA graph is captured).
        exact_scores: give the float64 scores that the ranking follows, unrounded: rankings of parts of the items are
            then those of the whole when `merge_topk` puts them together, near-duplicates in their order.
        at_least: (B,) float64; items that rank behind a score of this are left out, none of them for NaN. It is a least
            score for each query, or the k-th best of items that were ranked before. On the CPU what is left out costs
            no more than its product.

    Returns:
        scores (B, k), in the dtype of ``query`` (float64 with ``exact_scores``), and ids (B, k) int64. Where fewer than
        k candidates remain: score -inf and id -1. Not differentiable.

    Raises:
        TypeError: an argument has the wrong type, or dtypes differ.
        ValueError: shapes do not fit, or an option is out of range.

    Note:
        On the native path a score is the dot product in float64, in one fixed order, plus the bias, and the ranking is
        that of these scores: the same bits for any number of threads and batch split, for products of either precision.
        The (B, N) scores never exist: matrix products of tiles of items, with a proven bound on their error, only tell
        what to score exactly. Scratch: 2 MiB of products per thread, which keeps them for the next call, 4 k + 64
        candidates per user (8 bytes of score and 8 of id each), 12 bytes per item. Inputs that are NaN, infinite or
        beyond 1e18 in norm rank right, one by one, slowly. On CUDA: a tile of products is 16 million numbers at most
        (with bfloat16 or 16-bit inputs as many items are converted), there are 16 k bytes a user and part of the items,
        and k above 1,024 runs on plain torch; ``exclude`` is not looked at beforehand, columns must rise in each row.
        Whether torch multiplies in TF32 does not matter.

    >>> import torch
    >>> rank_topk(torch.ones(1, 1), torch.tensor([[1.0], [3.0], [3.0]]), 2)[1].tolist()
    [[1, 2]]
    """
    if not runs_native("rank_topk", query):
        return reference.rank_topk(
            query,
            items,
            k,
            bias=bias,
            exclude=exclude,
            precision=precision,
            exact_scores=exact_scores,
            at_least=at_least,
        )
    weight, bias, precision, prepared = unprepared(items, bias, precision)
    query, weight, bias = checked_topk_inputs(query, weight, k, bias, exclude, precision, at_least)
    precision = _chosen(precision, weight)
    if query.is_cuda and k > MOST_ON_CUDA:
        return reference.rank_topk(
            query,
            weight,
            k,
            bias=bias,
            exclude=exclude,
            precision=precision,
            exact_scores=exact_scores,
            at_least=at_least,
        )
    seen = (None, None) if exclude is None else (exclude.crow, exclude.col)
    bf16 = precision == "bf16" or _float32_products_are_rounded(query.device.type)
    usable = prepared is not None and prepared.parts is not None and bf16 == (precision == "bf16")
    parts = prepared.parts if prepared is not None and usable else None
    scores, ids = torch.ops.dmrec_ext.rank_topk.default(
        query, weight, k, bias, *seen, bf16, *(parts or (None,) * 3), at_least
    )
    if at_least is not None:
        scores, ids = without_lower(scores, ids, at_least)
    return scores if exact_scores else scores.to(query.dtype), ids


def prepare_items(items: Tensor, bias: Tensor | None = None, *, precision: str = "auto") -> PreparedItems:
    """What `rank_topk` needs of the items alone, once for any number of calls: for serving, a query at a time.

    Args:
        items: (N, H); float32, float64, float16 or bfloat16. Must not be changed in place afterwards: it is refused.
        bias: (N,) added to the scores.
        precision: as in `rank_topk`; with ``"bf16"`` the items are kept in bfloat16, too.

    Returns:
        what `rank_topk` takes as ``items``, with the same results. Memory: 4 bytes per item (8 for float64), with
        ``"bf16"`` and 2 H bytes per item.

    Raises:
        TypeError, ValueError: as `rank_topk`.

    >>> import torch
    >>> prepared = prepare_items(torch.tensor([[1.0], [3.0], [3.0]]))
    >>> rank_topk(torch.ones(1, 1), prepared, 2)[1].tolist()
    [[1, 2]]
    """
    op = "prepare_items"
    check_tensor(op, "items", items, 2)
    if bias is not None:
        check_tensor(op, "bias", bias, 1)
        if bias.shape[0] != items.shape[0]:
            fail(op, "bias", f"have {items.shape[0]} elements", bias.shape[0])
        check_like(op, "bias", bias, "items", items)
        bias = bias.detach()
    check_choice(op, "precision", precision, PRECISIONS)
    items = items.detach()
    precision = _chosen(precision, items)
    parts = None
    if runs_native("rank_topk", items) and items.shape[0] > 0:
        parts = torch.ops.dmrec_ext._prepare_items.default(items, bias, precision == "bf16")
    version = version_of(items, bias)
    return PreparedItems(items, bias, precision, parts, (version[0], version[1]))


def _chosen(precision: str, items: Tensor) -> str:
    """``precision``, or what is faster where that is left open and there is something to measure."""
    if precision != "auto":
        return precision
    if torch.compiler.is_compiling() or not has_contents(items) or not runs_native("rank_topk", items):
        return "float32"
    if items.is_cuda and torch.cuda.is_current_stream_capturing():  # measuring waits for the GPU, which ends a capture
        return "float32"
    return fastest_precision(items.device)


def _float32_products_are_rounded(device_type: str) -> bool:
    """Whether torch may multiply float32 matrices in fewer bits than the bound allows; that for bfloat16 then does."""
    if device_type != "cpu":  # the bound of the CUDA kernels allows for TF32
        return False
    if torch.compiler.is_compiling():  # the setting cannot be traced: the safe side
        return True
    return torch.backends.mkldnn.matmul.fp32_precision in ("bf16", "tf32")  # type: ignore[attr-defined]


def _fake(query: Tensor, items: Tensor, k: int, *others: Tensor | bool | None) -> tuple[Tensor, Tensor]:
    shape = query.shape[0], k
    return query.new_empty(shape, dtype=torch.float64), query.new_empty(shape, dtype=torch.int64)


def _fake_parts(items: Tensor, bias: Tensor | None, bf16: bool) -> tuple[Tensor, Tensor, Tensor]:
    n_items, width = items.shape
    copied = n_items if bf16 and items.dtype not in (torch.float64, torch.bfloat16) else 0
    n_maxima = 1 if items.device.type == "cpu" else max(1, min(1024, n_items // 16))
    return (
        items.new_empty(n_items, dtype=torch.float64 if items.dtype == torch.float64 else torch.float32),
        items.new_empty(2, n_maxima, dtype=torch.float64),
        items.new_empty(copied, width, dtype=torch.bfloat16),
    )


if NATIVE["rank_topk"]:
    torch.library.register_fake("dmrec_ext::rank_topk", _fake)
    torch.library.register_fake("dmrec_ext::_prepare_items", _fake_parts)


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

    Note:
        Plain torch on every device: some four times `torch.topk`, which leaves the order of ties open.

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
