"""Argument checks of all operators: one wording, one place, for the native, fake and reference paths alike.

Every message reads ``<op>: <argument> must <requirement>, got <value>``.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Collection
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ._library import runs_native
from ._torch_private import is_fake
from .csr import Csr

CHECK_CSR_EVERYWHERE = os.environ.get("DMREC_CHECK_CSR") == "1"
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def fail(op: str, argument: str, requirement: str, value: object, kind: type[Exception] = ValueError) -> NoReturn:
    """Raises ``kind`` in the common wording."""
    raise kind(f"{op}: {argument} must {requirement}, got {value}")


def check_tensor(op: str, argument: str, value: Any, n_dim: int | None = None) -> None:
    """``value`` is a floating-point tensor of ``n_dim`` dimensions; None for one or more."""
    if not isinstance(value, Tensor):
        fail(op, argument, "be a tensor", type(value).__name__, TypeError)
    if value.layout is not torch.strided or value.is_nested:
        fail(
            op, argument, "be dense (torch.strided)", "a nested tensor" if value.is_nested else value.layout, TypeError
        )
    if value.dtype not in FLOATS:
        fail(op, argument, "be float32, float64, float16 or bfloat16", value.dtype, TypeError)
    if n_dim is None and value.dim() == 0:
        fail(op, argument, "have 1 dimension or more", 0)
    if n_dim is not None and value.dim() != n_dim:
        shape = tuple(value.shape)
        fail(op, argument, f"have {n_dim} dimension{'s' * (n_dim != 1)}", f"{len(shape)} (shape {shape})")


def check_like(
    op: str, argument: str, value: Tensor, model_argument: str, model: Tensor, dtype: torch.dtype | None = None
) -> None:
    """``value`` has the dtype and device of ``model``; with ``dtype``, this one, which is the result's."""
    if value.dtype != (dtype or model.dtype):
        of = f"{model_argument} ({model.dtype})" if dtype is None else f"the result ({dtype})"
        fail(op, argument, f"have the dtype of {of}", value.dtype, TypeError)
    if value.device != model.device:
        fail(op, argument, f"be on the device of {model_argument} ({model.device})", value.device)


def check_choice(op: str, argument: str, value: object, choices: Collection[str]) -> None:
    """``value`` is one of ``choices``."""
    if value not in choices:
        fail(op, argument, f"be one of {', '.join(map(repr, choices))}", repr(value))


