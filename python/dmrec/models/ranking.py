"""Rankings by products with vectors of items, prepared where a model is asked again and again for few users."""

from __future__ import annotations

from torch import Tensor

from dmrec_ext import Csr, PreparedItems, prepare_items, rank_topk

FEW = 64
"""Queries up to which preparing pays: with more, what it spares is little beside their products."""


class ItemRanking:
    """`dmrec_ext.rank_topk` for a model. Items that come a second time, unchanged, are prepared and kept."""

    def __init__(self) -> None:
        self._kept: PreparedItems | None = None
        self._last: tuple[object, ...] | None = None

    def __call__(
        self, query: Tensor, items: Tensor, k: int, *, bias: Tensor | None = None, exclude: Csr | None = None
    ) -> tuple[Tensor, Tensor]:
        """The k best of ``items`` (N, H) for each query (B, H), by products plus ``bias`` (N,): scores and numbers."""
        if query.shape[0] > FEW or query.is_inference():
            return rank_topk(query, items, k, bias=bias, exclude=exclude)
        key = (*_identity(items), *(() if bias is None else _identity(bias)))
        if self._kept is not None and self._last == key:
            return rank_topk(query, self._kept, k, exclude=exclude)
        if self._last != key:
            self._kept, self._last = None, key
            return rank_topk(query, items, k, bias=bias, exclude=exclude)
        self._kept = prepare_items(items, bias, precision="float32")
        return rank_topk(query, self._kept, k, exclude=exclude)

    def __getstate__(self) -> dict[str, None]:
        return {"_kept": None, "_last": None}  # a copy of the model has items of its own


def _identity(tensor: Tensor) -> tuple[object, ...]:
    """Equal for the same elements, unchanged. What is kept holds the memory, so nothing else can lie there."""
    version = 0 if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version, tensor.shape, tensor.stride(), tensor.dtype, tensor.device
