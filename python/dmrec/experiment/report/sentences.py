"""What a report says first: who is best by how much, in sentences that claim only what the intervals allow."""

from __future__ import annotations

import math

from ..comparisons import base_of, comparisons
from .contents import Contents, Section, Tested, corrected
from .tables import SIGNIFICANT, p_value, signed


def sentences(found: Contents, section: Section) -> list[str]:
    """Two or three sentences on a dataset: the best model, what it is level with, what its variants gain.

    One model is called better than another where the 95 % interval of the difference over seeds and users excludes 0
    and p is below 0.05 after Holm, over the comparisons of the best model or of all variants with their bases;
    otherwise they are called level.
    """
    metric = found.primary
    lines = sorted(section.lines, key=lambda line: -line.means[metric])
    best = lines[0]
    said = [f"{best.model} has the highest {metric}, {best.means[metric]:.4f}."]
    if len(lines) > 1:
        compared = comparisons([line.cell for line in lines], [metric], found.drawn, [best.model])
        against = corrected([c for c in compared if best.model in (c.base, c.variant)])
        said.append(_against(best.model, against))
        if len({tuple(line.cell.rows) for line in lines if len(line.cell.rows) > 1}) > 1:
            said[-1] += " Differences are over the seeds that both have."
    cells = [line.cell for line in section.lines]
    bases = {cell.model: base.model for cell in cells if (base := base_of(cell, cells)) is not None}
    of_bases = [
        each.comparison for each in section.tested if bases.get(each.comparison.variant) == each.comparison.base
    ]
    variants = corrected([c for c in of_bases if c.metric == metric])
    for gain in section.gains:
        chosen = len([base for base in bases.values() if base == gain.base]) > 1
        said += [_gain(each, metric, chosen) for each in variants if each.comparison.variant == gain.variant]
    return said


def _against(best: str, tested: list[Tested]) -> str:
    """Of the best model and all others."""
    level: list[tuple[str, float, float, float]] = []
    better: list[tuple[str, float, float, float]] = []
    for each in tested:
        c = each.comparison
        sign = 1 if c.variant == best else -1
        low, high = sorted((sign * c.both.low, sign * c.both.high))
        other = c.base if c.variant == best else c.variant
        group = better if low > 0 and each.over_both < SIGNIFICANT else level
        group.append((other, sign * c.users.difference, low, high))
    level.sort(key=lambda entry: entry[1])
    better.sort(key=lambda entry: entry[1])
    parts = []
    if better:
        name, difference, low, high = better[0]
        count = (
            f"the {len(better)} other models" if not level else f"{len(better)} of {len(better) + len(level)} others"
        )
        parts.append(
            f"It is above {count}; the nearest of these is {name}, by {difference:.4f} "
            f"(95 % interval {low:.4f} to {high:.4f})"
        )
    if level:
        names = ", ".join(f"{name} ({signed(difference)})" for name, difference, _, _ in level[:6])
        more = f" and {len(level) - 6} more" if len(level) > 6 else ""
        parts.append(f"{'it' if parts else 'It'} is level with {names}{more}")
    return "; ".join(parts) + "."


def _gain(each: Tested, metric: str, chosen: bool) -> str:
    """Of a variant and its base; ``chosen``: by validation, among several variants."""
    c = each.comparison
    if math.isnan(c.both.low):
        return (
            f"{c.variant} and {c.base} differ by {signed(c.seeds.difference)} in {metric}; users' values are not known."
        )
    span = f"{signed(c.users.difference)} in {metric}, 95 % interval {signed(c.both.low)} to {signed(c.both.high)}"
    span += f", p {p_value(each.over_both)} after Holm's correction"
    variant = f"{c.variant}, which validation prefers of its variants," if chosen else c.variant
    if c.both.low > 0 and each.over_both < SIGNIFICANT:
        return f"{variant} is above its base {c.base} ({span})."
    if c.both.high < 0 and each.over_both < SIGNIFICANT:
        return f"{variant} is below its base {c.base} ({span})."
    return f"{variant} is level with its base {c.base} ({span})."
