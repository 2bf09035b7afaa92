"""The figures of a report as Vega-Lite specifications: rows in, a specification out.

Each model has one colour and one shape in all figures of a dataset, from Okabe and Ito's palette, which people with
colour vision deficiencies can tell apart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from ...eval.activity import ACTIVE
from ...eval.groups import equal_groups
from ...runs.run import LOG, RESULT, Run
from ..comparisons import base_of
from ..statistics import paired_test
from .contents import Contents, Line, Section, best_validation

Spec = dict[str, Any]
LABEL_IN_TWO_LINES = "[split(datum.label, ' (')[0], '(' + split(datum.label, ' (')[1]]"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
WIDTH = 300  # of the part in which data is drawn; labels come beside it
CURVES, GROUPS, FAR = 6, 4, 4
CONFIG: Spec = {
    "font": "Helvetica, Arial, sans-serif",
    "axis": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelLimit": 190,
        "gridColor": "#eee",
    },
    "legend": {
        "labelFontSize": 12,
        "labelLimit": 190,
        "orient": "bottom",
        "columns": 2,
        "title": None,
        "symbolOpacity": 1,
    },
    "title": {"fontSize": 13, "anchor": "start", "fontWeight": "bold"},
    "view": {"stroke": None},
}
# labels do not touch, also where a page has another font than the one that they were measured in
NUMBERS: Spec = {"tickCount": 4, "labelOverlap": "greedy", "labelSeparation": 14, "format": ".4~f"}


@dataclass(frozen=True)
class Figure:
    """A figure, its place in the report, and how to read it."""

    name: str  # of files
    dataset: str
    topic: str
    caption: str
    spec: Spec


def figures(found: Contents) -> list[Figure]:
    """All figures that the runs of an experiment have something for, in the reader's order."""
    made = []
    for section in found.sections:
        drawn = _trained(section)  # first, so that their curves differ in colour
        others = [line for line in section.lines if line not in drawn]
        style = Style([line.model for line in (*drawn, *others)])
        made += [_models(section, found.primary, style), *_differences(section, found.primary, style)]
        made += [*_groups(section, found.primary), *_curves(section, style)]
        made += [*_sweeps(section, found.primary), *_activity(section)]
    return made


