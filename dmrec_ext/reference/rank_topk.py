"""Exact top-K of a full ranking: score descending, item id ascending, NaN last."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._checks import check_choice, check_csr, check_size, check_tensor, fail, has_contents
from .._torch_private import transformed
from ..csr import Csr
from .multinomial_nll import check_projection

PRECISIONS = ("auto", "float32", "bf16")


@dataclass(frozen=True, eq=False)
class PreparedItems:
    """Items that are ranked again and again: what depends on them alone is computed once, by `dmrec_ext.prepare_items`.

    Attributes:
        items: (N, H), detached; shares memory with what was given.
        bias: (N,) of the dtype of ``items``, or None.
        precision: of the products that precede the exact scores, ``"float32"`` or ``"bf16"``.
        parts: what the native operator takes of them; None on the reference path.
        version: of ``items`` and ``bias`` as they were: both must not be changed in place afterwards.
    """

    items: Tensor
    bias: Tensor | None
    precision: str
    parts: tuple[Tensor, Tensor, Tensor] | None
    version: tuple[int, int]


def version_of(*tensors: Tensor | None) -> tuple[int, ...]:
    """Counts of changes in place; 0 where torch keeps none (None, inference tensors, while compiling)."""
    if torch.compiler.is_compiling():
        return (0,) * len(tensors)
    return tuple(0 if tensor is None or tensor.is_inference() else tensor._version for tensor in tensors)


def unprepared(
    items: Tensor | PreparedItems, bias: Tensor | None, precision: str
) -> tuple[Tensor, Tensor | None, str, PreparedItems | None]:
    """items, bias, precision and, if they were prepared, all of it."""
    if not isinstance(items, PreparedItems):
        return items, bias, precision, None
    if bias is not None:
        fail("rank_topk", "bias", "be left out where items are prepared (give it to prepare_items)", "a bias")
    if precision not in ("auto", items.precision):
        fail("rank_topk", "precision", f"be that of the prepared items ({items.precision!r})", repr(precision))
    if not torch.compiler.is_compiling() and version_of(items.items, items.bias) != items.version:
        fail("rank_topk", "items", "not be changed after prepare_items (prepare them again)", "changed ones")
    return items.items, items.bias, items.precision, items


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
    """Reference of `dmrec_ext.rank_topk`; forms the (B, N) scores, in the dtype of the inputs for any precision."""
    items, bias, precision, _ = unprepared(items, bias, precision)
    query, items, bias = checked_topk_inputs(query, items, k, bias, exclude, precision, at_least)
    if exact_scores:
        query, items, bias = query.double(), items.double(), None if bias is None else bias.double()
    scores, ids = ranked(torch.nn.functional.linear(query, items, bias), k, exclude)
    return (scores, ids) if at_least is None else without_lower(scores, ids, at_least)


def without_lower(scores: Tensor, ids: Tensor, at_least: Tensor) -> tuple[Tensor, Tensor]:
    """A ranking (B, k) without the items that rank behind a score of ``at_least`` (B,)."""
    least = at_least[:, None]
    lower = ((scores >= least) | least.isnan()).logical_not()
    return scores.masked_fill(lower, -torch.inf), ids.masked_fill(lower, -1)


def checked_topk_inputs(
    query: Tensor,
    items: Tensor,
    k: int,
    bias: Tensor | None,
    exclude: Csr | None,
    precision: str,
    at_least: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """query, items and bias, checked and detached; under autocast in the dtype of ``items``."""
    op = "rank_topk"
    check_tensor(op, "query", query, 2)
    check_projection(op, "items", items, bias, "query", query)
    check_choice(op, "precision", precision, PRECISIONS)
    check_ranking(op, k, query.shape[0], items.shape[0], exclude, query.device)
    if at_least is not None:
        check_tensor(op, "at_least", at_least, 1)
        if at_least.shape[0] != query.shape[0] or at_least.dtype != torch.float64:
            wanted = f"have {query.shape[0]} elements in float64"
            fail(op, "at_least", wanted, f"{at_least.shape[0]} in {at_least.dtype}")
        if at_least.device != query.device:
            fail(op, "at_least", f"be on the device of query ({query.device})", at_least.device)
    dtype = items.dtype
    return _plain(query, dtype), _plain(items, dtype), None if bias is None else _plain(bias, dtype)


def _plain(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Detached and in ``dtype``: the tensor itself where it is, which a call of a few microseconds notices."""
    tensor = tensor.detach() if tensor.requires_grad else tensor
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def rank_scores(scores: Tensor, k: int, *, exclude: Csr | None = None) -> tuple[Tensor, Tensor]:
    """Reference of `dmrec_ext.rank_scores`."""
    check_tensor("rank_scores", "scores", scores, 2)
    check_ranking("rank_scores", k, scores.shape[0], scores.shape[1], exclude, scores.device)
    return ranked(scores, k, exclude)


