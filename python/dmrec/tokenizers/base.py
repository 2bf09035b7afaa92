"""The contract of tokenizers: from vectors of items to tuples of codes."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from ..options import Options
from .quantize import residual_codes

Report = Callable[[dict[str, Any]], None]
"""Takes the figures of a step of the fitting: what is shown and logged."""


class Quantization(NamedTuple):
    """What a tokenizer makes of n vectors while it learns."""

    latents: Tensor  # (n, D)
    codes: Tensor  # (n, levels) int64
    quantized: Tensor  # (n, D): what is decoded
    loss: Tensor  # (n,)


class Tokenizer(nn.Module, ABC):
    """Latents of vectors, residual codebooks, and vectors from quantized latents: all that learns."""

    codebooks: nn.Parameter  # (levels, C, D)

    @abstractmethod
    def latents(self, x: Tensor) -> Tensor:
        """(n, D) of vectors (n, E)."""

    @abstractmethod
    def decoded(self, quantized: Tensor) -> Tensor:
        """(n, E), in the units of `wanted`, of quantized latents (n, D)."""

    def wanted(self, x: Tensor) -> Tensor:
        """(n, E): what vectors (n, E) should be decoded to."""
        return x

    @abstractmethod
    def quantize(self, x: Tensor, items: Tensor | None = None) -> Quantization:
        """Of vectors (n, E), with the loss that the tokenizer is trained by.

        ``items`` (n,) int64: whose they are, for a tokenizer that knows more of them; None: terms of that are left out.
        """

    def refresh(self, epoch: int) -> None:
        """Forms anew, between epochs, what stands still within one; default: nothing."""


class Fitted:
    """A tokenizer that was fitted. Codes are computed in float64: the same whatever vectors are encoded together."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._exact = copy.deepcopy(tokenizer).double().eval()

    @property
    def codebooks(self) -> np.ndarray:
        """(levels, C, D) float32."""
        return np.asarray(self.tokenizer.codebooks.detach().numpy())

    @property
    def state(self) -> dict[str, np.ndarray]:
        """What `TokenizerOptions.restored` takes."""
        return {name: tensor.detach().float().numpy().copy() for name, tensor in self.tokenizer.state_dict().items()}

    @torch.no_grad()
    def encode(self, x: np.ndarray) -> np.ndarray:
        """Latents (n, D) float64 of vectors (n, E)."""
        parts = torch.from_numpy(np.asarray(x, dtype=np.float64)).split(1024)
        return np.asarray(torch.cat([self._exact.latents(part) for part in parts]).numpy())

    def codes(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The codes (n, levels) of vectors (n, E), and the residuals (n, D) before the last level."""
        codes, left = residual_codes(self.encode(x), self.codebooks)
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
