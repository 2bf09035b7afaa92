"""The tables of an experiment in Markdown and LaTeX, in the layout of Table 2 of Zhang et al., SIGIR 2025.

There is a row for each model, with means over seeds; the best value of a column is bold, the second best underlined.
A row for each backbone follows with the improvement of the best of its variants over the base. A second table, in
Markdown only, compares each variant with its base: paired tests over seeds, and over users (each user's mean over
seeds), with p-values corrected by Holm's method over all lines of the table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ...errors import DmrecError
from ..comparisons import Cell, Comparison, base_of, collect, comparisons, shared_metrics, shared_seeds
from ..plan import backbone_of, compared_with
from ..statistics import holm
from .paper import METRICS, MODELS, published_figures


def tables(folder: Path, metrics: Sequence[str] | None = None, against: Sequence[str] | None = None) -> tuple[str, str]:
    """The report on the experiment in ``folder``, as Markdown and as LaTeX.

    Args:
        folder: an experiment folder.
        metrics: the columns; by default those of the paper that all runs have measured.
        against: names of models with which every other model is compared, besides variants with their bases; by default
            those that the experiment's file names.

    Raises:
        DmrecError: no run has finished, or their results cannot be compared.
    """
    cells, failed = collect(folder)
    failures = [f"- {row['dataset']} {row['model']} {row['seed']}: {row['error']}" for row in failed]
    if not cells:
        raise DmrecError("\n".join([f"{folder}: no run has finished", *failures]))
    metrics = shared_metrics(cells, metrics, METRICS)
    datasets = list(dict.fromkeys(cell.dataset for cell in cells))
    columns = [(dataset, metric) for dataset in datasets for metric in metrics]
    markdown_rows, latex_rows = _model_rows(cells, columns)
    for kind, improvements in _improvements(cells, columns).items():
        texts = ["-" if value is None else f"{100 * value:+.2f} %" for value in improvements]
        markdown_rows.append([f"best of {kind} over its base", *texts])
        latex_rows.append([f"Improvement, {kind}", *(text.replace("%", r"\%") for text in texts)])
    head = [f"{dataset} {metric}" if len(datasets) > 1 else metric for dataset, metric in columns]
    parts = [f"# {', '.join(datasets)}: test", _markdown_table(["model", *head], markdown_rows), _notes(cells)]
    parts += _markdown_tests(comparisons(cells, metrics, compared_with(folder) if against is None else against))
    if failed:
        parts.append("## Failed\n\n" + "\n".join(failures))
    return "\n\n".join(parts) + "\n", _latex_table(["", *head], latex_rows)


def _model_rows(cells: Sequence[Cell], columns: Sequence[tuple[str, str]]) -> tuple[list[list[str]], list[list[str]]]:
    """The rows of the models, as Markdown and as LaTeX; in Markdown, the paper's figures under a model that it has."""
    models = list(dict.fromkeys(cell.model for cell in cells))
    by_name = {(cell.dataset, cell.model): cell for cell in cells}
    grid = [[by_name.get((dataset, model)) for dataset, _ in columns] for model in models]
    means = [
        [None if cell is None else cell.mean(metric) for cell, (_, metric) in zip(row, columns, strict=True)]
        for row in grid
    ]
    ranks = [_ranks([row[c] for row in means]) for c in range(len(columns))]
    seeds = [sorted({len(cell.rows) for cell in row if cell is not None}) for row in grid]
    same_seeds = len({tuple(each) for each in seeds}) == 1
    markdown, latex = [], []
    for r, model in enumerate(models):
        label = f"{model} ({'-'.join(map(str, seeds[r]))} seed{'s' if seeds[r] != [1] else ''})"
        markdown.append([label, *(_markdown(means[r][c], ranks[c][r]) for c in range(len(columns)))])
        latex.append([model if same_seeds else label, *(_latex(means[r][c], ranks[c][r]) for c in range(len(columns)))])
        published = [_published(cell, metric) for cell, (_, metric) in zip(grid[r], columns, strict=True)]
        if any(value is not None for value in published):
            markdown.append([f"{model}, the paper's", *(_markdown(value, 2) for value in published)])
    return markdown, latex


def _published(cell: Cell | None, metric: str) -> float | None:
    """The paper's figure for a model that is one of its recipes, with any beta."""
    if cell is None or cell.model.partition(".")[0] not in MODELS:
        return None
    return (published_figures(cell.dataset, backbone_of(cell.config), cell.strategy) or {}).get(metric)


