"""The contract of tokenizers: from vectors of items to tuples of codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from ..options import Options
from .quantize import residual_codes

Report = Callable[[dict[str, Any]], None]
"""Takes the figures of a step of the fitting: what is shown and logged."""


class Fitted:
    """A tokenizer that was fitted: latents of vectors, and codebooks."""

    def __init__(
        self, codebooks: np.ndarray, encode: Callable[[np.ndarray], np.ndarray], state: dict[str, Any]
    ) -> None:
        self.codebooks, self.encode, self.state = codebooks, encode, state

    def codes(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The codes (n, levels) of vectors (n, E), and the residuals (n, D) before the last level."""
        latents = self.encode(x)
        codes, left = residual_codes(latents, self.codebooks)
        return codes, left + self.codebooks[-1][codes[:, -1]]


class TokenizerOptions(Options, ABC):
    """Options of a tokenizer. The default of ``kind`` is its name."""

    kind: str
    reads_collaborative: ClassVar[bool] = False  # whether it reads collaborative vectors, too

    levels: int = Field(3, ge=1, description="codes of an item")
    size: int = Field(256, ge=2, le=32_768, description="codes of a level")
    seed: int = Field(0, ge=0, description="of everything random")

    @abstractmethod
    def fit(self, x: np.ndarray, collaborative: np.ndarray | None, report: Report) -> Fitted:
        """Fits to the vectors ``x`` (N, E) of all items, and to ``collaborative`` (N, any width) if it reads those."""

    @abstractmethod
    def restored(self, state: dict[str, np.ndarray]) -> Fitted:
        """The tokenizer with the `Fitted.state` of one that was fitted with these options."""
