"""RK-means: k-means on each level of what the levels before have left, without a network.

The authors of GRID (Ju et al., 2025) find it no worse than RQ-VAE; it takes seconds, and there is nothing to collapse.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dmrec_ext import residual_quantize

from .base import Fitted, Quantization, Report, Tokenizer, TokenizerOptions
from .kmeans import kmeans, nearest


class RkMeansOptions(TokenizerOptions):
    """RK-means."""

    kind: Literal["rk-means"] = "rk-means"
    iterations: int = Field(100, ge=1, description="of k-means, at most")

    def fit(self, x: np.ndarray, collaborative: np.ndarray | None, report: Report) -> Fitted:
        """Level by level."""
        del collaborative
        left = np.asarray(x, dtype=np.float64).copy()
        total = ((left - left.mean(0)) ** 2).sum()
        codebooks = np.empty((self.levels, self.size, x.shape[1]))
        for level in range(self.levels):
            codebooks[level] = kmeans(left, self.size, self.seed + level, self.iterations)
            codes = nearest(left, codebooks[level])
            left -= codebooks[level][codes]
            error = float((left**2).sum() / max(total, 1e-300))
            report({"level": level + 1, "relative error": error, "codes used": len(np.unique(codes))})
        return self.restored({"codebooks": codebooks.astype(np.float32)})

    def restored(self, state: dict[str, np.ndarray]) -> Fitted:
        """From the codebooks."""
        return Fitted(RkMeans(torch.from_numpy(np.array(state["codebooks"]))))


class RkMeans(Tokenizer):
    """Vectors are their own latents; the codebooks learn."""

    def __init__(self, codebooks: Tensor) -> None:
        super().__init__()
        self.codebooks = nn.Parameter(codebooks)

    def latents(self, x: Tensor) -> Tensor:
        """The vectors."""
        return x

    def decoded(self, quantized: Tensor) -> Tensor:
        """The quantized vectors."""
        return quantized

    def quantize(self, x: Tensor, items: Tensor | None = None) -> Quantization:
        """The loss is what all levels leave, sum_l |r_{l+1}|^2."""
        del items
        codes, quantized, loss = residual_quantize(x, self.codebooks, beta=0.0)
        return Quantization(x, codes, quantized, loss)
