"""RK-means: k-means on each level of what the levels before have left, without a network.

The authors of GRID (Ju et al., 2025) find it no worse than RQ-VAE; it takes seconds, and there is nothing to collapse.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from .base import Fitted, Report, TokenizerOptions
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
        """Vectors are their own latents."""
        return Fitted(state["codebooks"], lambda rows: np.asarray(rows, dtype=np.float64), state)
