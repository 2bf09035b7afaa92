"""Sparse interactions: the CSR matrix that operators take."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ._library import runs_native

if TYPE_CHECKING:
    from scipy.sparse import spmatrix


class Csr(NamedTuple):
    """A sparse (B, N) matrix in compressed rows; a tuple of tensors, so it passes through ``torch.compile``.

    Columns rise strictly within a row. ``values`` None means ones, which costs no memory.

    Fields:
        crow: (B + 1,) int64; row b holds entries ``crow[b]`` to ``crow[b + 1]``.
        col: (nnz,) int64 in [0, N).
        values: (nnz,) floating point, or None.
        n_cols: N.

    >>> x = Csr(torch.tensor([0, 2, 2, 3]), torch.tensor([0, 2, 1]), None, 3)
    >>> x.to_dense().tolist()
    [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """

    crow: Tensor
    col: Tensor
    values: Tensor | None
    n_cols: int

    @classmethod
    def from_scipy(cls, matrix: spmatrix, *, dtype: torch.dtype = torch.float32) -> Csr:
        """From any scipy sparse matrix: duplicates summed, columns sorted; ``values`` None if all are one."""
        csr = matrix.tocsr(copy=True)
        csr.sum_duplicates()
        values = None if (csr.data == 1).all() else torch.as_tensor(csr.data).to(dtype)
        crow = torch.as_tensor(csr.indptr).to(torch.int64)
        return cls(crow, torch.as_tensor(csr.indices).to(torch.int64), values, int(csr.shape[1]))

    @classmethod
    def from_torch(cls, matrix: Tensor) -> Csr:
        """From a torch sparse CSR, sparse COO or dense matrix."""
        entries = matrix.to_sparse_coo().coalesce()
        row, col = entries.indices()
        crow = torch.searchsorted(row, torch.arange(matrix.shape[0] + 1, device=row.device))
        return cls(crow, col.contiguous(), entries.values().clone(), matrix.shape[1])

    @property
    def n_rows(self) -> int:
        """B."""
        return self.crow.numel() - 1

    @property
    def nnz(self) -> int:
        """Number of stored entries."""
        return self.col.numel()

    def row_of_entry(self) -> Tensor:
        """(nnz,) int64: the row of each entry."""
        rows = torch.arange(self.n_rows, device=self.col.device)
        return torch.repeat_interleave(rows, self.crow.diff(), output_size=self.nnz)

    def rows(self, index: Tensor) -> Csr:
        """The rows ``index`` (b,) int64, in that order, as a new matrix; negative ones count from the end."""
        counts = self.crow.diff()[index]
        crow = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        nnz = int(crow[-1])
        shift = torch.repeat_interleave(self.crow[:-1][index] - crow[:-1], counts, output_size=nnz)
        entry = shift + torch.arange(nnz, device=self.col.device)
        return Csr(crow, self.col[entry], None if self.values is None else self.values[entry], self.n_cols)

    def transpose(self) -> Csr:
        """The (N, B) matrix; O(nnz + N) where ``csr_aggregate`` is native, else O(nnz log nnz)."""
        if runs_native("csr_aggregate", self.col):
            crow, col, entry = torch.ops.dmrec_ext._csr_transpose(self.crow, self.col, self.n_cols)
            return Csr(crow, col, None if self.values is None else self.values[entry], self.n_rows)
        col, entry = torch.sort(self.col, stable=True)
        edges = torch.arange(self.n_cols + 1, device=col.device)
        values = None if self.values is None else self.values[entry]
        return Csr(torch.searchsorted(col, edges), self.row_of_entry()[entry], values, self.n_rows)

    def to_dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The (B, N) matrix with its zeros, for tests and small examples."""
        dense = torch.zeros(self.n_rows, self.n_cols, dtype=dtype if self.values is None else self.values.dtype)
        dense = dense.to(self.col.device)
        dense[self.row_of_entry(), self.col] = 1 if self.values is None else self.values
        return dense
