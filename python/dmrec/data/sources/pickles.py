"""Pickles of matrices and texts, as RLMRec and DMRec ship them, without running anything in them.

A pickle is a program for a small machine, whose instructions name Python's functions and call them. Here another one
reads it: it knows the instructions that arrays, matrices, dictionaries and lists need, takes names for words, and
calls nothing. It builds plain values, arrays from their bytes, and stand-ins for matrices, made from checked parts.
"""

from __future__ import annotations

import math
import pickletools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from ...errors import DmrecError
from ..entities import clean

NUMBERS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}
LARGEST = 100_000_000  # rows or columns of a matrix

_NUMPY = ("numpy.core", "numpy._core")
NAMES = {
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "_codecs encode": "encode",
    **{f"{core}.multiarray _reconstruct": "reconstruct" for core in _NUMPY},
    **{f"{core}.multiarray scalar": "scalar" for core in _NUMPY},
    **{f"{core}.numeric _frombuffer": "frombuffer" for core in _NUMPY},
    **{
        f"scipy.sparse.{module} {kind}_{container}": kind
        for kind in ("csr", "csc", "coo")
        for module in (kind, f"_{kind}")
        for container in ("matrix", "array")
    },
}
"""The names that may be in a pickle, and what they are called here."""


class _Name(NamedTuple):
    what: str


@dataclass
class _DType:
    """numpy.dtype: the code of a kind of number, and its byte order."""

    code: str
    order: str = ""

    def array(self, content: bytes | bytearray, shape: tuple[Any, ...], fortran: bool) -> np.ndarray:
        """The array of these bytes."""
        if self.code not in NUMBERS:
            raise ValueError(f"arrays of numbers are read, not of '{clean(self.code, 20)}'")
        if not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError("an array without a shape")
        array = np.frombuffer(content, np.dtype(self.order + self.code))
        if array.size != math.prod(shape):
            raise ValueError(f"an array of shape {shape} with {array.size} numbers")
        return array.reshape(shape, order="F" if fortran else "C")


@dataclass
class _Array:
    """numpy.ndarray, empty until its state comes."""

    values: np.ndarray | None = None


@dataclass
class _Sparse:
    """A matrix of scipy: its attributes, whichever it has."""

    kind: str
    parts: dict[Any, Any] = field(default_factory=dict)

    def matrix(self) -> sp.csr_matrix:
        """The matrix, its indices in range."""
        shape = self.parts.get("_shape")
        if not isinstance(shape, tuple) or not all(type(n) is int and 0 <= n <= LARGEST for n in shape):
            raise ValueError(f"a matrix without a shape, or beyond {LARGEST} rows or columns")
        if self.kind == "coo":
            coordinates = self.parts.get("coords") or (self.parts.get("row"), self.parts.get("col"))
            row, column = (_integers(part) for part in coordinates)
            return sp.coo_matrix((_numbers(self.parts.get("data")), (row, column)), shape=shape).tocsr(copy=True)
        indices, starts = _integers(self.parts.get("indices")), _integers(self.parts.get("indptr"))
        make = {"csr": sp.csr_matrix, "csc": sp.csc_matrix}[self.kind]
        made = make((_numbers(self.parts.get("data")), indices, starts), shape=shape)
        made.check_format(full_check=True)
        return made.tocsr(copy=True)


def _numbers(part: object) -> np.ndarray:
    if not isinstance(part, _Array) or part.values is None or part.values.ndim != 1:
        raise ValueError("a matrix with a part that is not an array")
    return part.values


def _integers(part: object) -> np.ndarray:
    values = _numbers(part)
    if values.dtype.kind not in "iu":
        raise ValueError(f"a matrix with indices of type {values.dtype}")
    return values


def read_pickle(path: Path) -> np.ndarray | sp.csr_matrix | dict[Any, Any] | list[Any]:
    """The array, sparse matrix, dictionary or list in a pickle; inside the last two, what they hold is not looked at.

    Raises:
        DmrecError: there is something else in it, or it is damaged. Nothing of it was run.
    """
    try:
        with path.open("rb") as file:
            value = _run(file)
        if isinstance(value, _Sparse):
            return value.matrix()
        if isinstance(value, _Array) and value.values is not None:
            return value.values
    except (FileNotFoundError, IsADirectoryError):
        raise DmrecError(f"{path} is not a file") from None
    except Exception as error:  # whatever a damaged or malicious one brings about
        why = clean(str(error), 200) or type(error).__name__
        raise DmrecError(f"{path} is not a pickle of a matrix or of texts ({why})") from None
    if not isinstance(value, dict | list):
        raise DmrecError(f"{path} holds no matrix and no texts, but {type(value).__name__.strip('_')}")
    return value


