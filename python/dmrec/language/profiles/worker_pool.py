"""Threads that request profiles from a language model, repeat what may succeed, and store every response."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

from ...errors import DmrecError
from ..openai_client import ForbiddenError, RequestError, retrying
from .chat import ChatClient, Reply
from .rate_limiter import BudgetExceededError, UsageMeter
from .requests import ProfileRequest
from .response_cache import ResponseCache

NOTIFY_AFTER = 0.5  # seconds of waiting before a message says so
BYTES_PER_TOKEN = 4

Result = str | RequestError | BudgetExceededError | DmrecError
"""What a prompt led to: a text, or the reason why there is none."""


class WorkerPool:
    """``limits.concurrency`` threads that take requests and give results in the order in which they complete.

    The threads are daemons: a server that hangs does not keep the process alive.
    """

    def __init__(self, client: ChatClient, cache: ResponseCache, meter: UsageMeter, answer_tokens: int) -> None:
        self.client, self.cache, self.meter, self.answer_tokens = client, cache, meter, answer_tokens
        limits = meter.limits
        self._tasks: SimpleQueue[tuple[str, ProfileRequest] | None] = SimpleQueue()
        self._results: SimpleQueue[tuple[str, Result]] = SimpleQueue()
        self._retrying = retrying(limits.attempts, limits.backoff, meter.stopped)
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(limits.concurrency)]
        for thread in self._threads:
            thread.start()

    def submit(self, key: str, request: ProfileRequest) -> None:
        """Queues a request under the key of its response in the cache."""
        self._tasks.put((key, request))

    @property
    def has_result(self) -> bool:
        """Whether `next_result` returns without waiting."""
        return not self._results.empty()

    def next_result(self) -> tuple[str, Result]:
        """Waits for the next result; key and result."""
        while True:
            with suppress(Empty):
                return self._results.get(timeout=0.2)  # a signal that comes just before the wait is seen after it

    def shutdown(self, notify: Callable[[str], None]) -> None:
        """Ends the threads once the requests under way have ended, after the timeout of a request at the latest.

        ``notify`` is called with a message if that takes a while.
        """
        timeout = self.meter.limits.timeout
        notify_at, give_up_at = (time.monotonic() + seconds for seconds in (NOTIFY_AFTER, NOTIFY_AFTER + timeout))
        notified = False
        for _ in self._threads:
            self._tasks.put(None)
        while (busy := sum(thread.is_alive() for thread in self._threads)) and time.monotonic() < give_up_at:
            if not notified and time.monotonic() > notify_at:
                notify(f"waiting for {busy} calls under way, at most {timeout:g} s; Ctrl-C stops at once")
                notified = True
            time.sleep(0.01)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None and not self.meter.stopped.is_set():
            key, request = task
            result: Result
            try:
                result = self._get(key, request)
            except ForbiddenError as error:  # key or prompt: the circuit breaker, which sees all results, decides
                result = error
            except DmrecError as error:
                self.meter.stopped.set()  # no prompt will be answered: no other request begins
                result = error
            except Exception as error:  # a thread must not end silently: others wait for its result
                self.meter.stopped.set()
                result = DmrecError(f"{type(error).__name__}: {self.client.redact(error)}")
            self._results.put((key, result))

    def _get(self, key: str, request: ProfileRequest) -> Result:
        try:
            text: str = self._retrying(self._attempt, key, request)
            return text
        except BudgetExceededError as error:
            return error
        except RequestError as error:
            self.cache.fail(key, self.client.model, str(error))
            return error

    def _attempt(self, key: str, request: ProfileRequest) -> str:
        """One attempt, unless the response is in the cache by now. A response is on disk before it is used."""
        if (cached := self.cache.get(key)) is not None:
            return cached
        expected = estimate_tokens(request)
        reserved = expected + self.answer_tokens
        self.meter.acquire(reserved)
        used = (0, 0)
        try:
            reply: Reply = self.client.complete(request.prompt.instructions, request.text)
            used = reply.tokens or (expected, len(reply.text.encode()) // BYTES_PER_TOKEN)
            self.cache.put(key, self.client.model, reply.text, *used)
        except RequestError as error:
            self.meter.count_error(error.kind)
            unserved = error.kind.isdigit() or error.kind == "no connection"
            used = error.tokens or ((0, 0) if unserved else (expected, self.answer_tokens))
            raise
        except ForbiddenError:
            self.meter.count_error("403")
            raise
        finally:
            self.meter.release(reserved, *used)
        return reply.text


def estimate_tokens(request: ProfileRequest) -> int:
    """About how many tokens a prompt has: one for every 4 bytes."""
    return len((request.prompt.instructions + request.text).encode()) // BYTES_PER_TOKEN