def check_size(op: str, argument: str, value: object, least: int) -> None:
    """``value`` is an integer of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool):
        fail(op, argument, "be an integer", type(value).__name__, TypeError)
    if value < least:
        fail(op, argument, f"be at least {least}", value)


def check_fraction(op: str, argument: str, value: float) -> None:
    """``value`` is a number in [0, 1]."""
    if not isinstance(value, (int, float)):
        fail(op, argument, "be a number", type(value).__name__, TypeError)
    if not 0.0 <= value <= 1.0:
        fail(op, argument, "lie in [0, 1]", value)


def has_contents(tensor: Tensor) -> bool:
    """Whether a tensor has elements to look at: not on the meta device, and not under FakeTensorMode."""
    return not tensor.is_meta and not is_fake(tensor)


def autocast_enabled(device_type: str) -> bool:
    """Whether an autocast region is active for the device; False for devices that know none (meta)."""
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)


def float32_under_autocast(value: Tensor) -> Tensor:
    """16-bit tensors become float32 inside an autocast region, as losses do in torch."""
    if value.dtype in (torch.float16, torch.bfloat16) and autocast_enabled(value.device.type):
        return value.float()
    return value


def checked_rows(op: str, **rows: Tensor) -> list[Tensor]:
    """The named (.., D) tensors of one dtype and device, expanded to one shape, in order; float32 under autocast."""
    given = list(rows.values())
    if _are_alike(given):
        return given
    for argument, value in rows.items():
        check_tensor(op, argument, value)
    (first_name, first), *others = [(name, float32_under_autocast(value)) for name, value in rows.items()]
    shape = first.shape
    for name, value in others:
        check_like(op, name, value, first_name, first)
        if value.shape != shape:
            if value.shape[-1] != shape[-1]:
                fail(op, name, f"be as wide as {first_name} ({shape[-1]}, its last dimension)", value.shape[-1])
            try:
                shape = torch.broadcast_shapes(shape, value.shape)
            except RuntimeError:
                fail(op, name, f"have a shape that broadcasts with {tuple(shape)}", tuple(value.shape))
    return [value if value.shape == shape else value.expand(shape) for value in (first, *(v for _, v in others))]


def _are_alike(rows: list[Tensor]) -> bool:
    """Whether tensors pass all checks at first sight, as they nearly always do: checks are most of a call."""
    first = rows[0]
    if not isinstance(first, Tensor):
        return False
    dtype, shape, device = first.dtype, first.shape, first.device
    if (dtype is not torch.float32 and dtype is not torch.float64) or not shape:
        return False
    for value in rows:
        if not isinstance(value, Tensor) or value.dtype is not dtype or value.shape != shape:
            return False
        if value.device != device or value.layout is not torch.strided or value.is_nested:
            return False
    return True


def check_csr(
    op: str,
    argument: str,
    x: Csr,
    *,
    n_rows: int | None = None,
    n_cols: int | None = None,
    device: torch.device | None = None,
    ordered: bool = True,
) -> None:
    """``x`` is a well-formed `Csr`: offsets rise from 0 to nnz, columns lie in range and, if ``ordered``, rise strictly
    within a row.

    The contents are looked at on the CPU only, for elsewhere one would wait for the device (there, too, with
    ``DMREC_CHECK_CSR=1`` in the environment), and not while compiling.
    """
    if not isinstance(x, Csr):
        fail(op, argument, "be a dmrec_ext.Csr", type(x).__name__, TypeError)
    for part, tensor in (("crow", x.crow), ("col", x.col)):
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.int64 or tensor.dim() != 1:
            got = f"{tensor.dtype} {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
            fail(op, f"{argument}.{part}", "be an int64 tensor of one dimension", got, TypeError)
    if x.crow.numel() == 0:
        fail(op, f"{argument}.crow", "have one entry more than rows", 0)
    if not isinstance(x.n_cols, int) or x.n_cols < 0:
        fail(op, f"{argument}.n_cols", "be an integer of at least 0", repr(x.n_cols), TypeError)
    if x.values is not None:
        check_tensor(op, f"{argument}.values", x.values, 1)
        if x.values.shape != x.col.shape:
            fail(op, f"{argument}.values", f"have the shape of col {tuple(x.col.shape)}", tuple(x.values.shape))
    for part, other in (("crow", x.crow), ("values", x.values)):
        if other is not None and other.device != x.col.device:
            fail(op, f"{argument}.{part}", f"be on the device of col ({x.col.device})", other.device)
    if device is not None and x.col.device != device:
        fail(op, argument, f"be on the device of the other arguments ({device})", x.col.device)
    if n_rows is not None and x.n_rows != n_rows:
        fail(op, argument, f"have {n_rows} rows", x.n_rows)
    if n_cols is not None and x.n_cols != n_cols:
        fail(op, argument, f"have {n_cols} columns", x.n_cols)
    looked_at = x.col.device.type == "cpu" or CHECK_CSR_EVERYWHERE
    if looked_at and not torch.compiler.is_compiling() and has_contents(x.col):
        natively = ordered and x.col.device.type == "cpu" and runs_native("csr_aggregate", x.col)
        if not (natively and _is_valid(x)):
            _check_csr_contents(op, argument, x, ordered)


_known_as_valid = WeakTensorKeyDictionary()
"""By ``col``: the rest of a matrix that was valid, as it was. A graph is propagated over in every step."""


def _is_valid(x: Csr) -> bool:
    """Whether the operator's own check, in one pass, finds nothing; not made again for the same tensors unchanged.

    What numpy or another process changes in their memory is not seen; operators check what they would read, themselves.
    """
    if x.crow.is_inference() or x.col.is_inference():  # no count of changes
        return bool(torch.ops.dmrec_ext._csr_is_valid(x.crow, x.col, x.n_cols))
    state = (x.crow._version, x.col._version, x.n_cols)
    known = _known_as_valid.get(x.col)
    if known is not None and known[0]() is x.crow and known[1] == state:
        return True
    valid = bool(torch.ops.dmrec_ext._csr_is_valid(x.crow, x.col, x.n_cols))
    if valid:
        _known_as_valid[x.col] = (weakref.ref(x.crow), state)
    return valid


def _check_csr_contents(op: str, argument: str, x: Csr, ordered: bool) -> None:
    crow, col = x.crow, x.col
    if int(crow[0]) != 0 or int(crow[-1]) != col.numel() or bool((crow[1:] < crow[:-1]).any()):
        fail(op, f"{argument}.crow", f"rise from 0 to {col.numel()} (the number of columns stored)", crow.tolist()[:8])
    if col.numel() == 0:
        return
    low, high = (int(v) for v in torch.aminmax(col))
    if low < 0 or high >= x.n_cols:
        fail(op, f"{argument}.col", f"lie in [0, {x.n_cols})", f"values from {low} to {high}")
    if not ordered:
        return
    rising = col[1:] > col[:-1]
    if not bool(rising.all()):
        row_starts = crow[1:-1]
        rising[row_starts[(row_starts > 0) & (row_starts < col.numel())] - 1] = True
        if not bool(rising.all()):
            hint = "columns out of order or repeated (scipy: sum_duplicates(), sort_indices())"
            fail(op, f"{argument}.col", "rise strictly within each row", hint)
