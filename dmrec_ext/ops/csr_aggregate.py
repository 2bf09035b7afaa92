"""Sparse interactions times a dense matrix: public function."""

from __future__ import annotations

from torch import Tensor

from .. import reference
from ..csr import Csr


def csr_aggregate(x: Csr, dense: Tensor, bias: Tensor | None = None, *, transpose: Csr | None = None) -> Tensor:
    r"""Sums rows of a matrix, weighted by sparse interactions: :math:`X W + b`.

    The first term of Eq. (6), Zhang et al., SIGIR 2025, :math:`W_I^T x_u + w_u`; also the first layer of a VAE
    encoder, whose input never becomes dense.

    Args:
        x: (B, N) sparse matrix; ``values`` of the dtype of ``dense``, or None for ones.
        dense: (N, E) matrix; float32, float64, float16 or bfloat16.
        bias: (E,) or (B, E), added to the sum.
        transpose: ``x.transpose()``, if at hand: spares the gradient from forming it.

    Returns:
        (B, E) sums in the dtype of ``dense``. An empty row of ``x`` gives the bias alone.

    Raises:
        TypeError: an argument has the wrong type, or dtypes differ.
        ValueError: shapes do not fit, or ``x`` is no well-formed CSR matrix.

    >>> import torch
    >>> x = Csr(torch.tensor([0, 2, 2]), torch.tensor([0, 2]), None, 3)
    >>> csr_aggregate(x, torch.tensor([[1.0], [2.0], [4.0]])).tolist()
    [[5.0], [0.0]]
    """
    return reference.csr_aggregate(x, dense, bias, transpose=transpose)