PLAIN = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
"""Instructions that push their argument."""


def _run(file: Any) -> object:
    """The value that a pickle builds. Instructions are those of pickletools, which decodes them."""
    stack: list[Any] = []
    marked: list[list[Any]] = []  # the stacks below the marks
    memo: dict[Any, Any] = {}
    for instruction, argument, _ in pickletools.genops(file):
        match instruction.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case name if name in PLAIN:
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE" as name:
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "MARK":
                marked.append(stack)
                stack = []
            case "POP":
                stack.pop()
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_TUPLE" as name:
                stack.append({"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}[name]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                stack[-int(name[-1]) :] = [tuple(stack[-int(name[-1]) :])]
            case "APPEND" | "SETITEM" as name:
                count = 1 if name == "APPEND" else 2
                values, stack[-count:] = stack[-count:], []
                _extend(stack[-1], values)
            case "LIST" | "TUPLE" | "DICT" | "APPENDS" | "SETITEMS" as name:
                values, stack = stack, marked.pop()
                if name == "TUPLE":
                    stack.append(tuple(values))
                elif name in ("LIST", "DICT"):
                    stack.append(_extend([] if name == "LIST" else {}, values))
                else:
                    _extend(stack[-1], values)
            case "GLOBAL":
                stack.append(_named(str(argument)))
            case "STACK_GLOBAL":
                stack[-2:] = [_named(f"{stack[-2]} {stack[-1]}")]
            case "REDUCE" | "NEWOBJ":
                stack[-2:] = [_made(stack[-2], stack[-1])]
            case "BUILD":
                state = stack.pop()
                _complete(stack[-1], state)
            case name:
                raise ValueError(f"it has an instruction that matrices and texts do not need: {name}")
    raise ValueError("it ends too early")


def _named(name: str) -> _Name:
    if name not in NAMES:
        raise ValueError(f"it names {name.replace(' ', '.')}, which is not read: a pickle could run anything")
    return _Name(NAMES[name])


def _extend(container: object, values: list[Any]) -> object:
    """Appends to a list, or sets keys and values of a dictionary; keys are words or numbers."""
    if isinstance(container, list):
        container.extend(values)
    elif isinstance(container, dict) and len(values) % 2 == 0:
        if not all(isinstance(key, str | int | float | bytes | None) for key in values[::2]):
            raise ValueError("a dictionary with keys that are neither words nor numbers")
        container.update(zip(values[::2], values[1::2], strict=True))
    else:
        raise ValueError("something is added to what is neither a list nor a dictionary")
    return container


def _made(function: object, arguments: object) -> object:
    """What a named function would give, or a stand-in of it."""
    match function, arguments:
        case _Name("dtype"), (str(code), *_):
            return _DType(code)
        case _Name("reconstruct"), (_Name("ndarray"), *_):
            return _Array()
        case _Name("frombuffer"), (bytes() | bytearray() as content, _DType() as dtype, tuple(shape), order):
            return _Array(dtype.array(content, shape, order == "F"))
        case _Name("scalar"), (_DType() as dtype, bytes() as content):
            return dtype.array(content, (), False).item()
        case _Name("encode"), (str(text), "latin1"):  # bytes in old pickles are text in Latin-1
            return text.encode("latin1")
        case _Name("csr" | "csc" | "coo" as kind), ():
            return _Sparse(kind)
    raise ValueError("it calls something with what does not belong there")


def _complete(value: object, state: object) -> None:
    """Gives a stand-in its state."""
    match value, state:
        case _DType(), (int(), "<" | ">" | "=" | "|" as order, None, None, *_):
            value.order = "" if order in "=|" else order
        case _Array(), (int(), tuple(shape), _DType() as dtype, fortran, bytes() | bytearray() as content):
            value.values = dtype.array(content, shape, bool(fortran))
        case _Sparse(), dict(parts):
            value.parts = dict(parts)
        case _:
            raise ValueError("arrays of numbers and matrices are read, nothing else that has a state")
