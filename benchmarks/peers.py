"""What a user would write without us: the same losses in plain torch and in torch's own distributions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Normal

torch._dynamo.config.recompile_limit = 64  # a graph for each size: beyond 8 torch.compile would run eagerly, silently


def gaussian_kl(mu_q: Tensor, logvar_q: Tensor, mu_p: Tensor, logvar_p: Tensor) -> Tensor:
    """Eq. 14, Zhang et al., SIGIR 2025, as it is usually typed."""
    ratio = (logvar_q.exp() + (mu_q - mu_p).pow(2)) / logvar_p.exp()
    return 0.5 * (logvar_p - logvar_q + ratio - 1).sum(1)


def gaussian_w2(mu_q: Tensor, logvar_q: Tensor, mu_p: Tensor, logvar_p: Tensor) -> Tensor:
    """Eq. 9, Zhang et al., SIGIR 2025, as it is usually typed."""
    sigma_q, sigma_p = torch.exp(0.5 * logvar_q), torch.exp(0.5 * logvar_p)
    return ((mu_p - mu_q).pow(2) + (sigma_p - sigma_q).pow(2)).sum(1).sqrt()


def standard_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """Eq. 2."""
    return 0.5 * (mu.pow(2) + logvar.exp() - 1 - logvar).sum(1)


def composite_prior(mu_q: Tensor, logvar_q: Tensor, mu_p: Tensor, logvar_p: Tensor) -> Tensor:
    """Eq. 11 and 12, log-linear, alpha 1/2."""
    mu, logvar = 0.5 * (mu_q + mu_p), 0.5 * (logvar_q + logvar_p)
    return gaussian_kl(mu_p, logvar_p, mu, logvar) + gaussian_kl(mu_q, logvar_q, mu, logvar)


def godm(mu_c: Tensor, logvar_c: Tensor, mu_l: Tensor, logvar_l: Tensor, beta: float) -> Tensor:
    """Eq. 10."""
    return standard_kl(mu_c + mu_l, logvar_c + logvar_l) + beta * gaussian_w2(mu_c, logvar_c, mu_l, logvar_l)


def cpdm(mu_c: Tensor, logvar_c: Tensor, mu_l: Tensor, logvar_l: Tensor, beta: float) -> Tensor:
    """Eq. 13."""
    mu, logvar = mu_c + mu_l, logvar_c + logvar_l
    return standard_kl(mu, logvar) + beta * composite_prior(mu, logvar, mu_l, logvar_l)


def mddm(mu_c: Tensor, logvar_c: Tensor, mu_l: Tensor, logvar_l: Tensor, beta: float) -> Tensor:
    """Eq. 15."""
    mu, logvar = mu_c + mu_l, logvar_c + logvar_l
    return beta * standard_kl(mu, logvar) + (1 - beta) * gaussian_kl(mu, logvar, mu_l, logvar_l)


MATCHING = {"godm": godm, "cpdm": cpdm, "mddm": mddm}


def gaussian_kl_distributions(mu_q: Tensor, logvar_q: Tensor, mu_p: Tensor, logvar_p: Tensor) -> Tensor:
    """torch.distributions."""
    q, p = Normal(mu_q, torch.exp(logvar_q / 2)), Normal(mu_p, torch.exp(logvar_p / 2))
    return torch.distributions.kl_divergence(q, p).sum(1)


def residual_quantize(x: Tensor, codebooks: Tensor) -> tuple[Tensor, Tensor]:
    """The bottleneck of RQ-VAE as it is usually typed: distances by a product, straight-through; sums and losses."""
    left, total, loss = x, torch.zeros_like(x), x.new_zeros(len(x))
    for book in codebooks:
        distance = left.pow(2).sum(1, keepdim=True) - 2 * left @ book.T + book.pow(2).sum(1)
        chosen = book[distance.argmin(1)]
        loss = loss + (left.detach() - chosen).pow(2).sum(1) + 0.25 * (left - chosen.detach()).pow(2).sum(1)
        total = total + chosen
        left = left - chosen.detach()
    return x + (total - x).detach(), loss


def code_alignment(target: Tensor, prediction: Tensor) -> Tensor:
    """SODA's loss from logits, as it is usually typed."""
    y, log_p = target.softmax(-1), prediction.log_softmax(-1)
    log_n = log_p.exp().mean(0).log()
    return torch.nn.functional.softplus(-(y * (log_p - log_n)).sum((1, 2)))
