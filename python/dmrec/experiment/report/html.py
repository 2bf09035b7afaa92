"""The report on an experiment as one HTML file: no script, nothing is loaded, it prints and can be mailed.

Figures are drawn beforehand, as SVG inside the page, by vl-convert (``pip install 'dmrec[report]'``). Without it the
page has the sentences and tables alone, and says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ...errors import DmrecError
from ...files import read_json
from ...runs.run import RESULT, Run
from ..plan import PLAN, TUNED, TUNING
from .contents import Contents, Section
from .figures import Figure, figures
from .sentences import sentences
from .tables import TESTS, interval, notes, p_value, signed

VEGA_LITE = "5.21"
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = """
body { font: 16px/1.5 Helvetica, Arial, sans-serif; color: #222; margin: 0 auto; padding: 0 16px; max-width: 1180px; }
h1 { font-size: 26px; margin: 24px 0 4px; } h2 { font-size: 20px; margin: 36px 0 8px; }
h3 { font-size: 16px; margin: 20px 0 4px; }
p, summary { max-width: 46em; } .quiet, figcaption { color: #555; font-size: 14px; }
.figures { display: flex; flex-wrap: wrap; gap: 24px; align-items: flex-start; }
figure { margin: 0; max-width: 100%; break-inside: avoid; } figcaption { max-width: 480px; }
figure svg { max-width: 100%; height: auto; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 10px; text-align: right; white-space: nowrap; border-bottom: 1px solid #e4e4e4; }
th:first-child, td:first-child { text-align: left; } th { border-bottom: 2px solid #444; }
.best { font-weight: bold; } .second { text-decoration: underline; } .sd { color: #666; font-size: 12px; }
tr.published td, tr.gain td { color: #777; } pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; }
details { margin: 8px 0; } @media print { details > * { display: block; } body { max-width: none; } }
@media (max-width: 600px) { body { font-size: 15px; } }
"""


def html(found: Contents, draw: Callable[[dict[str, Any]], str] | None) -> str:
    """The page. ``draw`` turns a Vega-Lite specification into SVG, see `renderer`; None: without figures."""
    made = figures(found) if draw is not None else []
    drawn = {figure.name: draw(figure.spec) for figure in made} if draw is not None else {}
    names = ", ".join(section.dataset for section in found.sections)
    parts = [f"<h1>{escape(names)}</h1>", f'<p class="quiet">Experiment {escape(found.folder.resolve().name)}.</p>']
    if draw is None:
        parts.append("<p>Figures need vl-convert: pip install 'dmrec[report]'.</p>")
    for section in found.sections:
        mine = [figure for figure in made if figure.dataset == section.dataset]
        parts += _section(found, section, mine, drawn)
    parts.append(_details(found))
    head = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(names)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n"
    )
    return head + "\n".join(parts) + "\n</body>\n</html>\n"


def renderer() -> Callable[[dict[str, Any]], str] | None:
    """Draws specifications as SVG, or None where vl-convert is not installed."""
    try:
        import vl_convert
    except ImportError:
        return None

    def draw(spec: dict[str, Any]) -> str:
        svg = str(vl_convert.vegalite_to_svg(json.dumps(spec), vl_version=VEGA_LITE))
        return _with_titles(svg)

    return draw


def write_figures(found: Contents, folder: Path) -> list[Path]:
    """Writes every figure as PDF, and its specification as JSON; returns the files.

    Raises:
        DmrecError: vl-convert is not installed.
    """
    try:
        import vl_convert
    except ImportError:
        raise DmrecError("figures need vl-convert: pip install 'dmrec[report]'") from None
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for figure in figures(found):
        text = json.dumps(figure.spec, indent=1)
        path = folder / f"{figure.name}.pdf"
        path.write_bytes(vl_convert.vegalite_to_pdf(text, vl_version=VEGA_LITE))
        (folder / f"{figure.name}.json").write_text(text + "\n", encoding="utf-8")
        written += [path, folder / f"{figure.name}.json"]
    return written


def _with_titles(svg: str) -> str:
    """Every mark that has a label for screen readers shows it as a tooltip, too; links to other places are none."""
    return re.sub(
        r'<path aria-label="([^"]*)"([^>]*?)(/>|></path>)', r'<path aria-label="\1"\2><title>\1</title></path>', svg
    )


def _section(found: Contents, section: Section, made: Sequence[Figure], drawn: dict[str, str]) -> list[str]:
    """A dataset: sentences, figures by topic, tables."""
    parts = [f"<h2>{escape(section.dataset)}: {section.users:,} test users</h2>"]
    parts += [f"<p>{escape(sentence)}</p>" for sentence in sentences(found, section)]
    for topic in dict.fromkeys(figure.topic for figure in made):
        of_topic = [figure for figure in made if figure.topic == topic]
        parts.append(f'<h3>{topic}</h3>\n<div class="figures">')
        parts += [f"<figure>{drawn[f.name]}<figcaption>{escape(f.caption)}</figcaption></figure>" for f in of_topic]
        parts.append("</div>")
    parts += ["<h3>Figures on test</h3>", _table(found, section)]
    if section.tested:
        parts += [
            "<details><summary>All tests</summary>",
            _tests(section),
            f'<p class="quiet">{escape(TESTS)}</p>',
            "</details>",
        ]
    return parts


def _table(found: Contents, section: Section) -> str:
    rows = []
    for line in section.lines:
        cells = [f"<td>{escape(line.model)}</td><td>{line.seeds}</td>"]
        for metric in found.metrics:
            rank = ("best", "second", "")[line.ranks[metric]]
            deviation = f' <span class="sd">±{line.deviations[metric]:.4f}</span>' if line.deviations else ""
            cells.append(f'<td><span class="{rank}">{line.means[metric]:.4f}</span>{deviation}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
        if line.published:
            values = [line.published.get(metric) for metric in found.metrics]
            texts = "".join(f"<td>{'-' if value is None else f'{value:.4f}'}</td>" for value in values)
            label = f"{line.model}, published, with other text vectors"
            rows.append(f'<tr class="published"><td>{escape(label)}</td><td></td>{texts}</tr>')
    for gain in section.gains:
        values = [gain.values[metric] for metric in found.metrics]
        texts = "".join(f"<td>{'-' if value is None else f'{100 * value:+.2f} %'}</td>" for value in values)
        rows.append(f'<tr class="gain"><td>{escape(gain.variant)} over {escape(gain.base)}</td><td></td>{texts}</tr>')
    head = "".join(f"<th>{escape(name)}</th>" for name in ("model", "seeds", *found.metrics))
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _tests(section: Section) -> str:
    rows = []
    for each in section.tested:
        c = each.comparison
        cells = [f"{c.variant} - {c.base}", c.metric, signed(c.users.difference), interval(c.both.low, c.both.high)]
        cells += [p_value(each.over_both), p_value(each.over_users), p_value(each.over_ranks), p_value(each.welch)]
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    names = (
        "",
        "metric",
        "difference",
        "95 %, seeds and users",
        "p",
        "p users (t)",
        "p users (Wilcoxon)",
        "p seeds (Welch)",
    )
    head = "".join(f"<th>{name}</th>" for name in names)
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _details(found: Contents) -> str:
    """What stands behind the figures: the file, tuning, data, environment, runs that failed."""
    parts = ["<h2>How this was made</h2>", f"<p>{escape(notes(found))}</p>"]
    if (found.folder / PLAN).exists():
        parts.append(_fold("The experiment's file", _pre((found.folder / PLAN).read_text(encoding="utf-8"))))
    searches = sorted((found.folder / TUNING).glob(f"*/*/{TUNED}"))
    if searches:
        parts.append(_fold("Tuning", _tuning(searches)))
    cell = found.sections[0].lines[0].cell
    data = {
        section.dataset: next(iter(section.lines[0].cell.rows.values())).get("data", {}) for section in found.sections
    }
    parts.append(_fold("Checksums of the data", _pre(json.dumps(data, indent=1))))
    folder = next(iter(cell.folders.values()))
    if (folder / RESULT).exists():
        parts.append(_fold("Environment", _pre(json.dumps(Run.open(folder).result.get("environment", {}), indent=1))))
    if found.failed:
        text = "\n".join(f"{row['dataset']} {row['model']} {row['seed']}: {row['error']}" for row in found.failed)
        parts.append(_fold("Failed runs", _pre(text)))
    return "\n".join(parts)


def _tuning(searches: Sequence[Path]) -> str:
    """A row for each search: the best validation score after some trials, hours, the options found."""
    rows = []
    for path in searches:
        kept = read_json(path)
        scores = [trial["score"] for trial in kept["trials"]]
        reached = [
            max((score for score in scores[:count] if score is not None), default=None)
            if count <= len(scores)
            else None
            for count in (1, 5, 10, 20, 30)
        ]
        hours = sum(trial["seconds"] or 0 for trial in kept["trials"]) / 3600
        cells = [f"{path.parent.parent.name}: {path.parent.name}", str(len(scores)), f"{hours:.2f}"]
        cells += ["-" if value is None else f"{value:.4f}" for value in reached]
        options = escape(json.dumps(kept["options"]))
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + f"<td>{options}</td></tr>")
    names = ("search", "trials", "hours", "first", "best of 5", "of 10", "of 20", "of 30", "options")
    head = "".join(f"<th>{name}</th>" for name in names)
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _fold(title: str, inside: str) -> str:
    return f"<details><summary>{title}</summary>{inside}</details>"


def _pre(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"
