"""Residual quantization with straight-through gradients (Zeghidour et al., 2021; Rajput et al., NeurIPS 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import check_choice, check_like, check_tensor, fail, float32_under_autocast
from .gaussian_kl import in_arithmetic_type

RESIDUAL_GRADIENTS = ("first", "all", "full")
BLOCK = 1 << 22  # numbers of distances that are formed at once


def residual_quantize(
    x: Tensor, codebooks: Tensor, *, beta: float = 0.25, residual_gradient: str = "all"
) -> tuple[Tensor, Tensor, Tensor]:
    """Reference of `dmrec_ext.residual_quantize`."""
    x, codebooks = checked_quantize_inputs(x, codebooks, beta, residual_gradient)
    left, books = in_arithmetic_type(x), in_arithmetic_type(codebooks)
    total, loss = torch.zeros_like(left), left.new_zeros(left.shape[0])
    codes = []
    for level in range(books.shape[0]):
        book = books[level]
        code = nearest_code(left.detach(), book.detach())
        chosen = book[code]
        loss = loss + (left.detach() - chosen).square().sum(1) + beta * (left - chosen.detach()).square().sum(1)
        total = total + chosen.detach()
        codes.append(code)
        if residual_gradient == "all":
            left = left - chosen.detach()
        elif residual_gradient == "full":
            left = left - chosen
        else:
            left = (left - chosen).detach()
    stacked = torch.stack(codes, 1) if codes else torch.zeros(x.shape[0], 0, dtype=torch.int64, device=x.device)
    quantized = x - x.detach() + total.to(x.dtype)  # the sum itself; its gradient goes to x
    return stacked, quantized, loss.to(x.dtype)


def nearest_code(x: Tensor, codebook: Tensor) -> Tensor:
    """(B,) int64: the nearest row of (C, D) for each row of (B, D), of several the first; 0 for rows with NaN."""
    n_codes, width = codebook.shape
    parts, step = [], max(BLOCK // max(n_codes * width, 1), 1)
    for begin in range(0, max(x.shape[0], 1), step):
        distance = (x[begin : begin + step, None] - codebook).square().sum(2)
        is_least = distance == distance.min(1, keepdim=True).values
        place = torch.where(is_least, torch.arange(n_codes, device=x.device), n_codes)
        code = place.min(1).values
        parts.append(torch.where(code < n_codes, code, 0))
    return torch.cat(parts)


def checked_quantize_inputs(x: Tensor, codebooks: Tensor, beta: float, residual_gradient: str) -> tuple[Tensor, Tensor]:
    """Both tensors, float32 under autocast; all arguments are checked."""
    op = "residual_quantize"
    check_tensor(op, "x", x, 2)
    check_tensor(op, "codebooks", codebooks, 3)
    x, codebooks = float32_under_autocast(x), float32_under_autocast(codebooks)
    check_like(op, "codebooks", codebooks, "x", x)
    if codebooks.shape[2] != x.shape[1]:
        fail(op, "codebooks", f"have the width of x ({x.shape[1]})", codebooks.shape[2])
    if codebooks.shape[1] == 0:
        fail(op, "codebooks", "have at least one code per level", tuple(codebooks.shape))
    if not beta >= 0:
        fail(op, "beta", "be at least 0", beta)
    check_choice(op, "residual_gradient", residual_gradient, RESIDUAL_GRADIENTS)
    return x, codebooks
