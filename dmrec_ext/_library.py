"""Loads the native library and knows, for each operator, which path runs and why.

A stem (``gaussian_kl``) runs natively on a device type where the library has a kernel for it, on the reference path
elsewhere. ``DMREC_NATIVE=0`` in the environment keeps the library out, `use_reference` a region of code.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from ._torch_private import has_kernel, transformed

OPERATORS = (
    "gaussian_kl",
    "gaussian_w2",
    "composite_prior",
    "matching_loss",
    "csr_aggregate",
    "rank_topk",
    "multinomial_nll",
    "residual_quantize",
    "code_alignment",
)
_DISPATCH_KEYS = {"cpu": "CPU", "cuda": "CUDA"}
_KERNELS = {"multinomial_nll": "multinomial_terms"}  # where its name is not the operator's


class PathInUse(NamedTuple):
    """Which implementation of an operator runs on a device type, and the reason."""

    native: bool
    detail: str


def _load(name: str) -> str | None:
    """Loads a native library; returns why it is not there, or None."""
    if os.environ.get("DMREC_NATIVE") == "0":
        return "DMREC_NATIVE=0 is set"
    files = sorted(Path(__file__).parent.glob(f"{name}.*so"))
    if not files:
        return "no compiled library was installed"
    try:
        torch.ops.load_library(files[0])
    except OSError as error:
        return f"{files[0].name} does not load with torch {torch.__version__}: {error}"
    return None


def _load_cuda() -> str | None:
    """Loads ``_C_cuda``, whose operators ``_C`` defines; returns why it is not there, or None."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is not a CUDA build"
    return NATIVE_ABSENT or _load("_C_cuda")


def _native_devices(stem: str) -> frozenset[str]:
    if NATIVE_ABSENT is not None:
        return frozenset()
    try:
        return frozenset(
            d for d, key in _DISPATCH_KEYS.items() if has_kernel(f"dmrec_ext::{_KERNELS.get(stem, stem)}", key)
        )
    except RuntimeError:  # the library defines no such operator yet
        return frozenset()


NATIVE_ABSENT = _load("_C")
CUDA_ABSENT = _load_cuda()
NATIVE = {stem: _native_devices(stem) for stem in OPERATORS}
if NATIVE_ABSENT is not None:
    warnings.warn(f"dmrec_ext runs on its reference path: {NATIVE_ABSENT}", RuntimeWarning, stacklevel=2)
elif CUDA_ABSENT is not None and torch.cuda.is_available():
    warnings.warn(f"dmrec_ext runs on its reference path on CUDA: {CUDA_ABSENT}", RuntimeWarning, stacklevel=2)


_reference_wanted = False


@contextmanager
def use_reference(wanted: bool = True) -> Iterator[None]:
    """Inside the context all operators run on their reference path, whatever is native.

    Compiled functions are traced again on entering it. Not for several threads at once.

    >>> with use_reference():
    ...     native_path("gaussian_kl", "cpu").detail
    'use_reference() is in force'
    """
    global _reference_wanted
    before, _reference_wanted = _reference_wanted, wanted
    try:
        yield
    finally:
        _reference_wanted = before


@functools.cache
def _cuda_problem(device: int) -> str:
    """Why the compiled kernels cannot run on a CUDA device (another architecture, an old driver); empty if they can."""
    problem: str = torch.ops.dmrec_ext._cuda_problem(device)
    if problem:
        warnings.warn(f"dmrec_ext runs on its reference path on cuda:{device}: {problem}", RuntimeWarning, stacklevel=3)
    return problem


if CUDA_ABSENT is None:  # not without a GPU's library: the decorator imports the compiler, half the time of our import
    _cuda_problem = torch.compiler.assume_constant_result(_cuda_problem)


def runs_native(stem: str, tensor: object) -> bool:
    """Whether ``stem`` runs natively on ``tensor``: its device has a kernel, and only reverse mode is needed.

    False for what is not a tensor, inside torch.func transforms and forward-mode differentiation, and `use_reference`.
    """
    if _reference_wanted or not isinstance(tensor, torch.Tensor) or tensor.device.type not in NATIVE[stem]:
        return False
    if tensor.is_cuda and _cuda_problem(tensor.get_device()):
        return False
    return not transformed()


def native_path(stem: str, device_type: str) -> PathInUse:
    """The path of an operator on ``"cpu"`` or ``"cuda"``, with the reason."""
    if _reference_wanted:
        return PathInUse(False, "use_reference() is in force")
    if device_type in NATIVE[stem]:
        if device_type == "cpu":
            return PathInUse(True, torch.ops.dmrec_ext._cpu_capability())
        if not torch.cuda.is_available():
            return PathInUse(True, "compiled kernels, no GPU")
        problem = _cuda_problem(torch.cuda.current_device())
        return PathInUse(not problem, problem or "compiled kernels")
    absent = CUDA_ABSENT if device_type == "cuda" else NATIVE_ABSENT
    return PathInUse(False, absent or f"no native {device_type.upper()} kernel in this version")
