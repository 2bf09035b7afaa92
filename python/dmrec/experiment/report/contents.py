"""What a report on an experiment says, before it is written as Markdown, LaTeX, HTML or to the terminal."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import DmrecError
from ..comparisons import (
    Cell,
    Comparison,
    Resampled,
    base_of,
    check_users,
    collect,
    comparisons,
    resampled,
    shared_metrics,
    shared_seeds,
)
from ..ledger import Row
from ..plan import backbone_of, compared_with
from ..statistics import holm, interval_of_mean
from .paper import METRICS, MODELS, published_figures

PRIMARY = "recall@20"


@dataclass(frozen=True)
class Line:
    """A model on a dataset: means over seeds of the metrics on the test interactions, and how the means rank."""

    cell: Cell
    means: dict[str, float]
    deviations: dict[str, float]  # over seeds; empty with one seed
    intervals: dict[str, tuple[float, float]]  # 95 %, over seeds and users; of metrics that single users have
    ranks: dict[str, int]  # 0 for the best value as it is printed, 1 for the second best, 2 for the others
    published: dict[str, float]  # the paper's figures for this model, where it has them

    @property
    def model(self) -> str:
        """Its name."""
        return self.cell.model

    @property
    def seeds(self) -> int:
        """How many."""
        return len(self.cell.rows)


@dataclass(frozen=True)
class Gain:
    """How much the best variant of a base, by validation, is above the base: relative, over the seeds of both."""

    base: str
    variant: str
    values: dict[str, float | None]  # by metric; None where the base has 0


@dataclass(frozen=True)
class Tested:
    """A comparison with its p-values corrected by Holm's method over all comparisons of the report."""

    comparison: Comparison
    over_both: float
    over_users: float
    over_ranks: float  # Wilcoxon, over users
    over_seeds: float  # paired
    welch: float  # over seeds


@dataclass(frozen=True)
class Section:
    """A dataset."""

    dataset: str
    users: int  # that were tested
    lines: list[Line]
    gains: list[Gain]
    tested: list[Tested]


@dataclass(frozen=True)
class Contents:
    """All of it."""

    folder: Path
    metrics: list[str]
    sections: list[Section]
    used: dict[str, list[str]]  # text vectors, precision, device of the runs
    failed: list[Row]
    drawn: Resampled

    @property
    def primary(self) -> str:
        """The metric of the figures and sentences."""
        return PRIMARY if PRIMARY in self.metrics else self.metrics[0]


def contents(folder: Path, metrics: Sequence[str] | None = None, against: Sequence[str] | None = None) -> Contents:
    """What there is to say of the experiment in ``folder``.

    Args:
        folder: an experiment folder.
        metrics: those to report; by default the paper's, as far as all runs have measured them.
        against: names of models with which every other model is compared, besides variants with their bases; by default
            those that the experiment's file names.

    Raises:
        DmrecError: no run has finished, or their results cannot be compared.
    """
    cells, failed = collect(folder)
    if not cells:
        raise DmrecError("\n".join([f"{folder}: no run has finished", *map(in_words, failed)]))
    chosen = shared_metrics(cells, metrics, METRICS)
    check_users(cells)
    drawn = resampled(cells, chosen)
    if against is None:
        models = {cell.model for cell in cells}
        against = [name for name in compared_with(folder) if name in models]  # others have not finished yet
    found = comparisons(cells, chosen, drawn, against)
    tested = corrected(found)
    sections = []
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        mine = [cell for cell in cells if cell.dataset == dataset]
        users = max(row["test_users"] for cell in mine for row in cell.rows.values())
        of_dataset = [each for each in tested if each.comparison.dataset == dataset]
        lines = _lines(mine, chosen, drawn)
        sections.append(Section(dataset, users, lines, _gains(mine, chosen), of_dataset))
    used = {}
    for key in ("vectors", "precision", "device"):
        used[key] = sorted({str(row[key]) for cell in cells for row in cell.rows.values() if row.get(key)})
    return Contents(folder, chosen, sections, used, failed, drawn)


def in_words(row: Row) -> str:
    """A failed run, as a line of a list."""
    return f"- {row['dataset']} {row['model']} {row['seed']}: {row['error']}"


def corrected(found: Sequence[Comparison]) -> list[Tested]:
    """With p-values corrected over all of them."""
    columns = [
        holm(values)
        for values in (
            [c.both.p for c in found],
            [c.users.p_t for c in found],
            [c.users.p_wilcoxon for c in found],
            [c.seeds.p_t for c in found],
            [c.welch for c in found],
        )
    ]
    return [Tested(c, *values) for c, *values in zip(found, *columns, strict=True)]


def _lines(cells: Sequence[Cell], metrics: Sequence[str], drawn: Resampled) -> list[Line]:
    means = [{metric: cell.mean(metric) for metric in metrics} for cell in cells]
    ranks = {metric: _ranks([each[metric] for each in means]) for metric in metrics}
    lines = []
    for i, cell in enumerate(cells):
        values = {metric: cell.values(metric) for metric in metrics}
        deviations = {m: statistics.stdev(each) for m, each in values.items()} if len(cell.rows) > 1 else {}
        published = {m: value for m in metrics if (value := _published(cell, m)) is not None}
        keys = {metric: (cell.dataset, cell.model, metric) for metric in metrics}
        intervals = {metric: interval_of_mean(drawn[key]) for metric, key in keys.items() if key in drawn}
        lines.append(Line(cell, means[i], deviations, intervals, {m: ranks[m][i] for m in metrics}, published))
    return lines


def _ranks(values: Sequence[float]) -> list[int]:
    distinct = sorted({round(value, 4) for value in values}, reverse=True)
    return [min(distinct.index(round(value, 4)), 2) for value in values]


def _published(cell: Cell, metric: str) -> float | None:
    """The paper's figure for a model that is one of its recipes, with any beta."""
    if cell.model.partition(".")[0] not in MODELS:
        return None
    return (published_figures(cell.dataset, backbone_of(cell.config), cell.strategy) or {}).get(metric)


def _gains(cells: Sequence[Cell], metrics: Sequence[str]) -> list[Gain]:
    """For each base, the variant that validation prefers."""
    variants: dict[str, list[tuple[Cell, Cell]]] = {}
    for cell in cells:
        base = base_of(cell, cells)
        if base is not None and shared_seeds(cell, base):
            variants.setdefault(base.model, []).append((cell, base))
    found = []
    for name, pairs in variants.items():
        cell, base = max(pairs, key=lambda pair: best_validation(pair[0]))
        found.append(Gain(name, cell.model, {metric: _gain(cell, base, metric) for metric in metrics}))
    return found


def best_validation(cell: Cell) -> float:
    """The mean over seeds of the metric that chose the epochs, on validation."""
    monitor = cell.config.training.monitor
    return float(statistics.mean(row.get("valid", {}).get(monitor, -math.inf) for row in cell.rows.values()))


def _gain(cell: Cell, base: Cell, metric: str) -> float | None:
    seeds = shared_seeds(cell, base)
    of_base = base.mean(metric, [seed for _, seed in seeds])
    if of_base == 0:
        return None
    return cell.mean(metric, [seed for seed, _ in seeds]) / of_base - 1
