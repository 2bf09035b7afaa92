"""Vectors from any server with OpenAI's protocol for embeddings."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ...errors import DmrecError
from ..openai_client import OPENAI, FaultError, Server, check_url, retrying
from .base import TextEncoder, unit

BATCH = 64  # texts of a call


class EmbeddingsEndpoint(TextEncoder):
    """``model`` behind ``base_url``. The key, where one is wanted, is in the environment variable ``key_variable``."""

    family = "endpoint"
    shard = 4 * BATCH  # what is paid for is soon on disk

    def __init__(
        self,
        model: str,
        base_url: str = OPENAI,
        key_variable: str = "OPENAI_API_KEY",
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
        """The model's name, as far as it can be part of a file's."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.model).strip("-._")[:64]

    def options(self) -> dict[str, Any]:
        """Model, server, cut."""
        cut = {"max_characters": self.max_characters}
        return {"model": self.model, "base_url": self.base_url, "key_variable": self.key_variable, **cut}

    @cached_property
    def _server(self) -> Server:
        return Server(self.model, self.base_url, self.key_variable, self.timeout)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(len(texts), width) float32 unit vectors, each put where its text stands."""
        asked = retrying(self.attempts, self.backoff, threading.Event())
        try:
            cut = [text[: self.max_characters] for text in texts]
            parts = [self._ask(asked, cut[first : first + BATCH]) for first in range(0, len(texts), BATCH)]
        except FaultError as fault:
            raise DmrecError(
                f"{self.base_url} gave no vectors ({fault}); what it gave before is kept: the same command goes on"
            ) from None
        if len({part.shape[1] for part in parts}) != 1:
            raise DmrecError(f"{self.base_url} gave vectors of several widths for the model '{self.model}'")
        return unit(np.concatenate(parts))

    def _ask(self, asked: Any, texts: list[str]) -> np.ndarray:
        """Texts that a server refuses together are asked for in halves, to find which one it is."""
        try:
            vectors: np.ndarray = asked(self._batch, texts)
            return vectors
        except FaultError as fault:
            if not fault.refused:
                raise
            if len(texts) == 1:
                raise DmrecError(
                    f"{self.base_url} refuses the text '{texts[0][:60]}..' of {len(texts[0])} characters ({fault}); "
                    "shorten it, or cut all of them (--max-characters)"
                ) from None
        half = len(texts) // 2
        return np.concatenate([self._ask(asked, texts[:half]), self._ask(asked, texts[half:])])

    def _batch(self, texts: list[str]) -> np.ndarray:
        asked = {"model": self.model, "input": texts, "encoding_format": "float"}
        answer = self._server.call(lambda client: client.embeddings.create(**asked))
        try:
            rows = {int(row.index): row.embedding for row in answer.data}
            vectors = np.array([rows[place] for place in range(len(texts))], dtype=np.float32)
            sound = len(rows) == len(texts) == len(answer.data) and vectors.ndim == 2 and np.isfinite(vectors).all()
        except (AttributeError, KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            raise FaultError("malformed", f"not a vector for each of {len(texts)} texts")
        return vectors