def merge_topk(scores: Tensor, ids: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Reference of `dmrec_ext.merge_topk`."""
    op = "merge_topk"
    check_tensor(op, "scores", scores, 2)
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64:
        fail(op, "ids", "be an int64 tensor", ids.dtype if isinstance(ids, Tensor) else type(ids).__name__, TypeError)
    if ids.shape != scores.shape:
        fail(op, "ids", f"have the shape of scores {tuple(scores.shape)}", tuple(ids.shape))
    check_size(op, "k", k, 1)
    if ids.device != scores.device:
        fail(op, "ids", f"be on the device of scores ({scores.device})", ids.device)
    by_id = ids.argsort(dim=1, stable=True)
    scores, ids = scores.detach().gather(1, by_id), ids.gather(1, by_id)
    return first_k(scores, ids, ids < 0, k)


def check_ranking(op: str, k: int, n_rows: int, n_items: int, exclude: Csr | None, device: torch.device) -> None:
    """``k`` and ``exclude`` of a ranking of ``n_items`` for ``n_rows`` users."""
    check_size(op, "k", k, 1)
    if exclude is not None:
        check_csr(op, "exclude", exclude, n_rows=n_rows, n_cols=n_items, device=device)


def ranked(scores: Tensor, k: int, exclude: Csr | None) -> tuple[Tensor, Tensor]:
    """The ranking, unchecked: a pool of items that holds the first k whatever the ties, then their exact order."""
    scores = scores.detach()
    excluded = torch.zeros_like(scores, dtype=torch.bool)
    if exclude is not None:
        excluded[exclude.row_of_entry(), exclude.col] = True
    key = scores.masked_fill(excluded | scores.isnan(), -torch.inf)
    n_items = scores.shape[1]
    if scores.shape[0] == 0 or n_items <= k or transformed() or not has_contents(scores):
        pool = torch.arange(n_items, device=scores.device).expand(scores.shape)
    else:
        best = key.topk(k + 1, dim=1)
        pool = best.indices[:, :k]
        if bool((best.values[:, k - 1] == best.values[:, k]).any()):  # items tie at the border: all of them
            size = int((key >= best.values[:, k - 1 : k]).sum(1).max())
            pool = key.topk(size, dim=1).indices
        pool = pool.sort(1).values
    return first_k(scores.gather(1, pool), pool, excluded.gather(1, pool), k)


def first_k(scores: Tensor, ids: Tensor, absent: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The first k of (B, M) candidates whose ids ascend: by score, then NaN, then padding for ``absent`` ones."""
    order = scores.masked_fill(scores.isnan(), -torch.inf).argsort(dim=1, descending=True, stable=True)
    last = scores.isnan().to(torch.int8) + 2 * absent.to(torch.int8)
    order = order.gather(1, last.gather(1, order).argsort(dim=1, stable=True))[:, :k]
    absent = absent.gather(1, order)
    scores = scores.gather(1, order).masked_fill(absent, -torch.inf)
    ids = ids.gather(1, order).masked_fill(absent, -1)
    missing = k - ids.shape[1]
    if missing > 0:
        scores = torch.nn.functional.pad(scores, (0, missing), value=-torch.inf)
        ids = torch.nn.functional.pad(ids, (0, missing), value=-1)
    return scores, ids
