"""Vectors from a server that speaks OpenAI's protocol for embeddings."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ...errors import DmrecError
from ..openai_client import OPENAI, OPENAI_KEY, OpenAIClient, RequestError, check_url, is_local, model_slug, retrying
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
        """A batch that the server rejects is requested in halves, to find the text that it rejects."""
        try:
            vectors: np.ndarray = with_retries(self._request, texts)
            return vectors
        except RequestError as error:
            if not error.rejected:
                raise
            if len(texts) == 1:
                raise DmrecError(
                    f"{self.base_url} rejects the text '{texts[0][:60]}..' of {len(texts[0])} characters ({error}); "
                    "shorten it, or limit the length of all texts (--max-characters)"
                ) from None
        half = len(texts) // 2
        first, second = (self._encode_batch(with_retries, part) for part in (texts[:half], texts[half:]))
        return np.concatenate([first, second])

    def _request(self, texts: list[str]) -> np.ndarray:
        """One request; (len(texts), width)."""
        request = {"model": self.model, "input": texts, "encoding_format": "float"}
        response = self._client.call(lambda client: client.embeddings.create(**request))
        try:
            rows = {int(row.index): row.embedding for row in response.data}
            vectors = np.array([rows[place] for place in range(len(texts))], dtype=np.float32)
            valid = len(rows) == len(texts) == len(response.data) and vectors.ndim == 2 and np.isfinite(vectors).all()
        except (AttributeError, KeyError, TypeError, ValueError):
            valid = False
        if not valid:
            raise RequestError("malformed", f"the response does not hold a vector for each of {len(texts)} texts")
        return vectors
