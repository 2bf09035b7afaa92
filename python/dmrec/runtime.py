"""Where tensors live: the device that a run computes on."""

from __future__ import annotations

import torch

from .errors import DmrecError, did_you_mean

DEVICES = ("cpu", "cuda", "auto")


def resolve_device(name: str) -> torch.device:
    """The torch device called ``name``: "cpu", "cuda", or "auto" for CUDA where there is a GPU and the CPU elsewhere.

    Raises:
        DmrecError: the name is not one of these, or torch does not see a GPU.
    """
    if name not in DEVICES:
        raise DmrecError(f"unknown device '{name}'{did_you_mean(name, DEVICES)}")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise DmrecError(
            f"the device 'cuda' needs a GPU, and torch {torch.__version__} does not see one; choose 'cpu' or 'auto'"
        )
    return torch.device("cuda" if available and name != "cpu" else "cpu")
