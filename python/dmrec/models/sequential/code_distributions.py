"""Distributions of a latent over the codes of residual codebooks: what SODA and ETEGRec's alignment compare.

On level l, with r_1 the latent and C_l the codebook, p_l = softmax(-|r_l - C_l|^2 / tau_l): the nearest code is the
likeliest. Released code of ETEGRec and UniGRec has the sign of the distance the other way round.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from ...tokenizers.quantize import ResidualGradient, left_by


def code_logits(
    latents: Tensor,
    codebooks: Tensor,
    temperature: Tensor,
    *,
    residual_gradient: ResidualGradient = "all",
    soft: bool = False,
    codes: Tensor | None = None,
) -> Tensor:
    """Logits over the codes of each level.

    Args:
        latents: (B, D).
        codebooks: (L, C, D).
        temperature: (L,), in squared units of the latents.
        residual_gradient: what levels after the first teach: ``"all"``, the latents; ``"full"``, codes of earlier
            levels, too; ``"first"``, neither.
        soft: a level takes the mean of its codes off, weighted by their probabilities, in place of the nearest one.
        codes: (B, L) int64 that levels take off in place of the nearest ones.

    Returns:
        (B, L, C): (2 r_l C_l - |C_l|^2) / tau_l. That is -|r_l - C_l|^2 / tau_l but for a number that is the same for
        all codes and falls out of every softmax, with its gradient. At least float32, also under autocast.
    """
    device = latents.device.type
    exactly = torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
    with exactly:
        left = latents if latents.dtype == torch.float64 else latents.float()
        found = []
        for level, codebook in enumerate(codebooks.to(left.dtype)):
            logits = (2 * left @ codebook.T - codebook.square().sum(1)) / temperature[level]
            found.append(logits)
            if soft:
                taken = torch.softmax(logits, -1) @ codebook
            else:
                taken = codebook[logits.detach().argmax(-1) if codes is None else codes[:, level]]
            left = left_by(left, taken, residual_gradient)
        return torch.stack(found, 1)


def calibrated_temperature(
    latents: Tensor, codebooks: Tensor, perplexity: float, *, soft: bool = False, tolerance: float = 1e-3
) -> Tensor:
    """(L,) temperatures at which the latents' distributions have this perplexity on each level, on average.

    A fixed temperature says little: on unit MiniLM vectors, 1 gives 251 of 256 codes the same probability, .05 a
    perplexity of 2 on the first level and of 36 on the third. So each level's is found by bisection, from the first on,
    as with ``soft`` later levels depend on it. Latents with several nearest codes on a level do not count there: no
    temperature makes them sure of one.

    Args:
        latents: (N, D), of all items.
        codebooks: (L, C, D).
        perplexity: of a distribution: the exponential of its entropy; more than 1, less than the number of codes.
        soft: as for `code_logits`.
        tolerance: of the mean perplexity.

    Raises:
        ValueError: the perplexity is out of range, or cannot be reached: codes or latents of a level are all the same.
    """
    n_codes = codebooks.shape[1]
    if not 1 < perplexity < n_codes:
        raise ValueError(f"perplexity must lie between 1 and the number of codes ({n_codes}), got {perplexity}")
    found = torch.ones(codebooks.shape[0], dtype=torch.float64)
    exact, books = latents.detach().double(), codebooks.detach().double()
    for level in range(len(books)):
        lowest, highest, mean = 1e-12, 1e12, float(n_codes)
        hard = code_logits(exact, books[: level + 1], found[: level + 1], soft=soft)[:, -1]
        counted = exact[(hard >= hard.amax(1, keepdim=True) - 1e-9 * hard.abs().amax()).sum(1) == 1]
        for _ in range(200):
            found[level] = (lowest * highest) ** 0.5
            if not len(counted):
                continue
            logits = code_logits(counted, books[: level + 1], found[: level + 1], soft=soft)[:, -1]
            mean = float(perplexity_of(logits).mean())
            if abs(mean - perplexity) <= tolerance:
                break
            lowest, highest = (found[level].item(), highest) if mean < perplexity else (lowest, found[level].item())
        else:
            raise ValueError(
                f"no temperature gives level {level + 1} the perplexity {perplexity} (it ends at {mean:.3g}): its "
                "codes, or what the levels before leave, are all the same"
            )
    return found.to(latents.dtype)


def perplexity_of(logits: Tensor) -> Tensor:
    """(..): exponentials of the entropies of the distributions with logits (.., C)."""
    log_p = torch.log_softmax(logits, -1)
    return torch.exp(-(log_p.exp() * log_p).sum(-1))