def _improvements(cells: Sequence[Cell], columns: Sequence[tuple[str, str]]) -> dict[str, list[float | None]]:
    """For each backbone and column, the largest relative gain of a variant over the base, over the seeds of both."""
    found: dict[str, list[float | None]] = {}
    for kind in dict.fromkeys(backbone_of(cell.config) for cell in cells):
        pairs = [(cell, base_of(cell, cells)) for cell in cells if backbone_of(cell.config) == kind]
        gains: list[float | None] = []
        for dataset, metric in columns:
            of_column = [_gain(cell, base, metric) for cell, base in pairs if base and cell.dataset == dataset]
            gains.append(max((gain for gain in of_column if gain is not None), default=None))
        if kind is not None and any(gain is not None for gain in gains):
            found[kind] = gains
    return found


def _gain(cell: Cell, base: Cell, metric: str) -> float | None:
    """The relative gain over the base; None where they share no seed or the base has 0."""
    seeds = shared_seeds(cell, base)
    of_cell, of_base = [seed for seed, _ in seeds], [seed for _, seed in seeds]
    if not seeds or base.mean(metric, of_base) == 0:
        return None
    return cell.mean(metric, of_cell) / base.mean(metric, of_base) - 1


def _notes(cells: Sequence[Cell]) -> str:
    """How to read the table, and what its runs used."""
    notes = ["Bold: the best of a column; underlined: the second."]
    for key, text in (("vectors", "Text vectors: {}."), ("precision", "Products in {}."), ("device", "Device: {}.")):
        used = sorted({str(row[key]) for cell in cells for row in cell.rows.values() if row.get(key)})
        notes += [text.format(", ".join(used))] if used else []
    return " ".join(notes)


def _markdown_tests(found: Sequence[Comparison]) -> list[str]:
    """The table of variants and their bases, with its heading and notes; empty without comparisons."""
    if not found:
        return []
    p_seeds, p_users = holm([c.seeds.p_t for c in found]), holm([c.users.p_t for c in found])
    p_ranks = holm([c.users.p_wilcoxon for c in found])
    rows = []
    for i, c in enumerate(found):
        interval = f"[{_signed(c.users.low)}, {_signed(c.users.high)}]"
        over_seeds = [_signed(c.seeds.difference), _p_value(p_seeds[i]), _number(c.seeds.effect)]
        over_users = [_signed(c.users.difference), interval, _p_value(p_users[i]), _p_value(p_ranks[i])]
        label = f"{c.dataset}: {c.variant} - {c.base}"
        rows.append([label, c.metric, str(c.seeds.pairs), *over_seeds, *over_users, _number(c.users.effect)])
    head = ["", "metric", "seeds", "difference", "p (t)", "d"]
    head += ["over users", "95 %", "p (t)", "p (Wilcoxon)", "d"]
    notes = "Paired, two-sided; p-values by Holm over all lines of the table; d: mean difference over its deviation."
    return ["## Variants and their bases", _markdown_table(head, rows), notes]


def _ranks(values: Sequence[float | None]) -> list[int]:
    """0 for the best value as it is printed, 1 for the second best, 2 for all others."""
    distinct = sorted({round(value, 4) for value in values if value is not None}, reverse=True)
    return [2 if value is None else min(distinct.index(round(value, 4)), 2) for value in values]


def _markdown(value: float | None, rank: int) -> str:
    return "-" if value is None else ("**{:.4f}**", "<u>{:.4f}</u>", "{:.4f}")[rank].format(value)


def _latex(value: float | None, rank: int) -> str:
    return "--" if value is None else (r"\textbf{{{:.4f}}}", r"\underline{{{:.4f}}}", "{:.4f}")[rank].format(value)


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        escaped = [cell.replace("|", r"\|") for cell in cells]
        return f"| {' | '.join(escaped)} |"

    return "\n".join([line(head), f"| --- |{' ---: |' * (len(head) - 1)}", *map(line, rows)])


LATEX_ESCAPES = str.maketrans(
    {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
    }
)


def _latex_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A tabular environment. Names are escaped; the other cells of ``rows`` are LaTeX already."""

    def line(name: str, *cells: str) -> str:
        return " & ".join([name.translate(LATEX_ESCAPES), *cells]) + r" \\"

    body = "\n".join(line(*row) for row in rows)
    first = line(head[0], *(name.translate(LATEX_ESCAPES) for name in head[1:]))
    return (
        f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}\n\\toprule\n{first}\n\\midrule\n{body}\n"
        "\\bottomrule\n\\end{tabular}\n"
    )


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.4f}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _p_value(value: float) -> str:
    return "-" if math.isnan(value) else ("< 0.0001" if value < 1e-4 else f"{value:.4f}")
