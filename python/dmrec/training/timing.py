"""Where the time of an epoch goes."""

from __future__ import annotations

import time

TRAINING = ("data", "forward", "backward", "optimiser", "other")
"""The phases of training itself; ``evaluation`` and ``saving`` are counted apart."""


class PhaseTimer:
    """Adds the seconds since the last lap to the phase that has just ended.

    On a GPU these are the host's: its work is queued, and its time shows where the host waits for it.
    """

    def __init__(self, spent: dict[str, float]) -> None:
        self.spent = spent
        self.last = time.perf_counter()

    def restart(self) -> None:
        """Leaves out the time since the last lap."""
        self.last = time.perf_counter()

    def lap(self, phase: str) -> float:
        """Ends a phase; returns its seconds."""
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        self.spent[phase] = self.spent.get(phase, 0.0) + seconds
        return seconds
