"""The report on an experiment in Markdown and LaTeX, in the layout of Table 2 of Zhang et al., SIGIR 2025.

A table for each dataset has a row for each model, with means and standard deviations over seeds; the best value of a
column is bold, the second best underlined. A line under the models gives the improvement over each base of the variant
that validation prefers. In Markdown, a table of tests follows, with p-values corrected by Holm's method over all lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from .contents import Contents, Line, Section, Tested, contents, in_words

SIGNIFICANT = 0.05


def tables(folder: Path, metrics: Sequence[str] | None = None, against: Sequence[str] | None = None) -> tuple[str, str]:
    """The report on the experiment in ``folder``, as Markdown and as LaTeX; arguments as for `contents`."""
    found = contents(folder, metrics, against)
    return markdown(found), latex(found)


def markdown(found: Contents) -> str:
    """The report in Markdown."""
    parts = []
    for section in found.sections:
        rows = []
        for line in section.lines:
            cells = [_markdown(line, metric) for metric in found.metrics]
            rows.append([line.model, str(line.seeds), *cells])
            if line.published:
                values = [line.published.get(metric) for metric in found.metrics]
                rows.append([f"{line.model}, the paper's", "", *("-" if v is None else f"{v:.4f}" for v in values)])
        for gain in section.gains:
            texts = [_percent(gain.values[metric]) for metric in found.metrics]
            rows.append([f"{gain.variant} over {gain.base}", "", *texts])
        head = ["model", "seeds", *found.metrics]
        parts += [f"# {section.dataset}: test, {section.users} users", _markdown_table(head, rows)]
    parts.append(notes(found))
    if tested := [each for section in found.sections for each in section.tested]:
        parts += ["## Variants and their bases", _markdown_tests(tested), TESTS]
    if found.failed:
        parts.append("## Failed\n\n" + "\n".join(map(in_words, found.failed)))
    return "\n\n".join(parts) + "\n"


def notes(found: Contents) -> str:
    """How to read the tables, and what the runs used."""
    texts = ["Means over seeds, ± standard deviations. Bold: the best of a column; underlined: the second."]
    if any(section.gains for section in found.sections):
        texts.append("Of several variants of a base, validation chooses the one that is compared.")
    for key, text in (("vectors", "Text vectors: {}."), ("precision", "Products in {}."), ("device", "Device: {}.")):
        texts += [text.format(", ".join(found.used[key]))] if found.used[key] else []
    return " ".join(texts)


TESTS = (
    "All two-sided; p-values by Holm over all lines of the table; d: mean difference over its deviation. The first "
    "test of a line is paired over seeds, the next two are paired over users, each user's mean over seeds; the last "
    "interval is drawn over seeds and users (10,000 draws); Welch's test is over seeds, unpaired."
)


def _markdown_tests(tested: Sequence[Tested]) -> str:
    rows = []
    for each in tested:
        c = each.comparison
        over_seeds = [signed(c.seeds.difference), p_value(each.over_seeds), _number(c.seeds.effect)]
        over_users = [signed(c.users.difference), interval(c.users.low, c.users.high), p_value(each.over_users)]
        over_users += [p_value(each.over_ranks), _number(c.users.effect)]
        over_both = [interval(c.both.low, c.both.high), p_value(each.over_both), p_value(each.welch)]
        label = f"{c.dataset}: {c.variant} - {c.base}"
        rows.append([label, c.metric, str(c.seeds.pairs), *over_seeds, *over_users, *over_both])
    head = ["", "metric", "seeds", "difference", "p (t)", "d"]
    head += ["over users", "95 %", "p (t)", "p (Wilcoxon)", "d", "over both: 95 %", "p", "p (Welch)"]
    return _markdown_table(head, rows)


def latex(found: Contents) -> str:
    """A table for each dataset, with a caption; a model that differs from its base or from another that it is compared
    with, over seeds and users, has a star.
    """
    return "\n".join(_latex_section(found, section) for section in found.sections)


def _latex_section(found: Contents, section: Section) -> str:
    name = section.dataset.translate(LATEX_ESCAPES)
    rows = []
    for line in section.lines:
        rows.append([line.model.translate(LATEX_ESCAPES), *(_latex(line, section, metric) for metric in found.metrics)])
        if line.published:
            values = [line.published.get(metric) for metric in found.metrics]
            rows.append([r"\quad published", *("--" if v is None else f"{v:.4f}" for v in values)])
    gains = []
    for gain in section.gains:
        label = f"{gain.variant} over {gain.base}".translate(LATEX_ESCAPES)
        gains.append([label, *(_percent(value, r"\%") for value in gain.values.values())])
    counts = sorted({line.seeds for line in section.lines})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    of_seeds = "one seed" if counts == [1] else f"means over {seeds} seeds"
    caption = f"Test figures on {name}: {of_seeds}, {section.users} users."
    if section.tested:
        caption += r" $^*$: differs from its base, $p < 0.05$ over seeds and users after Holm."
    head = " & ".join(["Model", *(metric.translate(LATEX_ESCAPES) for metric in found.metrics)]) + r" \\"
    parts = [
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{caption}}}",
        f"\\begin{{tabular}}{{l{'r' * len(found.metrics)}}}",
        r"\toprule",
        head,
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        *([r"\midrule", *(" & ".join(row) + r" \\" for row in gains)] if gains else []),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(parts) + "\n"


def _markdown(line: Line, metric: str) -> str:
    value = ("**{:.4f}**", "<u>{:.4f}</u>", "{:.4f}")[line.ranks[metric]].format(line.means[metric])
    return f"{value} ±{line.deviations[metric]:.4f}" if line.deviations else value


def _latex(line: Line, section: Section, metric: str) -> str:
    value = (r"\textbf{{{:.4f}}}", r"\underline{{{:.4f}}}", "{:.4f}")[line.ranks[metric]].format(line.means[metric])
    of_line = [t for t in section.tested if (t.comparison.variant, t.comparison.metric) == (line.model, metric)]
    return f"{value}$^*$" if any(each.over_both < SIGNIFICANT for each in of_line) else value


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


def _percent(value: float | None, sign: str = "%") -> str:
    return "-" if value is None else f"{100 * value:+.2f} {sign}"


def interval(low: float, high: float) -> str:
    """Both bounds, signed."""
    return f"[{signed(low)}, {signed(high)}]"


def signed(value: float) -> str:
    """Four digits with a sign."""
    return "-" if math.isnan(value) else f"{value:+.4f}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def p_value(value: float) -> str:
    """Four digits, or that it is less than they can show."""
    return "-" if math.isnan(value) else ("< 0.0001" if value < 1e-4 else f"{value:.4f}")
