"""The finished runs of an experiment as cells (model x dataset), and comparisons of variants with their bases."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import Config
from ..errors import DmrecError, did_you_mean
from ..eval.metrics import METRICS, parse_metric
from ..eval.ranking import mean
from ..runs.run import CONFIG, USERS, read_run_config
from ..runs.users import TestedUsers
from .ledger import ROWS, Row, differing_data, read_rows, run_folder
from .plan import NOT_IN_DIGEST, backbone_of
from .statistics import (
    NO_INTERVAL,
    Interval,
    PairedTest,
    paired_test,
    resampled_means,
    two_level_interval,
    welch,
)

NO_VALUES = np.zeros(0)


@dataclass(frozen=True)
class Cell:
    """A model on a dataset: the rows and folders of its finished runs, by seed."""

    dataset: str
    model: str
    rows: dict[int, Row]
    folders: dict[int, Path]
    config: Config

    @property
    def strategy(self) -> str | None:
        """The matching strategy; None for a model without language."""
        return self.config.matching.strategy if self.config.matching else None

    def value(self, metric: str, seed: int) -> float:
        """The metric on the test interactions, as it was measured, or from the ranks that the run has kept."""
        measured = self.rows[seed]["test"]
        return (
            float(measured[metric]) if metric in measured else mean(torch.from_numpy(self.users[seed].values(metric)))
        )

    def values(self, metric: str) -> list[float]:
        """`value` of each seed, in rising order of seeds."""
        return [self.value(metric, seed) for seed in sorted(self.rows)]

    def mean(self, metric: str, seeds: Sequence[int] | None = None) -> float:
        """The mean of the metric on the test interactions over ``seeds``, by default all."""
        return float(statistics.mean(self.value(metric, seed) for seed in seeds or sorted(self.rows)))

    def measures(self, metric: str) -> bool:
        """Whether `value` knows this metric of all seeds."""
        return all(metric in row["test"] or self.users[seed].measures(metric) for seed, row in self.rows.items())

    @cached_property
    def users(self) -> dict[int, TestedUsers]:
        """By seed, what the run has kept of the users that it was tested on."""
        return {seed: TestedUsers(folder / USERS) for seed, folder in self.folders.items()}


Resampled = dict[tuple[str, str, str], np.ndarray]
"""By dataset, model and metric, (draws, seeds), see `resampled`."""


@dataclass(frozen=True)
class Comparison:
    """A variant compared with its base in one metric, over the seeds that both have."""

    dataset: str
    base: str
    variant: str
    metric: str
    seeds: PairedTest
    users: PairedTest  # each user's mean over seeds; NaN where the metric has no value for a single user
    welch: float  # p-value over seeds, which two models do not share even where they have equal numbers
    both: Interval  # over seeds and users


def collect(folder: Path) -> tuple[list[Cell], list[Row]]:
    """The cells of an experiment in the order in which they were started, and the rows of failed runs.

    Raises:
        DmrecError: the folder has no rows, runs on two versions of a dataset, or a row whose run is missing.
    """
    rows = read_rows(folder)
    if name := differing_data([row for row in rows if row["state"] == "finished"]):
        raise DmrecError(f"{folder} holds runs on two versions of {name}, which cannot be compared")
    if not rows:
        raise DmrecError(f"{folder} holds no rows of an experiment; run one: dmrec experiment FILE.yaml")
    cells: dict[tuple[str, str], Cell] = {}
    for row in rows:
        if row["state"] == "finished":
            path = run_folder(folder, row)
            if not (path / CONFIG).exists():
                raise DmrecError(f"{folder / ROWS} has a row of {path}, which is gone: run the experiment again")
            key = row["dataset"], row["model"]
            if key not in cells:
                cells[key] = Cell(*key, {}, {}, read_run_config(path / CONFIG))
            cells[key].rows[row["seed"]] = row
            cells[key].folders[row["seed"]] = path
    return list(cells.values()), [row for row in rows if row["state"] == "failed"]


def base_of(cell: Cell, cells: Sequence[Cell]) -> Cell | None:
    """What ``cell`` is compared with on its dataset; None if there is none, or ``cell`` is a base itself.

    For a model that reads the texts of items (``model.item_text``), the first that is the same in everything but that,
    if the experiment has it. Otherwise, for a model with language, the one with the same backbone and no language; of
    several, the one that has the name of the backbone. For a model with an alignment of codes, the first that is the
    same in everything but the alignment: it has none, or, as a tokenizer that learns needs one, ETEGRec's.
    """
    others = [each for each in cells if each.dataset == cell.dataset]
    if _item_text(cell) is not None:
        same = [each for each in others if _but(each, "item_text") == _but(cell, "item_text")]
        bare = [each for each in same if _item_text(each) is None]
        if bare:
            return bare[0]
    if cell.config.alignment is not None:
        same = [each for each in others if _but(each, "alignment") == _but(cell, "alignment")]
        bare = [each for each in same if each.config.alignment is None]
        own = [each for each in same if each.config.alignment and each.config.alignment.strategy == "sia"]
        first = next(iter([*bare, *own]), None)
        return None if first is cell else first
    kind = backbone_of(cell.config)
    if kind is None or cell.config.language is None:
        return None
    bases = [each for each in others if backbone_of(each.config) == kind and each.config.language is None]
    return min(bases, key=lambda each: each.model != kind, default=None)


def _item_text(cell: Cell) -> Any:
    return getattr(cell.config.model, "item_text", None)


def _but(cell: Cell, option: str) -> dict[str, Any]:
    """All options that decide what the recommender is and how long it learns, except one, a section or of the model."""
    options = cell.config.model_dump(exclude={"name", "data"})
    for name in NOT_IN_DIGEST:
        options["training"].pop(name)
    options.pop(option, None)
    options["model"].pop(option, None)
    return options


def comparisons(
    cells: Sequence[Cell], metrics: Sequence[str], drawn: Resampled, against: Sequence[str] = ()
) -> list[Comparison]:
    """Compares each variant with its base, and every model with those named in ``against``, in each metric.

    Args:
        cells: the models.
        metrics: to compare them in.
        drawn: what `resampled` returns for these.
        against: names of models.

    Raises:
        DmrecError: no run has the name of a model in ``against``, or two models were tested on different users.
    """
    found = []
    pairs = [(cell, base) for cell, base in _pairs(cells, against) if shared_seeds(cell, base)]
    for cell, base in pairs:
        seeds = shared_seeds(cell, base)
        of_variant = [cell.users[seed] for seed, _ in seeds]
        of_base = [base.users[seed] for _, seed in seeds]
        for metric in metrics:
            by_seed = (
                np.array([base.value(metric, seed) for _, seed in seeds]),
                np.array([cell.value(metric, seed) for seed, _ in seeds]),
            )
            by_user = [
                np.asarray(np.mean([_values(each, metric) for each in runs], axis=0)) for runs in (of_base, of_variant)
            ]
            tests = paired_test(*by_seed), paired_test(*by_user)
            alone = welch(np.array(base.values(metric)), np.array(cell.values(metric)))
            a, b = (drawn.get((each.dataset, each.model, metric)) for each in (base, cell))
            both = NO_INTERVAL if a is None or b is None else two_level_interval(a, b)
            found.append(Comparison(cell.dataset, base.model, cell.model, metric, *tests, alone, both))
    return found


def resampled(cells: Sequence[Cell], metrics: Sequence[str]) -> Resampled:
    """By dataset, model and metric, (draws, seeds): means over users who are drawn with replacement, the same users for
    all models of a dataset. Without metrics that single users do not have.
    """
    found = {}
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        keys, rows = [], []
        for cell in (cell for cell in cells if cell.dataset == dataset):
            for metric in metrics:
                of_seeds = [_values(users, metric) for _, users in sorted(cell.users.items())]
                if all(len(values) for values in of_seeds):
                    keys.append((cell.model, metric, len(of_seeds)))
                    rows += of_seeds
        means, start = resampled_means(np.stack(rows)) if rows else np.empty((0, 0)), 0
        for model, metric, count in keys:
            found[dataset, model, metric] = means[:, start : start + count]
            start += count
    return found


def _pairs(cells: Sequence[Cell], against: Sequence[str]) -> list[tuple[Cell, Cell]]:
    """What is compared with what, each pair once."""
    models = dict.fromkeys(cell.model for cell in cells)
    for name in against:
        if name not in models:
            raise DmrecError(f"no run of a model '{name}' has finished{did_you_mean(name, models)}")
    pairs = [(cell, base) for cell in cells if (base := base_of(cell, cells)) is not None]
    for name in against:
        for base in (each for each in cells if each.model == name):
            others = [each for each in cells if each.dataset == base.dataset and each is not base]
            pairs += [(each, base) for each in others if (each, base) not in pairs and (base, each) not in pairs]
    return pairs


def check_users(cells: Sequence[Cell]) -> None:
    """Checks that all models of a dataset were tested on the same users.

    Raises:
        DmrecError: they were not.
    """
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        first, *others = [cell for cell in cells if cell.dataset == dataset]
        expected = next(iter(first.users.values())).user
        for cell in (first, *others):
            if any(not np.array_equal(users.user, expected) for users in cell.users.values()):
                raise DmrecError(
                    f"{dataset}: runs of {cell.model} were tested on other users than those of {first.model}"
                )


def shared_seeds(cell: Cell, base: Cell) -> list[tuple[int, int]]:
    """The seeds with which both have finished, in rising order, of either. A model without anything random has one run,
    which goes with all seeds of the other.
    """
    random, of_base = cell.config.model.is_random, base.config.model.is_random
    if random and not of_base:
        return [(seed, min(base.rows)) for seed in sorted(cell.rows)]
    if of_base and not random:
        return [(min(cell.rows), seed) for seed in sorted(base.rows)]
    return [(seed, seed) for seed in sorted(cell.rows.keys() & base.rows.keys())]


def _values(users: TestedUsers, metric: str) -> np.ndarray:
    """(U,), or (0,) for a metric that single users do not have."""
    return users.values(metric) if users.measures(metric) else NO_VALUES


def shared_metrics(cells: Sequence[Cell], requested: Sequence[str] | None, preferred: Sequence[str]) -> list[str]:
    """The metrics to report, all of which every run has measured, or has kept enough for.

    Args:
        cells: the cells to report.
        requested: the metrics, if they were chosen.
        preferred: otherwise, these, as far as they were measured; if none of them was, all that were measured.

    Raises:
        DmrecError: not all runs measured a requested metric.
    """
    measured = [set(row["test"]) for cell in cells for row in cell.rows.values()]
    shared = set.intersection(*measured) if measured else set()
    for metric in requested or ():
        kind, _ = parse_metric(metric)
        if metric not in shared and not all(cell.measures(metric) for cell in cells):
            if kind not in METRICS:  # of lists, or of the whole ranking
                raise DmrecError(
                    f"'{metric}' does not follow from the ranks that runs keep: name it in evaluation.metrics before "
                    "they start, or measure each with dmrec evaluate --metric"
                )
            hint = did_you_mean(metric, shared)
            raise DmrecError(f"not all runs measured '{metric}', or kept as many ranks{hint}")
    if requested:
        return list(requested)
    return [metric for metric in preferred if metric in shared] or sorted(shared)


def summary(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A result for each cell: means and standard deviations over seeds."""
    results = []
    for cell in cells:
        rows = [row for _, row in sorted(cell.rows.items())]
        measured = next((split for split in ("test", "valid") if rows[0].get(split)), None)
        figures = [row[measured] if measured else {} for row in rows]
        values = {metric: [each[metric] for each in figures] for metric in figures[0]}
        result = {
            "name": cell.model,
            "dataset": cell.dataset,
            "seed": sorted(cell.rows),
            "test": {metric: statistics.mean(each) for metric, each in values.items()},
            "test_deviation": {m: statistics.stdev(each) for m, each in values.items()} if len(rows) > 1 else None,
            "measured": measured,
            "test_users": rows[0]["test_users"],
            "vectors": rows[0].get("vectors"),
            "device": rows[0].get("device"),
        }
        if "epochs" in rows[0]:
            result["best_epoch"] = [row["best_epoch"] for row in rows]
            result["seconds_per_epoch"] = statistics.mean(row["seconds_per_epoch"] for row in rows)
            result["epoch_limit"] = cell.config.epochs
        results.append(result)
    return results
