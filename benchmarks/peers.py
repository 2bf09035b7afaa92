"""What a user would write without us: the same losses in plain torch and in torch's own distributions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Normal


def gaussian_kl(mu_q: Tensor, logvar_q: Tensor, mu_p: Tensor, logvar_p: Tensor) -> Tensor:
    """Eq. 14, Zhang et al., SIGIR 2025, as it is usually typed."""
    ratio = (logvar_q.exp() + (mu_q - mu_p).pow(2)) / logvar_p.exp()
    return 0.5 * (logvar_p - logvar_q + ratio - 1).sum(1)


def gaussian_w2(mu_q: Tensor, logvar_q: Tensor, mu_p: Tensor, logvar_p: Tensor) -> Tensor:
    """Eq. 9, Zhang et al., SIGIR 2025, as it is usually typed."""
    sigma_q, sigma_p = torch.exp(0.5 * logvar_q), torch.exp(0.5 * logvar_p)
    return ((mu_p - mu_q).pow(2) + (sigma_p - sigma_q).pow(2)).sum(1).sqrt()


def gaussian_kl_distributions(mu_q: Tensor, logvar_q: Tensor, mu_p: Tensor, logvar_p: Tensor) -> Tensor:
    """torch.distributions."""
    q, p = Normal(mu_q, torch.exp(logvar_q / 2)), Normal(mu_p, torch.exp(logvar_p / 2))
    return torch.distributions.kl_divergence(q, p).sum(1)
