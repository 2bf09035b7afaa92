"""How fast a device multiplies matrices in either precision, measured once: what is fast on one is slow on another."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

SIZE = (256, 256, 512)  # 0.07 GFLOP: a millisecond on one core
SIZE_ON_CUDA = (4096, 1024, 4096)  # 34 GFLOP: smaller ones would measure what it takes to start a kernel
PASSES = 4
WORTH = 1.2  # how much faster bfloat16 must be: its results are wider apart, and copies of the items are made
CHOICE = "DMREC_FILTER"
_lock = threading.Lock()


class ProductSpeeds(NamedTuple):
    """Billions of floating-point operations a second that a device reaches in products of matrices."""

    float32: float
    bf16: float

    @property
    def faster(self) -> str:
        """``"bf16"`` where it is faster by more than it costs elsewhere, else ``"float32"``."""
        return "bf16" if self.bf16 > WORTH * self.float32 else "float32"


def product_speeds(device: str | torch.device = "cpu") -> ProductSpeeds:
    """What products of float32 and of bfloat16 matrices reach on a device, with the threads that torch has now.

    Measured once for each device and number of threads in a process, in some 10 ms; on a GPU that waits for it.

    Args:
        device: ``"cpu"``, ``"cuda"`` or a device of torch.

    Returns:
        Both rates, in GFLOP/s: the best of four products each.

    >>> product_speeds("cpu").float32 > 0
    True
    """
    device = torch.device(device)
    with _lock:
        return _measured(str(device), torch.get_num_threads())


def fastest_precision(device: str | torch.device = "cpu") -> str:
    """``"bf16"`` or ``"float32"``: whichever multiplies matrices faster on a device, by `product_speeds`.

    The environment variable ``DMREC_FILTER`` decides instead, where it is set to one of the two.

    Raises:
        ValueError: ``DMREC_FILTER`` is something else.
    """
    chosen = os.environ.get(CHOICE)
    if chosen is None:
        return product_speeds(device).faster
    if chosen not in ("float32", "bf16"):
        raise ValueError(f"{CHOICE} must be float32 or bf16, got {chosen!r}")
    return chosen


@functools.cache
def _measured(device: str, threads: int) -> ProductSpeeds:
    del threads  # torch's number now
    m, k, n = SIZE_ON_CUDA if torch.device(device).type == "cuda" else SIZE
    with torch.no_grad(), torch.autocast(torch.device(device).type, enabled=False):
        # not torch.randn: the caller's random numbers stay as they are
        a, b = (torch.linspace(-1, 1, rows * k, device=device).view(rows, k) for rows in (m, n))
        out = torch.empty(m, n, device=device)
        kinds = [(a, b, out), (a.bfloat16(), b.bfloat16(), out.bfloat16())]
        taken: list[list[float]] = [[], []]
        for _ in range(PASSES + 1):  # in turns, as something else may run; the first one loads and compiles
            for factors, seconds in zip(kinds, taken, strict=True):
                seconds.append(_seconds(torch.device(device), *factors))
    return ProductSpeeds(*(round(2e-9 * m * k * n / min(seconds[1:]), 1) for seconds in taken))


def _seconds(device: torch.device, a: Tensor, b: Tensor, out: Tensor) -> float:
    wait: Callable[[], None] = (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    torch.mm(a, b.T, out=out)
    wait()
    return time.perf_counter() - started
