"""Where and how a model runs: the device, the precision of matrix products, native or reference operators."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

import dmrec_ext
from dmrec_ext import Csr

from .errors import DmrecError, did_you_mean
from .sharding.ranks import ALONE, Ranks

DEVICES = ("cpu", "cuda", "auto")
CGROUP = Path("/sys/fs/cgroup/cpu.max")  # quota and period of a container, in microseconds
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Runtime:
    """How a run computes. ``precision`` is ``"float32"`` or ``"bf16"``, ``kernels`` ``"fused"`` or ``"reference"``."""

    device: torch.device
    precision: str = "float32"
    kernels: str = "fused"
    ranks: Ranks = ALONE  # the processes that compute together

    @contextmanager
    def operators(self) -> Iterator[None]:
        """Inside the context operators run natively, or all of them on the reference path."""
        with dmrec_ext.use_reference(self.kernels == "reference"):
            yield

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass: matrix products in bfloat16 where the precision says so."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def move(self, batch: Batch) -> Batch:
        """A batch from the CPU to the device."""
        return move(batch, self.device)

    def random_state(self) -> dict[str, Tensor]:
        """The state of every random number generator that a model draws from, as tensors on the CPU by name."""
        states = {"random": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["random.cuda"] = torch.cuda.get_rng_state(self.device)
        return states

    def set_random_state(self, states: Mapping[str, Tensor]) -> None:
        """Puts back what `random_state` returned; a generator without a saved state is left as it is."""
        if "random" in states:  # not where random numbers follow from the number of the step
            torch.set_rng_state(states["random"])
        if self.device.type == "cuda" and "random.cuda" in states:
            torch.cuda.set_rng_state(states["random.cuda"], self.device)

    def describe(self) -> dict[str, Any]:
        """What a figure depends on: the device and its name, threads, and the operators that run natively."""
        on_gpu = self.device.type == "cuda"
        native = [op for op in dmrec_ext.OPERATORS if dmrec_ext.native_path(op, self.device.type).native]
        return {
            "device": str(self.device),
            **({"gpu": torch.cuda.get_device_name(self.device)} if on_gpu else {}),
            "threads": torch.get_num_threads(),
            "native_operators": native,
            **({"ranks": self.ranks.size} if self.ranks.size > 1 else {}),
        }


def slow_precision(precision: str, device: torch.device) -> str | None:
    """What to tell whoever asked for bfloat16 on a device that multiplies float32 faster; None elsewhere."""
    if precision != "bf16":
        return None
    speeds = dmrec_ext.product_speeds(device)
    if speeds.bf16 >= speeds.float32:
        return None
    return (
        f"--precision bf16 is slower than float32 here: products reach {speeds.bf16:.0f} GFLOP/s, in float32 "
        f"{speeds.float32:.0f} (dmrec doctor --speed); --precision auto takes the faster one"
    )


def usable_processors() -> int:
    """The number of processors that this process may use: by its affinity, and by the quota of its container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = CGROUP.read_text(encoding="utf-8").split()[:2]
        if quota != "max":
            count = min(count, max(1, math.ceil(int(quota) / int(period))))
    return count


def limit_threads() -> None:
    """Lets torch use no more threads than this process has processors, unless the environment says how many."""
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > usable_processors():
        torch.set_num_threads(usable_processors())


def resolve_device(name: str) -> torch.device:
    """The device called ``name``: ``"auto"`` is the GPU where there is one, else the CPU.

    Raises:
        DmrecError: the name is unknown, or there is no GPU that torch can use.
    """
    kind, _, number = name.partition(":")
    if kind not in DEVICES or (number and (kind != "cuda" or not number.isdecimal())):
        raise DmrecError(f"unknown device '{name}'{did_you_mean(name, DEVICES)}")
    if kind == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda" and not torch.cuda.is_available():
        built = (
            f"torch {torch.__version__} finds no GPU"
            if torch.version.cuda
            else f"torch {torch.__version__} is a build without CUDA"
        )
        raise DmrecError(f"device 'cuda' cannot be used: {built}; choose cpu or auto")
    if number and int(number) >= torch.cuda.device_count():
        raise DmrecError(f"device '{name}' does not exist: torch finds {torch.cuda.device_count()} GPUs")
    return torch.device(name)


def device_of(name: str, ranks: Ranks) -> torch.device:
    """The device of this process: of several on one machine, each has a GPU of its own.

    Raises:
        DmrecError: see `resolve_device`.
    """
    device = resolve_device(name)
    if device.type != "cuda" or ranks.size == 1:
        return device
    return resolve_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")


def move(value: Batch, device: torch.device) -> Batch:
    """Tensors, and tuples of them at any depth, to ``device``; to a GPU from pinned memory, without waiting for it."""
    if isinstance(value, Tensor | Csr):
        if device.type == "cuda" and value.device.type == "cpu":
            return value.pin_memory().to(device, non_blocking=True)  # type: ignore[return-value]
        return value.to(device)  # type: ignore[return-value]
    if isinstance(value, tuple):
        moved = (move(each, device) for each in value)
        return type(value)(*moved) if hasattr(value, "_fields") else type(value)(moved)
    return value
