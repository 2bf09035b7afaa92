"""How much may be asked of a language model, how fast, and how much was."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limits:
    """Of a run: ``calls`` and ``tokens`` are budgets, ``attempts`` are those of one prompt, ``timeout`` is in seconds.

    ``backoff`` is the first wait before another attempt, in seconds, doubled each time, up to a minute.
    """

    attempts: int = 6
    timeout: float = 60.0
    concurrency: int = 4
    per_minute: int | None = None
    calls: int | None = None
    tokens: int | None = None
    backoff: float = 1.0


class SpentError(Exception):
    """A budget does not allow another call, or the run was stopped."""


@dataclass
class Meter:
    """Lets calls begin within the limits and counts them, their tokens, and their faults by kind."""

    limits: Limits
    stopped: threading.Event
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    _reserved: int = 0
    _next: float = 0.0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def begin(self, tokens: int) -> None:
        """Waits for a call's turn; ``tokens``, the most it may take, are set aside until it ends."""
        with self._changed:
            while not self._fits(tokens) and not self.stopped.is_set():
                self._changed.wait(0.2)  # for calls under way, which may take less than is set aside for them
            self.calls += 1
            self._reserved += tokens
            now = time.monotonic()
            turn = max(self._next, now)
            self._next = turn + 60 / self.limits.per_minute if self.limits.per_minute else turn
        if self.stopped.wait(turn - now) if turn > now else self.stopped.is_set():
            with self._changed:
                self.calls -= 1
                self._reserved -= tokens
            raise SpentError("the run was stopped")

    def _fits(self, tokens: int) -> bool:
        """Whether the budgets allow another call beside those under way."""
        if self.limits.calls is not None and self.calls >= self.limits.calls:
            raise SpentError(f"the budget of {self.limits.calls} calls is spent")
        if self.limits.tokens is None:
            return True
        left = self.limits.tokens - self.input_tokens - self.output_tokens
        if tokens > left:
            raise SpentError(f"the budget of {self.limits.tokens} tokens is spent")
        return tokens + self._reserved <= left

    def end(self, tokens: int, input_tokens: int, output_tokens: int) -> None:
        """Takes what a call cost in place of the ``tokens`` set aside for it."""
        with self._changed:
            self._reserved -= tokens
            self.input_tokens += input_tokens
            self.output_tokens += output_tokens
            self._changed.notify_all()

    def fault(self, kind: str) -> None:
        """Counts a call without a usable answer."""
        with self._changed:
            self.faults[kind] += 1
