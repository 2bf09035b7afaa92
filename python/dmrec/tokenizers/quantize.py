"""Residual quantization: a vector as a sum of one code vector of each level."""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import Tensor

from .kmeans import nearest

ResidualGradient = Literal["first", "all", "full"]
"""What levels after the first teach: nothing; the latents; or codes of earlier levels, too."""


def left_by(left: Tensor, taken: Tensor, residual_gradient: ResidualGradient) -> Tensor:
    """What a level leaves of ``left`` (n, D) when it takes ``taken`` off."""
    match residual_gradient:
        case "all":
            return left - taken.detach()
        case "full":
            return left - taken
        case _:
            return (left - taken).detach()


def residual_codes(x: np.ndarray, codebooks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The codes (n, levels) int64 of the rows of ``x`` (n, D), and what is left of these (n, D) float64.

    On each level of ``codebooks`` (levels, C, D) the nearest code of what the levels before have left; of several, the
    first. The same for any number of threads and any other rows.
    """
    left = np.asarray(x, dtype=np.float64).copy()
    codes = np.empty((len(left), len(codebooks)), dtype=np.int64)
    for level, codebook in enumerate(np.asarray(codebooks, dtype=np.float64)):
        codes[:, level] = nearest(left, codebook)
        left -= codebook[codes[:, level]]
    return codes, left
