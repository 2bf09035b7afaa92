"""Profiles by a language model behind any OpenAI-compatible server: in parallel, tried again, never paid for twice."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import DmrecError
from ...files import locked
from ..openai_client import OPENAI, FaultError, ForbiddenError, check_url
from .chat import Endpoint
from .rate_limiter import Limits, Meter
from .response_cache import Answers
from .worker_pool import Crew, Finding, input_tokens
from .write import Outcome, Request

FIRST = 5  # prompts that fail alike before any answer: then it is the server's doing


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
    """Asks ``model``, in one run. ``temperature`` None leaves it to the server; ``answer_format`` asks for JSON.

    ``tell`` is told what the run waits for.
    """

    model: str
    cache: Path
    base_url: str = OPENAI
    key_variable: str = "OPENAI_API_KEY"
    answer_format: str = "json_schema"
    answer_tokens: int = 800
    temperature: float | None = None
    limits: Limits = field(default_factory=Limits)
    tell: Callable[[str], None] = lambda message: None

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
        most = "max_completion_tokens" if self.base_url == OPENAI else "max_tokens"  # others may ignore OpenAI's
        return {most: self.answer_tokens, **given}

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
                    tokens += input_tokens(request)
        finally:
            if store is not None:
                store.close()
        return Estimate(prompts, answered, len(wanted), tokens, len(wanted) * self.answer_tokens)

    def write(self, requests: Iterable[Request]) -> Generator[Outcome, None, None]:
        """One outcome for each request, as answers arrive. Left early, it waits for those under way.

        Raises:
            DmrecError: the server will answer none of them.
        """
        endpoint = Endpoint(
            self.model, self.base_url, self.key_variable, self.limits.timeout, self.parameters, self.answer_format
        )
        lock = self.cache.with_name(f"{self.cache.name}.lock")
        refusal = f"another run writes to {self.cache}; wait for it or name another file: --cache"
        with closing(endpoint), locked(lock, refusal), closing(Answers(self.cache)) as store:
            crew = Crew(endpoint, store, self.meter, self.answer_tokens)
            try:
                yield from self._outcomes(requests, store, crew)
            finally:
                self.stopped.set()
                crew.leave(self.tell)

    def _outcomes(self, requests: Iterable[Request], store: Answers, crew: Crew) -> Iterator[Outcome]:
        waiting: dict[str, list[Request]] = {}
        unanswered: dict[str, Finding] = {}
        refused = unreached = forbidden = 0
        understood = reached = False

        def settle() -> Iterator[Outcome]:
            nonlocal refused, unreached, forbidden, understood, reached
            key, found = crew.find()
            if isinstance(found, ForbiddenError) and understood and forbidden < FIRST - 1:
                forbidden += 1
                found = found.fault
                store.fail(key, self.model, str(found))
            elif isinstance(found, str):
                forbidden = 0
            if isinstance(found, DmrecError):
                raise found
            if isinstance(found, FaultError) and found.refused:
                refused += 1
                if refused >= FIRST and not understood:
                    raise self._all_refused(found)
            if isinstance(found, FaultError) and found.kind == "no connection":
                unreached += 1
                if unreached >= FIRST and not reached:
                    raise DmrecError(f"{self.base_url} cannot be reached ({found}); does it run? Look at --base-url")
            else:
                reached = True
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
            while crew.found or len(waiting) >= 4 * self.limits.concurrency:
                yield from settle()
        while waiting:
            yield from settle()
        faults = [found for found in unanswered.values() if isinstance(found, FaultError) and found.refused]
        if faults and not understood:
            raise self._all_refused(faults[0])

    def _all_refused(self, fault: FaultError) -> DmrecError:
        return DmrecError(
            f"{self.base_url} refuses every request ({fault}): it may not know an option; "
            "try --answer-format json_object_schema, json_object or none, and look at --model"
        )


def _outcome(request: Request, found: Finding) -> Outcome:
    if isinstance(found, str):
        return Outcome(request.side, request.row, found)
    return Outcome(request.side, request.row, "", str(found), asked=isinstance(found, FaultError))