class Style:
    """Colours and shapes of models."""

    def __init__(self, models: Sequence[str]) -> None:
        self.of = {name: (PALETTE[i % 7], SHAPES[i // 7 % 6]) for i, name in enumerate(models)}

    def channel(self, name: str, models: Sequence[str], *, legend: bool = True) -> Spec:
        """``color`` or ``shape`` by the field ``model``."""
        which = ("color", "shape").index(name)
        scale = {"domain": list(models), "range": [self.of[model][which] for model in models]}
        return {"field": "model", "type": "nominal", "scale": scale, **({} if legend else {"legend": None})}


def _figure(section: Section, name: str, topic: str, caption: str, title: str, spec: Spec) -> Figure:
    head = {"$schema": "https://vega.github.io/schema/vega-lite/v5.json", "config": CONFIG}
    called = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{section.dataset}-{name}")
    return Figure(called, section.dataset, topic, caption, {**head, "title": f"{section.dataset}: {title}", **spec})


def _layer(rows: Sequence[Spec], mark: str, encoding: Spec, **options: Any) -> Spec:
    return {"data": {"values": list(rows)}, "mark": {"type": mark, **options}, "encoding": encoding}


def _number(field: str, title: str | None = None, **more: Any) -> Spec:
    """A channel with a quantitative field; axes of figures in which lengths mean nothing need not begin at 0."""
    named = {"field": field, "type": "quantitative", "title": title}
    return {**named, "scale": {"zero": False}, "axis": NUMBERS, **more}


def _at(axis: str, value: float, **options: Any) -> Spec:
    """A line across the figure."""
    place = {"field": "at", "type": "quantitative", "axis": NUMBERS}
    return _layer([{"at": value}], "rule", {axis: place}, **{"color": "#777", **options})


def _near(rows: list[Spec], value: str) -> tuple[list[Spec], str]:
    """Without rows that lie so far below the others that these could not be told apart, and a sentence with them."""
    values = sorted((row[value] for row in rows), reverse=True)
    least = values[0] - FAR * max(values[0] - values[len(values) // 2], 0.01 * abs(values[0]))
    far = [row for row in rows if row[value] < least]
    names = ", ".join(f"{row['model']} ({row[value]:.4f})" for row in far)
    return [row for row in rows if row[value] >= least], f" Left of the figure: {names}." if far else ""


def _intervals(rows: list[Spec], value: str, title: str, style: Style) -> list[Spec]:
    """Layers with a row for each model: a point with its interval, from the fields ``value``, ``low`` and ``high``."""
    names = [row["model"] for row in rows]
    y = {"field": "model", "type": "nominal", "sort": names, "title": None}
    color, shape = (style.channel(name, names, legend=False) for name in ("color", "shape"))
    span = {"y": y, "x": _number("low", title), "x2": {"field": "high"}, "color": color}
    point = {"y": y, "x": _number(value, title), "color": color, "shape": shape, "tooltip": _words("model", value)}
    return [_layer(rows, "rule", span, strokeWidth=2), _layer(rows, "point", point, filled=True, size=80, opacity=1)]


def _models(section: Section, metric: str, style: Style) -> Figure:
    """All models, the best one first."""
    rows, seeds = [], []
    for line in sorted(section.lines, key=lambda line: -line.means[metric]):
        low, high = line.intervals.get(metric, (line.means[metric], line.means[metric]))
        rows.append({"model": line.model, "value": line.means[metric], "low": low, "high": high})
        seeds += [{"model": line.model, "value": value} for value in line.cell.values(metric)]
    rows, far = _near(rows, "value")
    seeds = [seed for seed in seeds if any(row["model"] == seed["model"] for row in rows)]
    title = f"{metric} on test"
    layers = _intervals(rows, "value", title, style)
    ticks = {"y": layers[0]["encoding"]["y"], "x": _number("value", title)}
    layers.insert(1, _layer(seeds, "tick", ticks, thickness=1, size=10, color="#555"))
    caption = (
        f"{metric} on test: the mean over seeds, its 95 % interval over seeds and users, and each seed (ticks). "
        "Intervals of two models can overlap although one is above the other in almost all draws: see the differences."
        + far
    )
    spec = {"width": WIDTH, "height": {"step": 20}, "layer": layers}
    return _figure(section, "models", "Models", caption, "all models", spec)


def _differences(section: Section, metric: str, style: Style) -> list[Figure]:
    """A figure for each model that others are compared with."""
    made = []
    compared = [each.comparison for each in section.tested if each.comparison.metric == metric]
    for base in dict.fromkeys(each.base for each in compared):
        rows: list[Spec] = [
            {"model": c.variant, "difference": c.users.difference, "low": c.both.low, "high": c.both.high}
            for c in compared
            if c.base == base and not math.isnan(c.both.low)
        ]
        if rows:
            rows.sort(key=lambda row: -row["difference"])
            rows, far = _near(rows, "difference")
            layers = [*_intervals(rows, "difference", f"difference in {metric}", style), _at("x", 0)]
            caption = f"Models less {base}, with 95 % intervals over seeds and users; at the line, no difference.{far}"
            spec = {"width": WIDTH, "height": {"step": 20}, "layer": layers}
            made.append(_figure(section, f"against-{base}", "Models", caption, f"difference to {base}", spec))
    return made


def _groups(section: Section, metric: str) -> list[Figure]:
    """Who gains: the difference of the best variant to its base by the length of users' histories."""
    cells = {line.model: line.cell for line in section.lines}
    rows: list[Spec] = []
    for gain in section.gains:
        users = next(iter(cells[gain.variant].users.values()))
        if not users.measures(metric) or not users.keeps("interactions"):
            continue
        variant, base = (
            np.mean([each.values(metric) for each in cells[model].users.values()], axis=0)
            for model in (gain.variant, gain.base)
        )
        lengths, group = users.interactions, equal_groups(users.interactions, GROUPS)
        for chosen in (group == number for number in range(GROUPS)):
            if chosen.sum() > 1:
                test = paired_test(base[chosen], variant[chosen])
                low, high = int(lengths[chosen].min()), int(lengths[chosen].max())
                label = f"{low if low == high else f'{low} to {high}'} ({100 * chosen.mean():.0f} %)"
                row = {"pair": f"{gain.variant} - {gain.base}", "group": label, "difference": test.difference}
                rows.append({**row, "low": test.low, "high": test.high})
    if not rows:
        return []
    names = list(dict.fromkeys(row["pair"] for row in rows))
    labels = list(dict.fromkeys(row["group"] for row in rows))
    place = {
        "x": {
            "field": "group",
            "type": "nominal",
            "sort": labels,
            "axis": {"labelAngle": 0, "labelExpr": LABEL_IN_TWO_LINES},
            "title": "interactions in training (share of users)",
        },
        "xOffset": {"field": "pair", "sort": names},
        "color": {"field": "pair", "scale": {"domain": names, "range": [PALETTE[i % 7] for i in range(len(names))]}},
    }
    title = f"difference in {metric}"
    span = {**place, "y": _number("low", title), "y2": {"field": "high"}}
    point = {**place, "y": _number("difference", title), "tooltip": _words("pair", "group", "difference")}
    layers = [_layer(rows, "rule", span, strokeWidth=2)]
    layers += [_layer(rows, "point", point, filled=True, size=70, opacity=1), _at("y", 0)]
    caption = (
        "Users in four groups by their number of training interactions, chosen so that each group has about a fourth "
        "of all interactions; "
        "means of users' differences with 95 % intervals over users."
    )
    spec = {"width": WIDTH + 60, "height": 200, "layer": layers}
    return [_figure(section, "groups", "Who gains", caption, "gains by history", spec)]


def _curves(section: Section, style: Style) -> list[Figure]:
    """Validation while training, of the models that are best on validation, by epochs and by seconds."""
    lines = _trained(section)
    if not lines:
        return []
    monitor = lines[0].cell.config.training.monitor
    evaluations = [_evaluations(line, monitor) for line in lines]
    rows, best = ([row for each in evaluations for row in each[part]] for part in (0, 1))
    if not rows:
        return []
    names = [line.model for line in lines]
    color, shape = (style.channel(name, names) for name in ("color", "shape"))
    y = _number("value", f"validation {monitor}")
    captions = {
        "epoch": "The mean over seeds, from the lowest to the highest; dots are the epochs that validation chose. "
        f"The models that are best on validation, {CURVES} at most.",
        "seconds": "The same over the seconds of training, without those of evaluation. All runs had the same threads, "
        "precision and device, and none ran beside another.",
    }
    made = []
    for field, caption in captions.items():
        if field == "seconds" and not _took_turns(lines):
            continue
        x = _number(field, "epoch" if field == "epoch" else "seconds of training")
        band = {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": color}
        point = {"x": x, "y": y, "color": color, "shape": shape, "tooltip": _words("model", field, "value")}
        layers = [_layer(rows, "area", band, opacity=0.2)] if any(row["low"] < row["high"] for row in rows) else []
        layers.append(_layer(rows, "line", {"x": x, "y": y, "color": color}, strokeWidth=1.5))
        layers.append(_layer(best, "point", point, filled=True, size=50, opacity=1))
        spec = {"width": WIDTH + 60, "height": 220, "layer": layers}
        made.append(_figure(section, f"curves-{field}", "Training", caption, f"validation by {field}", spec))
    return made


def _trained(section: Section) -> list[Line]:
    """The models that are best on validation, of those that have a curve."""
    lines = [line for line in section.lines if all("best_epoch" in row for row in line.cell.rows.values())]
    lines = [line for line in lines if all((folder / LOG).exists() for folder in line.cell.folders.values())]
    lines = sorted(lines, key=lambda line: -best_validation(line.cell))
    return [line for line in lines if line.cell.config.training.monitor == lines[0].cell.config.training.monitor][
        :CURVES
    ]


def _evaluations(line: Line, monitor: str) -> tuple[list[Spec], list[Spec]]:
    """A row for each epoch with evaluations, over seeds, and a row for the best epoch of each seed.

    Seconds are those of training until then. An epoch that only some seeds came to is left out, so that a curve does
    not jump where one ends.
    """
    found: dict[int, list[tuple[float, float]]] = {}
    best = []
    for seed, folder in sorted(line.cell.folders.items()):
        run = Run.open(folder)
        epochs = {event["epoch"]: event["seconds"] for event in run.events("epoch")}
        clock = dict(zip(epochs, accumulate(epochs.values()), strict=True))
        for event in run.events("evaluation"):
            epoch = int(event.get("epoch", 0))
            if monitor in event and epoch in clock:
                found.setdefault(epoch, []).append((clock[epoch], event[monitor]))
                if epoch == line.cell.rows[seed]["best_epoch"]:
                    row = {"model": line.model, "epoch": epoch, "seconds": round(clock[epoch], 2)}
                    best.append({**row, "seed": seed, "value": round(event[monitor], 5)})
    rows = []
    for epoch, points in sorted(found.items()):
        if len(points) == line.seeds:
            seconds, values = zip(*points, strict=True)
            row = {"model": line.model, "epoch": epoch, "seconds": round(float(np.mean(seconds)), 2)}
            row["value"] = round(float(np.mean(values)), 5)
            rows.append({**row, "low": round(min(values), 5), "high": round(max(values), 5)})
    return rows, best


def _took_turns(lines: Sequence[Line]) -> bool:
    """Whether the seconds of the runs can be compared: none ran beside another of its experiment, all alike."""
    rows = [row for line in lines for row in line.cell.rows.values()]
    alike = {(row.get("threads"), row.get("device"), row.get("precision")) for row in rows}
    return len(alike) == 1 and all(row.get("workers") == 1 for row in rows)


SWEPT = re.compile(r"(?P<model>.+)@(?P<option>[^@=]+)=(?P<value>[-+.0-9e]+)")


def _sweeps(section: Section, metric: str) -> list[Figure]:
    """A figure for each option that models were swept over, alone."""
    matches = [(line, match) for line in section.lines if (match := SWEPT.fullmatch(line.model))]
    cells = [line.cell for line in section.lines]
    made = []
    for option in dict.fromkeys(match["option"] for _, match in matches):
        points: list[Spec] = []
        seeds: list[Spec] = []
        levels = {}
        for line, match in matches:
            if match["option"] != option:
                continue
            at = {"model": match["model"], "at": float(match["value"])}
            points.append({**at, "test": line.means[metric], "validation": best_validation(line.cell)})
            seeds += [{**at, "test": value} for value in line.cell.values(metric)]
            base = base_of(line.cell, cells)
            if base is not None and not SWEPT.fullmatch(base.model):
                levels[base.model] = base.mean(metric)
        names = list(dict.fromkeys(point["model"] for point in points))
        of_model = [[point for point in points if point["model"] == name] for name in names]
        chosen = [max(mine, key=lambda point: point["validation"]) for mine in of_model]
        encoding = {"x": _number("at", option), "color": Style(names).channel("color", names)}
        test, validation = ({**encoding, "y": _number(split, metric)} for split in ("test", "validation"))
        layers = [_layer(points, "line", test, strokeWidth=2), _layer(points, "line", validation, strokeDash=[4, 3])]
        layers += [_at("y", level) for level in levels.values()]
        layers.append(_layer(seeds, "point", test, filled=True, size=18, opacity=0.8))
        rings = {**test, "tooltip": _words("model", "at", "test")}
        layers.append(_layer(chosen, "point", rings, size=160, strokeWidth=2))
        caption = (
            "Solid: test, the mean over seeds, which are the dots; dashed: validation. A ring: the value that "
            "validation chooses." + (f" Grey: {', '.join(levels)}." if levels else "")
        )
        spec = {"width": WIDTH + 60, "height": 220, "layer": layers}
        made.append(_figure(section, f"sweep-{option}", "Options", caption, option, spec))
    return made


def _activity(section: Section) -> list[Figure]:
    """How much each dimension of a posterior tells users apart."""
    rows = []
    for line in section.lines:
        run = Run.open(next(iter(line.cell.folders.values())))
        if SWEPT.fullmatch(line.model) or not (run.folder / RESULT).exists():
            continue
        for name, values in run.result.get("activity", {}).items():
            variances = np.log(np.maximum(values["variance"], 1e-12))
            active = int((variances > math.log(ACTIVE)).sum())
            names = ("low", "first", "middle", "third", "high")
            parts = dict(
                zip(names, np.quantile(variances, (0.05, 0.25, 0.5, 0.75, 0.95)).round(3).tolist(), strict=True)
            )
            rows.append({"posterior": f"{line.model}, {name}: {active} of {len(variances)}", **parts})
    if not rows:
        return []
    labels = [row["posterior"] for row in rows]
    y = {"field": "posterior", "type": "nominal", "sort": labels, "title": None, "axis": {"labelLimit": 260}}
    title = "ln of the variance of means over users"
    whisker = {"y": y, "x": _number("low", title), "x2": {"field": "high"}}
    box = {"y": y, "x": _number("first", title), "x2": {"field": "third"}}
    layers = [_layer(rows, "rule", whisker), _layer(rows, "bar", box, color=PALETTE[0], height=11)]
    layers.append(_layer(rows, "tick", {"y": y, "x": _number("middle", title)}, thickness=2, color="#fff", size=11))
    layers.append(_at("x", math.log(ACTIVE), color=PALETTE[1]))
    caption = (
        "Dimensions of the first seed's posterior: the middle half, the median, and from the 5th to the 95th in a "
        f"hundred; right of the line, at ln {ACTIVE}, one is called active (their number is given). Means that are "
        "sums over interactions also vary with their number."
    )
    spec = {"width": WIDTH - 60, "height": {"step": 20}, "layer": layers}
    return [_figure(section, "activity", "Latent dimensions", caption, "active dimensions", spec)]


def _words(*fields: str) -> list[Spec]:
    """A tooltip with these fields, numbers with four digits."""
    number = {"type": "quantitative", "format": ".4~f"}
    return [{"field": f, **({} if f in ("model", "pair", "group") else number)} for f in fields]
