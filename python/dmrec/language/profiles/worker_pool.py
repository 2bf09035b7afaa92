"""Threads that ask a language model, again where it may help, and keep what it answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

from ...errors import DmrecError
from ..openai_client import FaultError, ForbiddenError, retrying
from .chat import Endpoint, Reply
from .rate_limiter import Meter, SpentError
from .response_cache import Answers
from .write import Request

SOON = 0.5  # seconds until it is worth saying that calls are waited for
BYTES_A_TOKEN = 4

Finding = str | FaultError | SpentError | DmrecError  # what became of a prompt: a text, or why not


class Crew:
    """Threads that take tasks and give findings. They are daemons: a server that hangs does not keep the process."""

    def __init__(self, endpoint: Endpoint, store: Answers, meter: Meter, answer_tokens: int) -> None:
        self.endpoint, self.store, self.meter, self.answer_tokens = endpoint, store, meter, answer_tokens
        limits = meter.limits
        self.tasks: SimpleQueue[tuple[str, Request] | None] = SimpleQueue()
        self._findings: SimpleQueue[tuple[str, Finding]] = SimpleQueue()
        self._retrying = retrying(limits.attempts, limits.backoff, meter.stopped)
        self.threads = [threading.Thread(target=self._work, daemon=True) for _ in range(limits.concurrency)]
        for thread in self.threads:
            thread.start()

    @property
    def found(self) -> bool:
        """Whether `find` need not wait."""
        return not self._findings.empty()

    def find(self) -> tuple[str, Finding]:
        """The next finding."""
        while True:
            with suppress(Empty):
                return self._findings.get(timeout=0.2)  # a signal just before it waits is seen only after

    def leave(self, tell: Callable[[str], None]) -> None:
        """Sends the threads home, once the calls under way have ended. A call takes no longer than the timeout."""
        timeout = self.meter.limits.timeout
        soon, until = (time.monotonic() + seconds for seconds in (SOON, SOON + timeout))
        told = False
        for _ in self.threads:
            self.tasks.put(None)
        while (busy := sum(thread.is_alive() for thread in self.threads)) and time.monotonic() < until:
            if not told and time.monotonic() > soon:
                tell(f"waiting for {busy} calls under way, at most {timeout:g} s; Ctrl-C leaves at once")
                told = True
            time.sleep(0.01)

    def _work(self) -> None:
        while (task := self.tasks.get()) is not None and not self.meter.stopped.is_set():
            key, request = task
            try:
                found = self._ask(key, request)
            except ForbiddenError as error:  # the server's doing or the prompt's: whoever sees all findings decides
                found = error
            except DmrecError as error:
                self.meter.stopped.set()  # no prompt will have an answer: no other call begins
                found = error
            except Exception as error:  # a thread must not end silently: others wait for what it finds
                self.meter.stopped.set()
                found = DmrecError(f"{type(error).__name__}: {self.endpoint.safe(error)}")
            self._findings.put((key, found))

    def _ask(self, key: str, request: Request) -> Finding:
        try:
            text: str = self._retrying(self._call, key, request)
            return text
        except SpentError as error:
            return error
        except FaultError as error:
            self.store.fail(key, self.endpoint.model, str(error))
            return error

    def _call(self, key: str, request: Request) -> str:
        """One attempt, unless the answer is there by now; one is on disk before anything else is done with it."""
        if (known := self.store.get(key)) is not None:
            return known
        expected = input_tokens(request)
        most = expected + self.answer_tokens
        self.meter.begin(most)
        spent = (0, 0)
        try:
            reply: Reply = self.endpoint.ask(request.prompt.instructions, request.text)
            spent = reply.tokens or (expected, len(reply.text.encode()) // BYTES_A_TOKEN)
            self.store.put(key, self.endpoint.model, reply.text, *spent)
        except FaultError as fault:
            self.meter.fault(fault.kind)
            nothing = fault.kind.isdigit() or fault.kind == "no connection"
            spent = fault.tokens or ((0, 0) if nothing else (expected, self.answer_tokens))
            raise
        except ForbiddenError:
            self.meter.fault("403")
            raise
        finally:
            self.meter.end(most, *spent)
        return reply.text


def input_tokens(request: Request) -> int:
    """About how many tokens a prompt has."""
    return len((request.prompt.instructions + request.text).encode()) // BYTES_A_TOKEN
