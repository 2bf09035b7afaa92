"""Profiles by a language model behind any OpenAI-compatible server: in parallel, tried again, never paid for twice."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from ..errors import DmrecError
from .answers import Answers
from .endpoint import OPENAI, Endpoint, FaultError, Reply, check_url
from .limits import Limits, Meter, SpentError
from .profiles import Outcome, Request

GRACE = 3.0  # seconds that answers under way have when a run is stopped
FIRST = 5  # requests refused before any answer: then it is the server that does not like them
BYTES_A_TOKEN = 4

Finding = str | FaultError | SpentError | DmrecError  # what became of a prompt: a text, or why not


@dataclass(frozen=True)
class Estimate:
    """What a run would ask: a token for every 4 bytes of a prompt, answers as long as they may be."""

    prompts: int
    answered: int
    calls: int
    input_tokens: int
    output_tokens: int


@dataclass
class LlmWriter:
    """Asks ``model``. Without ``temperature`` the server's own is used; ``answer_format`` is how JSON is asked for."""

    model: str
    cache: Path
    base_url: str = OPENAI
    key_variable: str = "OPENAI_API_KEY"
    answer_format: str = "json_schema"
    answer_tokens: int = 800
    temperature: float | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        self.base_url = check_url(self.base_url)
        self.stopped = threading.Event()
        self.meter = Meter(self.limits, self.stopped)

    @property
    def name(self) -> str:
        """The model's name, as far as it can be part of a file's."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.model).strip("-._")[:64]

    @property
    def parameters(self) -> dict[str, Any]:
        """What is sent beside the prompt."""
        given = {} if self.temperature is None else {"temperature": self.temperature}
        return {"max_completion_tokens": self.answer_tokens, **given}

    def describe(self) -> dict[str, Any]:
        """Server, model and parameters."""
        asked = {"answer_format": self.answer_format, **self.parameters}
        return {"writer": "llm", "model": self.model, "base_url": self.base_url, "parameters": asked}

    def key_of(self, request: Request) -> str:
        """What an answer depends on, as a checksum."""
        asked = [self.model, self.answer_format, self.parameters, request.prompt.sha256, request.text]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    def estimate(self, requests: Iterable[Request]) -> Estimate:
        """What `write` would ask, and what is answered already; asks nothing."""
        prompts = answered = tokens = 0
        wanted: set[str] = set()
        store = Answers(self.cache) if self.cache.exists() else None
        try:
            for request in requests:
                prompts += 1
                key = self.key_of(request)
                if store is not None and store.get(key) is not None:
                    answered += 1
                elif key not in wanted:
                    wanted.add(key)
                    tokens += _input_tokens(request)
        finally:
            if store is not None:
                store.close()
        return Estimate(prompts, answered, len(wanted), tokens, len(wanted) * self.answer_tokens)

    def write(self, requests: Iterable[Request]) -> Generator[Outcome, None, None]:
        """One outcome for each request, as answers arrive. Left early, it waits `GRACE` for those under way.

        Raises:
            DmrecError: the server will answer none of them.
        """
        try:
            for package in ("openai", "tenacity"):
                import_module(package)
        except ImportError:
            raise DmrecError("the writer 'llm' needs more packages: pip install 'dmrec[llm]'") from None
        endpoint = Endpoint(
            self.model, self.base_url, self.key_variable, self.limits.timeout, self.parameters, self.answer_format
        )
        try:
            store = Answers(self.cache)
        except DmrecError:
            endpoint.close()
            raise
        crew = _Crew(self, endpoint, store)
        try:
            yield from self._outcomes(requests, store, crew)
        finally:
            self.stopped.set()
            crew.leave()
            endpoint.close()
            store.close()

    def _outcomes(self, requests: Iterable[Request], store: Answers, crew: _Crew) -> Iterator[Outcome]:
        waiting: dict[str, list[Request]] = {}
        unanswered: dict[str, Finding] = {}
        refused, understood = 0, False

        def settle() -> Iterator[Outcome]:
            nonlocal refused, understood
            key, found = crew.find()
            if isinstance(found, DmrecError):
                raise found
            if isinstance(found, FaultError) and found.refused:
                refused += 1
                if refused >= FIRST and not understood:
                    raise self._all_refused(found)
            understood = understood or isinstance(found, str) or getattr(found, "kind", "") == "content_filter"
            if not isinstance(found, str):
                unanswered[key] = found
            for request in waiting.pop(key):
                yield _outcome(request, found)

        for request in requests:
            key = self.key_of(request)
            known = unanswered.get(key) or store.get(key)
            if known is not None:
                understood = understood or isinstance(known, str)
                yield _outcome(request, known)
            elif key in waiting:
                waiting[key].append(request)
            else:
                waiting[key] = [request]
                crew.tasks.put((key, request))
            while len(waiting) >= 4 * self.limits.concurrency:
                yield from settle()
        while waiting:
            yield from settle()
        faults = [found for found in unanswered.values() if isinstance(found, FaultError) and found.refused]
        if faults and not understood:
            raise self._all_refused(faults[0])

    def _all_refused(self, fault: FaultError) -> DmrecError:
        return DmrecError(
            f"{self.base_url} refuses every request ({fault}): it may not know an option; "
            "try --answer-format json_object or none, and look at --model"
        )


class _Crew:
    """Threads that take tasks and give findings. They are daemons: a server that hangs does not keep the process."""

    def __init__(self, writer: LlmWriter, endpoint: Endpoint, store: Answers) -> None:
        from tenacity import (
            Retrying,
            retry_if_exception,
            sleep_using_event,
            stop_after_attempt,
            stop_when_event_set,
            wait_random_exponential,
        )

        self.writer, self.endpoint, self.store = writer, endpoint, store
        self.meter, limits = writer.meter, writer.limits
        self.tasks: SimpleQueue[tuple[str, Request] | None] = SimpleQueue()
        self._findings: SimpleQueue[tuple[str, Finding]] = SimpleQueue()
        backoff = wait_random_exponential(multiplier=limits.backoff, max=60)
        self._retrying = Retrying(
            stop=stop_after_attempt(limits.attempts) | stop_when_event_set(writer.stopped),
            wait=lambda state: backoff(state) + getattr(state.outcome and state.outcome.exception(), "after", 0.0),
            retry=retry_if_exception(lambda error: isinstance(error, FaultError) and error.again),
            sleep=sleep_using_event(writer.stopped),
            reraise=True,
        )
        self.threads = [threading.Thread(target=self._work, daemon=True) for _ in range(limits.concurrency)]
        for thread in self.threads:
            thread.start()

    def find(self) -> tuple[str, Finding]:
        """The next finding."""
        while True:
            with suppress(Empty):
                return self._findings.get(timeout=0.2)  # a signal just before it waits is seen only after

    def leave(self) -> None:
        """Sends the threads home; what they do not finish within `GRACE` is left to its fate."""
        until = time.monotonic() + GRACE
        for _ in self.threads:
            self.tasks.put(None)
        for thread in self.threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _work(self) -> None:
        while (task := self.tasks.get()) is not None and not self.writer.stopped.is_set():
            key, request = task
            try:
                found = self._ask(key, request)
            except DmrecError as error:
                found = error
            except Exception as error:  # a thread must not end silently: others wait for what it finds
                found = DmrecError(f"{type(error).__name__}: {self.endpoint.safe(error)}")
            self._findings.put((key, found))

    def _ask(self, key: str, request: Request) -> Finding:
        try:
            return self._retrying(self._call, key, request)
        except SpentError as error:
            return error
        except FaultError as error:
            self.store.fail(key, self.writer.model, str(error))
            return error

    def _call(self, key: str, request: Request) -> str:
        """One attempt; an answer is on disk before anything else is done with it."""
        expected = _input_tokens(request)
        most = expected + self.writer.answer_tokens
        self.meter.begin(most)
        spent = (0, 0)
        try:
            reply: Reply = self.endpoint.ask(request.prompt.instructions, request.text)
            spent = reply.tokens or (expected, len(reply.text.encode()) // BYTES_A_TOKEN)
            self.store.put(key, self.writer.model, reply.text, *spent)
        except FaultError as fault:
            self.meter.fault(fault.kind)
            spent = fault.tokens or ((0, 0) if fault.kind.isdigit() else (expected, self.writer.answer_tokens))
            raise
        finally:
            self.meter.end(most, *spent)
        return reply.text


def _outcome(request: Request, found: Finding) -> Outcome:
    if isinstance(found, str):
        return Outcome(request.side, request.row, found)
    return Outcome(request.side, request.row, "", str(found), asked=isinstance(found, FaultError))


def _input_tokens(request: Request) -> int:
    return len((request.prompt.instructions + request.text).encode()) // BYTES_A_TOKEN
