"""A batch of diagonal Gaussians."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """Means and natural logarithms of the variances, (B, D) each."""

    mu: Tensor
    logvar: Tensor

    @classmethod
    def from_output(cls, output: Tensor) -> Gaussian:
        """The halves of a (B, 2D) layer output, in float32 at least."""
        mu, logvar = output.to(torch.promote_types(output.dtype, torch.float32)).chunk(2, dim=1)
        return cls(mu, logvar)

    def sample(self) -> Tensor:
        """z = mu + eps exp(logvar / 2), eps standard normal."""
        return self.mu + torch.randn_like(self.mu) * torch.exp(0.5 * self.logvar)

    def __add__(self, other: object) -> Gaussian:
        """Means added, log-variances added: how the authors' code fuses posteriors (variances multiply)."""
        if not isinstance(other, Gaussian):
            return NotImplemented
        return Gaussian(self.mu + other.mu, self.logvar + other.logvar)
