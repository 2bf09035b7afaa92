"""Times steps on a device: CUDA events on a GPU, the host's clock on the CPU; inputs rotate so that caches do not help.

A step of a GPU is queued, so the host's clock would time the queue. Events are marks in the queue itself. Every step of
a contender takes the next of several copies of its inputs, together larger than the cache, as a training loop does.
"""

from __future__ import annotations

import math
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch

PASSES, WARM_UP, LEAST_SECONDS, MOST_COPIES = 5, 3, 0.2, 64
QUERY = (
    "name",
    "driver_version",
    "clocks.sm",
    "clocks.mem",
    "temperature.gpu",
    "power.draw",
    "clocks_throttle_reasons.active",
)
Step = Callable[[int], Any]  # takes the number of the copy of the inputs


class HostClock:
    """Seconds of steps on the CPU."""

    def seconds(self, step: Step, rounds: int, copies: int) -> float:
        """Mean seconds of one of ``rounds`` steps."""
        started = time.perf_counter()
        for number in range(rounds):
            step(number % copies)
        return (time.perf_counter() - started) / rounds

    def wait(self) -> None:
        """Nothing is queued."""


class EventClock:
    """Seconds of steps on the current GPU, from events before and after all of them."""

    def seconds(self, step: Step, rounds: int, copies: int) -> float:
        """Mean seconds of one of ``rounds`` steps."""
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        for number in range(rounds):
            step(number % copies)
        last.record()
        last.synchronize()
        return 1e-3 * first.elapsed_time(last) / rounds

    def wait(self) -> None:
        """Until everything that is queued is done."""
        torch.cuda.synchronize()


Clock = HostClock | EventClock


def clock_of(device: torch.device) -> Clock:
    """The clock for a device."""
    return EventClock() if device.type == "cuda" else HostClock()


def copies_of(n_bytes: int, cache: int) -> int:
    """How many copies of inputs of ``n_bytes`` are twice as large as a cache of ``cache`` bytes."""
    return min(MOST_COPIES, max(1, math.ceil(2 * cache / max(n_bytes, 1))))


def cache_bytes(device: torch.device) -> int:
    """The last cache of a device; of a CPU a guess that is large enough."""
    return int(torch.cuda.get_device_properties(device).L2_cache_size) if device.type == "cuda" else 64 << 20


def race(contenders: dict[str, Step], copies: int, clock: Clock, passes: int = PASSES) -> dict[str, list[float]]:
    """Seconds of each contender in each pass; in a pass all take turns, so that a drift of clocks meets all alike."""
    rounds = {}
    for name, step in contenders.items():
        clock.seconds(step, WARM_UP, copies)
        clock.wait()
        rounds[name] = max(3, math.ceil(LEAST_SECONDS / max(clock.seconds(step, WARM_UP, copies), 1e-6) / passes))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(passes):
        for name, step in contenders.items():
            times[name].append(clock.seconds(step, rounds[name], copies))
    return times


def floors(device: torch.device, clock: Clock, size: int = 8192, n_bytes: int = 1 << 30) -> dict[str, float]:
    """What the device reaches: gigabytes a second of a copy, read and written, and teraflops of square products."""
    source = torch.empty(n_bytes // 4, device=device).normal_()
    target = torch.empty_like(source)
    found = {"copy, GB/s": 2e-9 * n_bytes / _median(lambda _: target.copy_(source), clock)}
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    for name, precision in (("float32", "highest"), ("tf32", "high")):
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        try:
            found[f"{name} product, TFLOP/s"] = 2e-12 * size**3 / _median(lambda _: torch.mm(a, b), clock)
        finally:
            torch.set_float32_matmul_precision(before)
    half = a.bfloat16(), b.bfloat16()
    found["bfloat16 product, TFLOP/s"] = 2e-12 * size**3 / _median(lambda _: torch.mm(*half), clock)
    return {name: round(value, 3) for name, value in found.items()}


def _median(step: Step, clock: Clock) -> float:
    return statistics.median(race({"step": step}, 1, clock)["step"])


def notes() -> dict[str, str]:
    """Name, driver, clocks, temperature, power and throttling of the GPU now, or why they are not known."""
    if shutil.which("nvidia-smi") is None:
        return {"absent": "nvidia-smi is not installed"}
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader", "--id=0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        return {"absent": (done.stderr or done.stdout).strip().splitlines()[-1]}
    return dict(zip(QUERY, (value.strip() for value in done.stdout.strip().split(",")), strict=False))


def extra_bytes(step: Step, device: torch.device) -> int | None:
    """Peak of what a step allocates on a GPU above what was there; None on the CPU, which `memory` measures."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step(0)
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated(device) - before)
