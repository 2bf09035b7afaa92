"""Tables of what came of a grid, in the layout of Table 2 of Zhang et al., SIGIR 2025: Markdown and LaTeX.

A row a model, means over seeds; the best of a column bold, the second underlined. Then, for each backbone, how much the
best of its variants improves on the base. Then every variant beside its base, paired over seeds, and over users (each
user's mean over seeds), with p-values corrected by Holm's method over all comparisons of a table.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import Config
from ..errors import DmrecError, did_you_mean
from ..runs.run import CONFIG, USERS, read_run_config
from .paper import METRICS, published
from .plan import backbone_of
from .runner import ROWS, Row, differing_data, read_rows, run_folder
from .statistics import Paired, compare, holm

NO_USERS = np.zeros(0)
PAPER = {"mult-vae", "cvga", "l-diffrec", *(f"{b}-{s}" for b in ("dmrec", "cvga", "l-diffrec") for s in "gcm")}


@dataclass(frozen=True)
class Cell:
    """A model on a dataset: its finished runs, by seed."""

    dataset: str
    model: str
    rows: dict[int, Row]
    folders: dict[int, Path]
    config: Config

    @property
    def strategy(self) -> str | None:
        """Of matching, if there is any."""
        return self.config.matching.strategy if self.config.matching else None

    def values(self, metric: str) -> list[float]:
        """Of the test, by seed."""
        return [row["test"][metric] for _, row in sorted(self.rows.items())]

    def mean(self, metric: str, seeds: Sequence[int] | None = None) -> float:
        """Over seeds, all unless some are named."""
        return float(statistics.mean(self.rows[seed]["test"][metric] for seed in seeds or sorted(self.rows)))

    def of_users(self, seeds: Sequence[int]) -> list[Mapping[str, np.ndarray]]:
        """Every user's values by metric, for each seed."""
        return [np.load(self.folders[seed] / USERS) for seed in seeds]


@dataclass(frozen=True)
class Comparison:
    """A variant beside its base in one metric."""

    dataset: str
    base: str
    variant: str
    metric: str
    seeds: Paired
    users: Paired  # NaN where the metric has no value for a single user


def collect(folder: Path) -> tuple[list[Cell], list[Row]]:
    """Cells in the order in which they were started, and the rows of runs that failed."""
    rows = read_rows(folder)
    if name := differing_data([row for row in rows if row["state"] == "finished"]):
        raise DmrecError(f"{folder} holds runs on two versions of {name}, which cannot be compared")
    if not rows:
        raise DmrecError(f"{folder} holds no rows of an experiment; run one: dmrec experiment FILE.yaml")
    cells: dict[tuple[str, str], Cell] = {}
    for row in rows:
        if row["state"] == "finished":
            here = run_folder(folder, row)
            if not (here / CONFIG).exists():
                raise DmrecError(f"{folder / ROWS} has a row of {here}, which is gone: run the experiment again")
            key = row["dataset"], row["model"]
            if key not in cells:
                cells[key] = Cell(*key, {}, {}, read_run_config(here / CONFIG))
            cells[key].rows[row["seed"]] = row
            cells[key].folders[row["seed"]] = here
    return list(cells.values()), [row for row in rows if row["state"] == "failed"]


def base_of(cell: Cell, cells: Sequence[Cell]) -> Cell | None:
    """The same backbone on the same dataset without language."""
    kind = backbone_of(cell.config)
    if kind is None or cell.config.language is None:
        return None
    of_kind = [each for each in cells if each.dataset == cell.dataset and backbone_of(each.config) == kind]
    bases = sorted((each for each in of_kind if each.config.language is None), key=lambda each: each.model != kind)
    return bases[0] if bases else None  # the one called like its kind before others


def comparisons(cells: Sequence[Cell], metrics: Sequence[str]) -> list[Comparison]:
    """Every variant with its base."""
    found = []
    for cell in cells:
        base = base_of(cell, cells)
        if base is None:
            continue
        shared = shared_seeds(cell, base)
        if not shared:
            continue
        ours, theirs = cell.of_users(shared), base.of_users(shared)
        if any(not np.array_equal(each["user"], ours[0]["user"]) for each in (*ours, *theirs)):
            raise DmrecError(f"runs of {cell.model} and {base.model} on {cell.dataset} were tested on other users")
        for metric in metrics:
            of_seeds = compare(*(np.array([each.rows[s]["test"][metric] for s in shared]) for each in (base, cell)))
            values = [[each.get(metric, NO_USERS) for each in runs] for runs in (theirs, ours)]
            of_users = compare(*(np.asarray(np.mean(each, axis=0)) for each in values))
            found.append(Comparison(cell.dataset, base.model, cell.model, metric, of_seeds, of_users))
    return found


