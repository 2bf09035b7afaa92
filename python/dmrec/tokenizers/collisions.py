"""What happens to items that share a tuple of codes."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..errors import DmrecError, did_you_mean
from .sinkhorn import sinkhorn

RULES = ("reassign", "token", "sinkhorn", "keep")
SINKHORN_ROUNDS = 20


def groups_of(codes: np.ndarray) -> list[np.ndarray]:
    """The rows of ``codes`` (n, levels) that share a tuple: an ascending array for each tuple of several rows."""
    _, group, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    group = group.reshape(-1)
    order = np.argsort(group, kind="stable")
    parts = np.split(order, np.cumsum(counts)[:-1])
    return [part for part in parts if len(part) > 1]


def in_collisions(codes: np.ndarray) -> int:
    """How many rows share their tuple with another."""
    return sum(map(len, groups_of(codes)))


def resolve_collisions(
    codes: np.ndarray, size: int, rule: str, residuals: np.ndarray | None = None, codebook: np.ndarray | None = None
) -> tuple[np.ndarray, int]:
    """Codes whose tuples are distinct, as far as ``rule`` makes them so, and the number of codes of a level.

    Args:
        codes: (n, levels), each below ``size``.
        rule: "reassign" moves as few items as possible to free codes of the last level, and of these to near ones;
            where more than ``size`` items share all codes but the last, "token" is used. "token" adds a level that
            numbers the items of a tuple. "sinkhorn" gives the items of a tuple other codes of the last level, up to 20
            times, where there are residuals; what is left stays. "keep" leaves them.
        residuals: (n, D) what the levels but the last have left; without, all free codes are equally near.
        codebook: (size, D) of the last level.

    Raises:
        DmrecError: the rule is unknown, or a tuple has more items than there are codes to number them.
    """
    if rule not in RULES:
        raise DmrecError(f"unknown rule for collisions '{rule}'{did_you_mean(rule, RULES)}")
    if rule == "sinkhorn" and residuals is not None and codebook is not None:
        return _sinkhorn_rounds(codes, residuals, codebook), size
    if rule in ("keep", "sinkhorn"):
        return codes, size
    if rule == "reassign":
        moved = reassigned(codes, size, residuals, codebook)
        if moved is not None:
            return moved, size
    return with_token(codes, size)


def codes_of_width(
    codes: np.ndarray, size: int, rule: str, residuals: np.ndarray, codebook: np.ndarray, *, levels: int
) -> np.ndarray:
    """(n, levels): like `resolve_collisions`, for a number of levels that cannot change, whatever the codes are.

    With a level more than ``codes`` have, it numbers the items of a tuple, those from ``size`` on alike. Otherwise what
    the rule cannot tell apart stays as it is.
    """
    if levels > codes.shape[1]:
        return np.column_stack([codes, np.minimum(_numbers(codes), size - 1)])
    if rule == "reassign":
        moved = reassigned(codes, size, residuals, codebook)
        return codes if moved is None else moved
    return resolve_collisions(codes, size, rule, residuals, codebook)[0]


def with_token(codes: np.ndarray, size: int) -> tuple[np.ndarray, int]:
    """A further level: the number of an item among those of its tuple, in order; 0 for all others."""
    token = _numbers(codes)
    if token.max(initial=0) >= size:
        worst = int(token.argmax())
        shared = ", ".join(map(str, codes[worst].tolist()))
        raise DmrecError(
            f"{token[worst] + 1} items have the codes {shared}, more than the {size} codes of a level that could "
            "number them: the tokenizer tells them not apart; train it longer, or with other vectors"
        )
    return np.column_stack([codes, token]), size


def _numbers(codes: np.ndarray) -> np.ndarray:
    """(n,) the number of each row among those that are equal, in order."""
    found = np.zeros(len(codes), dtype=np.int64)
    for rows in groups_of(codes):
        found[rows] = np.arange(len(rows))
    return found


def codes_of_new_items(
    known: np.ndarray, new: np.ndarray, size: int, residuals: np.ndarray, codebook: np.ndarray
) -> np.ndarray:
    """Codes of items that join others: as `reassigned` for the new ones alone; those of the known ones stay.

    Args:
        known: (N, levels) codes of the items that there are.
        new: (n, levels) codes that a tokenizer gives the new ones.
        size: codes of a level.
        residuals: (n, D) what the levels but the last have left of the new ones.
        codebook: (size, D) of the last level.

    Returns:
        (n, levels). Where more than ``size`` items share all codes but the last, some share all.
    """
    all_codes = np.concatenate([known, new]).astype(np.int64)
    padded = np.concatenate([np.zeros((len(known), residuals.shape[1])), residuals])
    found = reassigned(all_codes, size, padded, codebook, fixed=len(known))
    return (all_codes if found is None else found)[len(known) :]


def reassigned(
    codes: np.ndarray,
    size: int,
    residuals: np.ndarray | None = None,
    codebook: np.ndarray | None = None,
    *,
    fixed: int = 0,
) -> np.ndarray | None:
    """Distinct tuples by other codes of the last level: as few as possible, then as near as possible, then the lowest.

    The first ``fixed`` rows keep theirs. None where more than ``size`` items share all codes but the last.
    """
    found = np.array(codes, dtype=np.int64)
    _, prefix = np.unique(found[:, :-1], axis=0, return_inverse=True)
    prefix = prefix.reshape(-1)
    crowded = np.unique(prefix[np.concatenate([np.zeros(0, dtype=np.int64), *groups_of(found)])])
    for number in crowded:
        rows = np.flatnonzero(prefix == number)
        if len(rows) > size:
            return None
        distance = np.zeros((len(rows), size))
        if residuals is not None and codebook is not None:
            distance = ((residuals[rows, None, :] - codebook[None].astype(np.float64)) ** 2).sum(2)
        stands = rows < fixed
        distance[stands] = 0
        # a change costs more than all distances together, of a row that stands more than all changes; then the lowest
        tie = np.arange(size) * (1e-12 * max(float(distance.max()), 1.0) / size)
        stays = np.arange(size) == found[rows, -1][:, None]
        change = distance.sum() + len(rows) * tie[-1] + 1.0
        price = np.where(stands, (len(rows) + 1) * change, change)[:, None]
        _, chosen = linear_sum_assignment(np.where(stays, 0.0, price) + distance + tie)
        found[rows, -1] = np.where(stands, found[rows, -1], chosen)
    return found


def _sinkhorn_rounds(codes: np.ndarray, residuals: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Codes with other codes of the last level for items that share a tuple: up to 20 times; what is left stays."""
    found = np.array(codes, dtype=np.int64)
    for _ in range(SINKHORN_ROUNDS):
        groups = groups_of(found)
        if not groups:
            break
        for rows in groups:
            distance = ((residuals[rows, None, :] - codebook[None].astype(np.float64)) ** 2).sum(2)
            found[rows, -1] = sinkhorn(distance)
    return found
