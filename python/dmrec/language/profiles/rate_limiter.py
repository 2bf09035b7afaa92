"""How many requests a language model may get, how fast, and how many tokens they used."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limits:
    """The limits of one run.

    Attributes:
        attempts: requests for one prompt before it has failed.
        timeout: seconds that a request may take.
        concurrency: requests at the same time.
        requests_per_minute: rate at which requests begin, None: not limited.
        max_calls: budget of requests, None: not limited.
        max_tokens: budget of tokens of prompts and responses, None: not limited.
        backoff: seconds before a second attempt, doubled each time, up to a minute.
    """

    attempts: int = 6
    timeout: float = 60.0
    concurrency: int = 4
    requests_per_minute: int | None = None
    max_calls: int | None = None
    max_tokens: int | None = None
    backoff: float = 1.0


@dataclass(frozen=True)
class Prices:
    """Prices of a million tokens of prompts (``input``) and of responses (``output``), in any currency."""

    input: float = 0.0
    output: float = 0.0

    def cost(self, input_tokens: int, output_tokens: int) -> float | None:
        """The cost of these tokens, None where no price is given."""
        if not self.input and not self.output:
            return None
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


class BudgetExceededError(Exception):
    """A budget does not allow another request, or the run was stopped."""


@dataclass
class UsageMeter:
    """Admits requests within the limits; counts them, their tokens, and their errors by kind. Threads may share it."""

    limits: Limits
    stopped: threading.Event
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    _reserved: int = 0
    _next: float = 0.0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def acquire(self, tokens: int) -> None:
        """Waits until a request may begin and reserves ``tokens``, the most that it may use, until `release`.

        Raises:
            BudgetExceededError: a budget is used up, or the run was stopped.
        """
        with self._changed:
            while not self._fits(tokens) and not self.stopped.is_set():
                self._changed.wait(0.2)  # for requests under way, which may use less than they reserve
            self.calls += 1
            self._reserved += tokens
            now = time.monotonic()
            turn = max(self._next, now)
            rate = self.limits.requests_per_minute
            self._next = turn + 60 / rate if rate else turn
        if self.stopped.wait(turn - now) if turn > now else self.stopped.is_set():
            with self._changed:
                self.calls -= 1
                self._reserved -= tokens
            raise BudgetExceededError("the run was stopped")

    def _fits(self, tokens: int) -> bool:
        """Whether the budgets allow another request in addition to those under way."""
        if self.limits.max_calls is not None and self.calls >= self.limits.max_calls:
            raise BudgetExceededError(f"the budget of {self.limits.max_calls} calls is used up")
        if self.limits.max_tokens is None:
            return True
        left = self.limits.max_tokens - self.input_tokens - self.output_tokens
        if tokens > left:
            raise BudgetExceededError(f"the budget of {self.limits.max_tokens} tokens is used up")
        return tokens + self._reserved <= left

    def release(self, reserved: int, input_tokens: int, output_tokens: int) -> None:
        """Replaces the tokens that were ``reserved`` for a request by those that it used."""
        with self._changed:
            self._reserved -= reserved
            self.input_tokens += input_tokens
            self.output_tokens += output_tokens
            self._changed.notify_all()

    def count_error(self, kind: str) -> None:
        """Counts a request without a usable response."""
        with self._changed:
            self.errors[kind] += 1
