"""Vectors from a server that speaks OpenAI's protocol for embeddings."""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ...errors import DmrecError
from ..openai_client import (
    OPENAI,
    OPENAI_KEY,
    OpenAIClient,
    RequestError,
    check_url,
    is_local,
    model_slug,
    retrying,
    words_of,
)
from .base import TextEncoder, l2_normalize
from .registry import register_encoder

BATCH_SIZE = 64  # texts in one request


@register_encoder
class OpenAIEncoder(TextEncoder):
    """An embedding model behind any OpenAI-compatible server.

    Args:
        model: the model's name on the server.
        base_url: address of the server, such as http://localhost:8080/v1.
        key_variable: environment variable with the key; "" sends no key.
        max_characters: characters of a text, the rest is cut; None: texts are sent whole.
        timeout: seconds that a request may take.
        attempts: how often a batch of texts is requested before its failure is an error.
        backoff: seconds before the second attempt, doubled each time, up to a minute.
    """

    family = "endpoint"
    shard_size = 4 * BATCH_SIZE  # small, so that vectors that were paid for are soon on disk

    def __init__(
        self,
        model: str,
        base_url: str = OPENAI,
        key_variable: str = OPENAI_KEY,
        max_characters: int | None = None,
        timeout: float = 60.0,
        attempts: int = 6,
        backoff: float = 1.0,
    ) -> None:
        self.model, self.base_url, self.key_variable = model, check_url(base_url), key_variable
        self.max_characters = max_characters
        self.timeout, self.attempts, self.backoff = timeout, attempts, backoff

    @property
    def name(self) -> str:
        """The model's name, without what a file name cannot hold."""
        return model_slug(self.model)

    def options(self) -> dict[str, Any]:
        """Model, server, key variable and limit; how often and how long it is tried does not change the vectors."""
        limit = {"max_characters": self.max_characters}
        return {"model": self.model, "base_url": self.base_url, "key_variable": self.key_variable, **limit}

    @classmethod
    def options_from_manifest(cls, recorded: Mapping[str, Any], key_variable: str | None = None) -> dict[str, Any]:
        """The recorded options; another server than OpenAI's or a local one gets a key from ``key_variable`` alone."""
        options = super().options_from_manifest(recorded)
        variable, server = str(options.get("key_variable", OPENAI_KEY)), str(options.get("base_url", OPENAI))
        expected = is_local(server) or (server, variable) == (OPENAI, OPENAI_KEY)
        if key_variable is None and not expected and os.environ.get(variable):
            raise DmrecError(
                f"the vectors come from {server}, and the dataset names the key in {variable} for it: if the server "
                f"may have that key, name the variable yourself (--key-variable {variable}); "
                "--key-variable '' sends no key"
            )
        return {**options, "key_variable": variable if key_variable is None else key_variable}

    @cached_property
    def _client(self) -> OpenAIClient:
        return OpenAIClient(self.model, self.base_url, self.key_variable, self.timeout)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(len(texts), width) float32 unit vectors.

        Raises:
            DmrecError: the server does not return a vector for each text, whatever the number of attempts.
        """
        with_retries = retrying(self.attempts, self.backoff, threading.Event())
        cut = [text[: self.max_characters] for text in texts]
        try:
            parts = [
                self._encode_batch(with_retries, cut[first : first + BATCH_SIZE])
                for first in range(0, len(texts), BATCH_SIZE)
            ]
        except RequestError as error:
            raise DmrecError(
                f"{self.base_url} did not return vectors ({error}); those that it returned before are kept: run the "
                "same command again to continue"
            ) from None
        if len({part.shape[1] for part in parts}) != 1:
            raise DmrecError(f"{self.base_url} returned vectors of different widths for the model '{self.model}'")
        return l2_normalize(np.concatenate(parts))

    def _encode_batch(self, with_retries: Any, texts: list[str]) -> np.ndarray:
        """A batch that the server rejects is requested in halves, to find the text that it rejects; one that it fails
        at, too, as far as other texts go through.
        """
        try:
            vectors: np.ndarray = with_retries(self._request, texts)
            return vectors
        except RequestError as error:
            if not error.rejected:
                if error.kind.startswith("5") and (text := self._failing_text(texts)):
                    raise DmrecError(
                        f"{self.base_url} fails at the text '{text[:60]}..' of {len(text)} characters ({error}) and "
                        "not at others; change it, or leave it out"
                    ) from None
                raise
            if len(texts) == 1:
                raise DmrecError(
                    f"{self.base_url} rejects the text '{texts[0][:60]}..' of {len(texts[0])} characters ({error}); "
                    "shorten it, or limit the length of all texts (--max-characters)"
                ) from None
        half = len(texts) // 2
        first, second = (self._encode_batch(with_retries, part) for part in (texts[:half], texts[half:]))
        return np.concatenate([first, second])

    def _failing_text(self, texts: list[str]) -> str | None:
        """The first text that the server fails at, found by halves; None if it fails at every part that is tried."""

        def goes_through(part: list[str]) -> bool:
            try:
                self._request(part)
            except RequestError:
                return False
            return True

        others = [texts[0], texts[-1]]
        while len(texts) > 1:
            half = len(texts) // 2
            texts = texts[half:] if goes_through(texts[:half]) else texts[:half]
        (text,) = texts
        another = others[1] if text == others[0] else others[0]
        return text if text != another and goes_through([another]) and not goes_through([text]) else None

    def _request(self, texts: list[str]) -> np.ndarray:
        """One request; (len(texts), width)."""
        request: dict[str, Any] = {"model": self.model, "input": texts, "encoding_format": "float"}
        response = self._client.call(lambda client: client.embeddings.create(**request))
        try:
            vectors = _vectors_in(response.data, len(texts))
        except (AttributeError, KeyError, TypeError, ValueError):
            words = self._client.redact(words_of(response))
            shape = f"the response does not hold a vector for each of {len(texts)} texts"
            raise RequestError("malformed", words or shape) from None
        for text, vector in zip(texts, vectors, strict=True):
            if not np.isfinite(vector).all() or not vector.any():
                what = "zeros" if np.isfinite(vector).all() else "NaN or infinity"
                raise RequestError(
                    "malformed", f"{what} for the text '{text[:60]}': is '{self.model}' a model for embeddings?"
                )
        return vectors


def _vectors_in(rows: Any, count: int) -> np.ndarray:
    """(count, width) float32 of the rows of a response: by their index, in their order where no row has one."""
    places: list[Any] = [getattr(row, "index", None) for row in rows]
    numbers = range(len(rows)) if all(place is None for place in places) else map(int, places)
    found = {place: row.embedding for place, row in zip(numbers, rows, strict=True)}
    if not len(found) == len(rows) == count:
        raise ValueError("not a row for each text")
    vectors = np.array([_numbers(found[place]) for place in range(count)], dtype=np.float32)
    if vectors.ndim != 2:
        raise ValueError("not a vector in each row")
    return vectors


def _numbers(embedding: Any) -> Any:
    """Numbers, also where a server gives them as float32 in base64, asked for or not."""
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4")
    return embedding
