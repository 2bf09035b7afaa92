"""Pickles of matrices and texts, as RLMRec and DMRec ship them, without running anything that stands in them.

A pickle is a program: it names functions and calls them. Here it may name a dozen, and gets stand-ins for those, which
keep what they are given. No class of numpy or scipy is made by a pickle; matrices are made afterwards, from checked
parts.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from ..errors import DmrecError

NUMBERS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}


class _DType:
    """numpy.dtype: the code of a kind of number, and its byte order."""

    def __init__(self, code: str, align: object = False, copy: object = True) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "=", "|") or state[2] is not None or state[3] is not None:
            raise pickle.UnpicklingError(f"arrays of {state[2] or self.code} are not read")
        self.order = "=" if state[1] == "|" else state[1]

    def of(self, content: bytes | bytearray, shape: tuple[int, ...], fortran: bool) -> np.ndarray:
        """The array with these bytes."""
        if self.code not in NUMBERS:
            raise pickle.UnpicklingError(f"arrays of numbers are read, not of '{self.code}'")
        if not isinstance(content, bytes | bytearray) or not all(type(n) is int and n >= 0 for n in shape):
            raise pickle.UnpicklingError("an array without bytes or shape")
        array = np.frombuffer(content, np.dtype(("" if self.order == "=" else self.order) + self.code))
        if array.size != math.prod(shape):
            raise pickle.UnpicklingError(f"an array of shape {shape} with {array.size} numbers")
        return array.reshape(shape, order="F" if fortran else "C")


class _Array:
    """numpy.ndarray."""

    array: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        self.array = dtype.of(content, shape, fortran)


class _Sparse:
    """A matrix class of scipy: its attributes, whichever it has."""

    kind: str

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.parts = dict(state)

    def matrix(self) -> sp.csr_matrix:
        """The matrix, checked."""
        rows, columns = self.parts["_shape"]
        if self.kind == "coo":
            data, coordinates = self.parts["data"].array, self.parts.get("coords")
            row, col = coordinates or (self.parts["row"], self.parts["col"])
            return sp.coo_matrix((data, (row.array, col.array)), shape=(rows, columns)).tocsr(copy=True)
        content = tuple(self.parts[name].array for name in ("data", "indices", "indptr"))
        made = {"csr": sp.csr_matrix, "csc": sp.csc_matrix}[self.kind](content, shape=(rows, columns))
        made.check_format(full_check=True)
        return made.tocsr(copy=True)


class _Csr(_Sparse):
    kind = "csr"


class _Csc(_Sparse):
    kind = "csc"


class _Coo(_Sparse):
    kind = "coo"


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _frombuffer(content: bytes, dtype: _DType, shape: tuple[int, ...], order: str) -> _Array:
    made = _Array()
    made.array = dtype.of(content, shape, order == "F")
    return made


def _scalar(dtype: _DType, content: bytes) -> object:
    return dtype.of(content, (), False).item()


def _encode(text: str, encoding: str) -> bytes:
    """Bytes in old pickles are text in Latin-1."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding '{encoding}'")
    return text.encode("latin1")


_NUMPY = ("numpy.core", "numpy._core")
ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    **{(f"{core}.multiarray", "_reconstruct"): _reconstruct for core in _NUMPY},
    **{(f"{core}.multiarray", "scalar"): _scalar for core in _NUMPY},
    **{(f"{core}.numeric", "_frombuffer"): _frombuffer for core in _NUMPY},
    **{
        (f"scipy.sparse.{module}", f"{stand_in.kind}_{kind}"): stand_in
        for stand_in in (_Csr, _Csc, _Coo)
        for module in (stand_in.kind, f"_{stand_in.kind}")
        for kind in ("matrix", "array")
    },
}
"""What a pickle may name, and what it gets."""


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """Refuses everything but `ADMITTED`."""
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not read: a pickle could run anything")
        return ADMITTED[module, name]


def read_pickle(path: Path) -> np.ndarray | sp.csr_matrix | dict[Any, Any] | list[Any]:
    """The array, sparse matrix, dictionary or list in a pickle; inside the last two, what they hold is not looked at.

    Raises:
        DmrecError: there is something else in it, or it is damaged. Nothing of it was run.
    """
    try:
        with path.open("rb") as file:
            value = _Restricted(file).load()
        if isinstance(value, _Sparse):
            return value.matrix()
        if isinstance(value, _Array):
            return value.array
    except FileNotFoundError:
        raise DmrecError(f"{path} does not exist") from None
    except Exception as error:  # whatever a damaged or malicious one brings about
        raise DmrecError(f"{path} is no pickle of a matrix or of texts ({error})") from None
    if not isinstance(value, dict | list):
        raise DmrecError(f"{path} holds no matrix and no texts, but {type(value).__name__.strip('_')}")
    return value