def shared_seeds(cell: Cell, base: Cell) -> list[int]:
    """Those that both have finished with."""
    return sorted(cell.rows.keys() & base.rows.keys())


def shared_metrics(cells: Sequence[Cell], wanted: Sequence[str] | None) -> list[str]:
    """The columns: what was asked for, or the paper's as far as all runs have them, or all that they have."""
    there = [set(row["test"]) for cell in cells for row in cell.rows.values()]
    common = set.intersection(*there) if there else set()
    for metric in wanted or ():
        if metric not in common:
            raise DmrecError(f"not all runs measured '{metric}'{did_you_mean(metric, common)}")
    if wanted:
        return list(wanted)
    return [metric for metric in METRICS if metric in common] or sorted(common)


def tables(folder: Path, metrics: Sequence[str] | None = None) -> tuple[str, str]:
    """The report as Markdown and as LaTeX."""
    cells, failed = collect(folder)
    failures = [f"- {row['dataset']} {row['model']} {row['seed']}: {row['error']}" for row in failed]
    if not cells:
        raise DmrecError("\n".join([f"{folder}: no run has finished", *failures]))
    metrics = shared_metrics(cells, metrics)
    datasets = list(dict.fromkeys(cell.dataset for cell in cells))
    models = list(dict.fromkeys(cell.model for cell in cells))
    by_name = {(cell.dataset, cell.model): cell for cell in cells}
    grid = [[by_name.get((dataset, model)) for dataset in datasets for _ in metrics] for model in models]
    columns = [(dataset, metric) for dataset in datasets for metric in metrics]
    shown = [
        [None if cell is None else cell.mean(metric) for cell, (_, metric) in zip(row, columns, strict=True)]
        for row in grid
    ]
    ranks = [_ranks([row[c] for row in shown]) for c in range(len(columns))]
    seeds = [sorted({len(cell.rows) for cell in row if cell is not None}) for row in grid]
    alike = len({tuple(each) for each in seeds}) == 1
    markdown, latex = [], []
    for r, model in enumerate(models):
        label = f"{model} ({'-'.join(map(str, seeds[r]))} seed{'s' if seeds[r] != [1] else ''})"
        markdown.append([label, *(_markdown(shown[r][c], ranks[c][r]) for c in range(len(columns)))])
        latex.append([model if alike else label, *(_latex(shown[r][c], ranks[c][r]) for c in range(len(columns)))])
        paper = [_of_paper(cell, metric) for cell, (_, metric) in zip(grid[r], columns, strict=True)]
        if any(value is not None for value in paper):
            markdown.append([f"{model}, the paper's", *(_markdown(value, 2) for value in paper)])
    for kind, improvement in _improvements(cells, columns).items():
        cells_of = ["-" if value is None else f"{100 * value:+.2f} %" for value in improvement]
        markdown.append([f"best of {kind} over its base", *cells_of])
        latex.append([f"Improvement, {kind}", *(each.replace("%", r"\%") for each in cells_of)])
    heads = [f"{dataset} {metric}" if len(datasets) > 1 else metric for dataset, metric in columns]
    parts = [f"# {', '.join(datasets)}: test", _markdown_table(["model", *heads], markdown), *_about(cells)]
    parts += _markdown_tests(comparisons(cells, metrics))
    if failed:
        parts.append("## Failed\n\n" + "\n".join(failures))
    return "\n\n".join(parts) + "\n", _latex_table(["", *heads], latex)


def _of_paper(cell: Cell | None, metric: str) -> float | None:
    """Of models as the paper has them: its recipes, with whatever beta."""
    if cell is None or cell.model.partition(".")[0] not in PAPER:
        return None
    return (published(cell.dataset, backbone_of(cell.config), cell.strategy) or {}).get(metric)


def _improvements(cells: Sequence[Cell], columns: Sequence[tuple[str, str]]) -> dict[str, list[float | None]]:
    """By backbone: the best variant's gain over the base, relative, over the seeds of both, in each column."""
    found: dict[str, list[float | None]] = {}
    for kind in dict.fromkeys(backbone_of(cell.config) for cell in cells):
        pairs = [(cell, base_of(cell, cells)) for cell in cells if backbone_of(cell.config) == kind]
        gains: list[float | None] = []
        for dataset, metric in columns:
            here = [_gain(cell, base, metric) for cell, base in pairs if base is not None and cell.dataset == dataset]
            gains.append(max((gain for gain in here if gain is not None), default=None))
        if kind is not None and any(gain is not None for gain in gains):
            found[kind] = gains
    return found


