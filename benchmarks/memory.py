"""Peak memory of a step above what was there before it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile


def peak_bytes(step: Callable[[], Any]) -> int:
    """Peak of what ``step()`` allocates through torch, results included, plus that of numpy and Python."""
    tracemalloc.start()
    step()
    _, elsewhere = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = step()
    del result
    now = peak = 0
    events = profiler.profiler.kineto_results.events()
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak + elsewhere
