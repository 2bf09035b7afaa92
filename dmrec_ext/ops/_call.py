"""Calls operators whose autograd is registered with torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._torch_private import AutoDispatchBelowAutograd, is_jit_tracing


def wants_gradient(inputs: Sequence[Any]) -> bool:
    """Whether autograd is to record what is done with ``inputs``."""
    return torch.is_grad_enabled() and any(isinstance(value, Tensor) and value.requires_grad for value in inputs)


def call(operator: Any, *arguments: Any) -> Any:
    """``operator(*arguments)``; below torch's generic autograd, some 10 microseconds of Python, where it has no use."""
    if torch.compiler.is_compiling() or is_jit_tracing() or wants_gradient(arguments):
        return operator(*arguments)
    with AutoDispatchBelowAutograd():
        return operator(*arguments)
