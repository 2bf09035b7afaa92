"""Profiles by a language model behind any OpenAI-compatible server: in parallel, with retries, never paid for twice."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import DmrecError, did_you_mean
from ...files import locked
from ..openai_client import OPENAI, OPENAI_KEY, ForbiddenError, RequestError, check_url, model_slug
from .chat import FORMATS, ChatClient
from .circuit_breaker import CircuitBreaker
from .rate_limiter import BudgetExceededError, Limits, UsageMeter
from .requests import ProfileRequest
from .response_cache import ResponseCache
from .worker_pool import WorkerPool, estimate_tokens
from .writer import Outcome


@dataclass(frozen=True)
class Estimate:
    """What a run would request: a token for every 4 bytes of a prompt, and answers as long as they may be.

    Attributes:
        prompts: number of prompts.
        answered: prompts whose response is in the cache.
        calls: different prompts that would be sent.
        input_tokens: tokens of these prompts.
        output_tokens: tokens of their answers, at most.
    """

    prompts: int
    answered: int
    calls: int
    input_tokens: int
    output_tokens: int


@dataclass
class LlmWriter:
    """Writes profiles with a language model, in one run.

    Args:
        model: the model's name on the server.
        cache: SQLite file of responses; it is made where it does not exist.
        base_url: address of the server, such as http://localhost:8080/v1.
        key_variable: environment variable with the key; "" sends no key.
        answer_format: how JSON is requested, a key of `FORMATS`.
        answer_tokens: tokens of an answer, at most.
        temperature: None leaves it to the server.
        limits: attempts, timeouts, concurrency, rate and budgets.
        notify: called with a message while the end of the run waits for requests under way.

    Raises:
        DmrecError: the address or the answer format is not valid.
    """

    model: str
    cache: Path
    base_url: str = OPENAI
    key_variable: str = OPENAI_KEY
    answer_format: str = "json_schema"
    answer_tokens: int = 800
    temperature: float | None = None
    limits: Limits = field(default_factory=Limits)
    notify: Callable[[str], None] = lambda message: None

    def __post_init__(self) -> None:
        if self.answer_format not in FORMATS:
            known = did_you_mean(self.answer_format, FORMATS)
            raise DmrecError(f"unknown answer format '{self.answer_format}' (--answer-format){known}")
        self.base_url = check_url(self.base_url)
        self.stopped = threading.Event()
        self.meter = UsageMeter(self.limits, self.stopped)

    @property
    def name(self) -> str:
        """The model's name, without what a file name cannot hold."""
        return model_slug(self.model)

    @property
    def parameters(self) -> dict[str, Any]:
        """What is sent in addition to the prompt."""
        sampling = {} if self.temperature is None else {"temperature": self.temperature}
        limit = "max_completion_tokens" if self.base_url == OPENAI else "max_tokens"  # others may ignore OpenAI's
        return {limit: self.answer_tokens, **sampling}

    def describe(self) -> dict[str, Any]:
        """Server, model and parameters."""
        parameters = {"answer_format": self.answer_format, **self.parameters}
        return {"writer": "llm", "model": self.model, "base_url": self.base_url, "parameters": parameters}

    def key_of(self, request: ProfileRequest) -> str:
        """The key of a response in the cache: a checksum of all that it depends on."""
        inputs = [self.model, self.answer_format, self.parameters, request.prompt.sha256, request.text]
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()

    def estimate(self, requests: Iterable[ProfileRequest]) -> Estimate:
        """What `write` would request and what the cache holds already; nothing is sent."""
        prompts = answered = tokens = 0
        new: set[str] = set()
        cache = ResponseCache(self.cache) if self.cache.exists() else None
        try:
            for request in requests:
                prompts += 1
                key = self.key_of(request)
                if cache is not None and cache.get(key) is not None:
                    answered += 1
                elif key not in new:
                    new.add(key)
                    tokens += estimate_tokens(request)
        finally:
            if cache is not None:
                cache.close()
        return Estimate(prompts, answered, len(new), tokens, len(new) * self.answer_tokens)

    def write(self, requests: Iterable[ProfileRequest]) -> Generator[Outcome, None, None]:
        """One outcome for each request, as responses arrive. If it is closed early, it waits for those under way.

        Raises:
            DmrecError: the server will not answer any of them, or another run uses the cache.
        """
        client = ChatClient(
            self.model, self.base_url, self.key_variable, self.limits.timeout, self.parameters, self.answer_format
        )
        lock = self.cache.with_name(f"{self.cache.name}.lock")
        refusal = f"another run writes to {self.cache}; wait for it or choose another file (--cache)"
        with closing(client), locked(lock, refusal), closing(ResponseCache(self.cache)) as cache:
            pool = WorkerPool(client, cache, self.meter, self.answer_tokens)
            try:
                yield from self._outcomes(requests, cache, pool)
            finally:
                self.stopped.set()
                pool.shutdown(self.notify)

    def _outcomes(
        self, requests: Iterable[ProfileRequest], cache: ResponseCache, pool: WorkerPool
    ) -> Iterator[Outcome]:
        """Submits requests, equal ones once, and yields outcomes; the queue is kept short, as there may be millions."""
        breaker = CircuitBreaker(self.base_url)
        waiting: dict[str, list[ProfileRequest]] = {}
        failed: dict[str, RequestError | BudgetExceededError] = {}

        def receive() -> Iterator[Outcome]:
            key, result = pool.next_result()
            checked = breaker.check(result)
            if isinstance(result, ForbiddenError):
                cache.fail(key, self.model, str(checked))
            if not isinstance(checked, str):
                failed[key] = checked
            for request in waiting.pop(key):
                yield _outcome(request, checked)

        for request in requests:
            key = self.key_of(request)
            known = failed.get(key) or cache.get(key)
            if known is not None:
                breaker.answered = breaker.answered or isinstance(known, str)
                yield _outcome(request, known)
            elif key in waiting:
                waiting[key].append(request)
            else:
                waiting[key] = [request]
                pool.submit(key, request)
            while pool.has_result or len(waiting) >= 4 * self.limits.concurrency:
                yield from receive()
        while waiting:
            yield from receive()
        breaker.check_rejections()


def _outcome(request: ProfileRequest, result: str | RequestError | BudgetExceededError) -> Outcome:
    if isinstance(result, str):
        return Outcome(request.side, request.row, result)
    return Outcome(request.side, request.row, reason=str(result), attempted=isinstance(result, RequestError))
