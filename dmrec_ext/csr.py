"""Sparse interactions: the CSR matrix that operators take."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ._library import runs_native

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix, spmatrix


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
        """From any scipy sparse matrix: duplicates summed, columns sorted; ``values`` None if all are one.

        Raises:
            TypeError: ``matrix`` is not a scipy sparse matrix.
        """
        if not hasattr(matrix, "tocsr"):
            hint = "; Csr.from_torch takes tensors" if isinstance(matrix, Tensor) else ""
            raise TypeError(f"Csr.from_scipy: matrix must be a scipy sparse matrix, got {type(matrix).__name__}{hint}")
        arithmetic = "float64" if dtype == torch.float64 else "float32"  # sums of narrow integers would wrap around
        csr = matrix.astype(arithmetic).tocsr(copy=True)
        csr.sum_duplicates()
        values = None if (csr.data == 1).all() else torch.as_tensor(csr.data).to(dtype)
        crow = torch.as_tensor(csr.indptr).to(torch.int64)
        return cls(crow, torch.as_tensor(csr.indices).to(torch.int64), values, int(csr.shape[1]))

    @classmethod
    def from_torch(cls, matrix: Tensor) -> Csr:
        """From a torch sparse CSR, sparse COO or dense matrix; values that are not floating-point become float32.

        Raises:
            TypeError: ``matrix`` is not a tensor.
            ValueError: it does not have two dimensions.
        """
        if not isinstance(matrix, Tensor):
            raise TypeError(f"Csr.from_torch: matrix must be a tensor, got {type(matrix).__name__}")
        if matrix.dim() != 2:
            raise ValueError(f"Csr.from_torch: matrix must have 2 dimensions, got {tuple(matrix.shape)}")
        if not matrix.is_floating_point():
            matrix = matrix.to(torch.float32)
        entries = matrix.to_sparse_coo().coalesce()
        row, col = entries.indices()
        crow = torch.searchsorted(row, torch.arange(matrix.shape[0] + 1, device=row.device))
        return cls(crow, col.contiguous(), entries.values().clone(), matrix.shape[1])

    def to_scipy(self) -> csr_matrix:
        """A copy as a scipy CSR matrix, in main memory; float32 ones without ``values``, float32 for 16-bit ones.

        >>> x = Csr(torch.tensor([0, 2, 2, 3]), torch.tensor([0, 2, 1]), None, 3)
        >>> x.to_scipy().toarray().tolist()
        [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
        """
        from scipy.sparse import csr_matrix

        values = torch.ones(self.nnz) if self.values is None else self.values.detach().cpu()
        if values.dtype in (torch.float16, torch.bfloat16):  # scipy computes with neither
            values = values.float()
        parts = (values.numpy(), self.col.cpu().numpy(), self.crow.cpu().numpy())
        return csr_matrix(parts, shape=(self.n_rows, self.n_cols), copy=True)

    @property
    def device(self) -> torch.device:
        """Where the tensors are.

        >>> Csr(torch.tensor([0, 1]), torch.tensor([0]), None, 1).device
        device(type='cpu')
        """
        return self.col.device

    def to(self, device: torch.device | str | int, *, non_blocking: bool = False) -> Csr:
        """The matrix on ``device``; tensors that are there already are shared, not copied.

        Args:
            device: where to, as `torch.Tensor.to` takes it.
            non_blocking: return before the copy is complete, where the source is pinned memory (`pin_memory`) and the
                target a GPU. Later work on the GPU's current stream waits for the copy.

        >>> x = Csr(torch.tensor([0, 2, 2, 3]), torch.tensor([0, 2, 1]), None, 3)
        >>> x.to("meta").device
        device(type='meta')
        """
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Csr:
        """The matrix in page-locked memory, from which a GPU copies asynchronously.

        Raises:
            RuntimeError: there is no GPU.

        >>> x = Csr(torch.tensor([0, 2, 2, 3]), torch.tensor([0, 2, 1]), None, 3)
        >>> if torch.cuda.is_available():
        ...     on_gpu = x.pin_memory().to("cuda", non_blocking=True)
        """
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Csr:
        values = None if self.values is None else function(self.values)
        return Csr(function(self.crow), function(self.col), values, self.n_cols)

    @property
    def shape(self) -> tuple[int, int]:
        """(B, N)."""
        return self.n_rows, self.n_cols

    @property
    def n_rows(self) -> int:
        """Number of rows, B."""
        return self.crow.numel() - 1

    @property
    def nnz(self) -> int:
        """Number of stored entries."""
        return self.col.numel()

    def row_of_entry(self) -> Tensor:
        """(nnz,) int64: the row of each entry."""
        rows = torch.arange(self.n_rows, device=self.device)
        return torch.repeat_interleave(rows, self.crow.diff(), output_size=self.nnz)

    def rows(self, index: Tensor, *, nnz: int | None = None) -> Csr:
        """Some rows as a new matrix, in the order of ``index``.

        Args:
            index: (b,) int64 numbers of rows; negative ones count from the end, repeated ones are repeated.
            nnz: the number of entries of these rows together, where the caller knows it. If None, it is read from the
                result's offsets, for which the host waits where the matrix is on a GPU. On the meta device and under
                FakeTensorMode nothing can be read, and it is required.

        Raises:
            TypeError: ``index`` is not a tensor of whole numbers.
            ValueError: it does not have one dimension.
            RuntimeError: ``nnz`` is not the number of entries. This is checked on the CPU only: on a GPU the check
                would have to wait, and a wrong number is undefined behaviour.

        >>> x = Csr(torch.tensor([0, 2, 2, 3]), torch.tensor([0, 2, 1]), None, 3)
        >>> x.rows(torch.tensor([2, 0]), nnz=3).to_dense().tolist()
        [[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
        """
        if not isinstance(index, Tensor) or index.dtype not in (torch.int64, torch.int32):
            got = index.dtype if isinstance(index, Tensor) else type(index).__name__
            raise TypeError(f"Csr.rows: index must be a tensor of int64, got {got}")
        if index.dim() != 1:
            raise ValueError(f"Csr.rows: index must have 1 dimension, got {tuple(index.shape)}")
        counts = self.crow.diff()[index]
        crow = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        if nnz is None:
            nnz = int(crow[-1])
        shift = torch.repeat_interleave(self.crow[:-1][index] - crow[:-1], counts, output_size=nnz)
        entry = shift + torch.arange(nnz, device=self.device)
        return Csr(crow, self.col[entry], None if self.values is None else self.values[entry], self.n_cols)

    def split(self, size: int) -> list[Csr]:
        """The matrix cut into ranges of ``size`` columns, which are numbered from 0 in each; all rows in every part.

        For items that are spread over several tables. All parts are made in one pass; the last has the columns that are
        left. On a GPU the host waits once, for the numbers of entries.

        Raises:
            TypeError, ValueError: ``size`` is not an integer of at least 1.

        >>> x = Csr(torch.tensor([0, 2, 2, 3]), torch.tensor([0, 2, 1]), None, 3)
        >>> [part.to_dense().tolist() for part in x.split(2)]
        [[[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]], [[1.0], [0.0], [0.0]]]
        """
        if not isinstance(size, int) or isinstance(size, bool):
            raise TypeError(f"Csr.split: size must be an integer, got {type(size).__name__}")
        if size < 1:
            raise ValueError(f"Csr.split: size must be at least 1, got {size}")
        n_parts = -(-self.n_cols // size)
        part = torch.div(self.col, size, rounding_mode="floor")
        counts = torch.bincount(part * self.n_rows + self.row_of_entry(), minlength=n_parts * self.n_rows)
        crow = torch.nn.functional.pad(counts.view(n_parts, self.n_rows).cumsum(1), (1, 0))
        order = torch.argsort(part, stable=True)  # within a part the entries keep their order
        lengths = crow[:, -1].tolist()
        col = (self.col - part * size)[order].split(lengths)
        values = (None,) * n_parts if self.values is None else self.values[order].split(lengths)
        widths = [min(size, self.n_cols - size * i) for i in range(n_parts)]
        return [Csr(*of_part) for of_part in zip(crow, col, values, widths, strict=True)]

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
        dtype = dtype if self.values is None else self.values.dtype
        dense = torch.zeros(self.n_rows, self.n_cols, dtype=dtype, device=self.device)
        dense[self.row_of_entry(), self.col] = 1 if self.values is None else self.values
        return dense