def _gain(cell: Cell, base: Cell, metric: str) -> float | None:
    seeds = shared_seeds(cell, base)
    if not seeds or base.mean(metric, seeds) == 0:
        return None
    return cell.mean(metric, seeds) / base.mean(metric, seeds) - 1


def _about(cells: Sequence[Cell]) -> list[str]:
    vectors = sorted({str(row["vectors"]) for cell in cells for row in cell.rows.values() if row.get("vectors")})
    precisions = sorted({str(row["precision"]) for cell in cells for row in cell.rows.values() if row.get("precision")})
    said = [f"Text vectors: {', '.join(vectors)}."] if vectors else []
    said += [f"Products in {', '.join(precisions)}."] if precisions else []
    return [" ".join(["Bold: the best of a column; underlined: the second.", *said])]


def _markdown_tests(found: Sequence[Comparison]) -> list[str]:
    """Variants beside their bases; p-values by Holm over all lines."""
    if not found:
        return []
    of_seeds, of_users = holm([c.seeds.p_t for c in found]), holm([c.users.p_t for c in found])
    ranks = holm([c.users.p_wilcoxon for c in found])
    rows = []
    for c, p_seeds, p_users, p_ranks in zip(found, of_seeds, of_users, ranks, strict=True):
        interval = f"[{_signed(c.users.low)}, {_signed(c.users.high)}]"
        over_seeds = [_signed(c.seeds.difference), _p(p_seeds), _number(c.seeds.effect)]
        over_users = [_signed(c.users.difference), interval, _p(p_users), _p(p_ranks), _number(c.users.effect)]
        rows.append([f"{c.dataset}: {c.variant} - {c.base}", c.metric, str(c.seeds.pairs), *over_seeds, *over_users])
    heads = ["", "metric", "seeds", "difference", "p (t)", "d"]
    heads += ["over users", "95 %", "p (t)", "p (Wilcoxon)", "d"]
    told = "Paired, two-sided; p-values by Holm over all lines of the table; d: mean difference over its deviation."
    return ["## Variants and their bases", _markdown_table(heads, rows), told]


def _ranks(values: Sequence[float | None]) -> list[int]:
    """0 for the best, 1 for the second, as shown; 2 for others."""
    distinct = sorted({round(value, 4) for value in values if value is not None}, reverse=True)
    return [2 if value is None else min(distinct.index(round(value, 4)), 2) for value in values]


def _markdown(value: float | None, rank: int) -> str:
    return "-" if value is None else ("**{:.4f}**", "<u>{:.4f}</u>", "{:.4f}")[rank].format(value)


def _latex(value: float | None, rank: int) -> str:
    return "--" if value is None else (r"\textbf{{{:.4f}}}", r"\underline{{{:.4f}}}", "{:.4f}")[rank].format(value)


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        escaped = [cell.replace("|", r"\|") for cell in cells]
        return f"| {' | '.join(escaped)} |"

    return "\n".join([line(heads), f"| --- |{' ---: |' * (len(heads) - 1)}", *map(line, rows)])


LATEX = str.maketrans(
    {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
    }
)


def _latex_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Of names, and figures that are LaTeX already."""

    def line(name: str, *cells: str) -> str:
        return " & ".join([name.translate(LATEX), *cells]) + r" \\"

    body = "\n".join(line(*row) for row in rows)
    head = line(*(each.translate(LATEX) if i else each for i, each in enumerate(heads)))
    return (
        f"\\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}\n\\toprule\n{head}\n\\midrule\n{body}\n"
        "\\bottomrule\n\\end{tabular}\n"
    )


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.4f}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _p(value: float) -> str:
    return "-" if math.isnan(value) else ("< 0.0001" if value < 1e-4 else f"{value:.4f}")


def summary(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A row a model: means and deviations of the test over seeds."""
    rows = []
    for cell in cells:
        of_seeds = [row for _, row in sorted(cell.rows.items())]
        values = {metric: cell.values(metric) for metric in of_seeds[0]["test"]}
        several = len(of_seeds) > 1
        row = {
            "name": cell.model,
            "dataset": cell.dataset,
            "seed": sorted(cell.rows),
            "test": {metric: statistics.mean(each) for metric, each in values.items()},
            "test_deviation": {m: statistics.stdev(each) for m, each in values.items()} if several else None,
            "test_users": of_seeds[0]["test_users"],
            "vectors": of_seeds[0].get("vectors"),
        }
        if "epochs" in of_seeds[0]:
            row["best_epoch"] = [each["best_epoch"] for each in of_seeds]
            row["seconds_per_epoch"] = statistics.mean(each["seconds_per_epoch"] for each in of_seeds)
        rows.append(row)
    return rows
