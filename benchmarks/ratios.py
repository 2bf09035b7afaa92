"""From pytest-benchmark's JSON to ratios: peer over ours inside each pass, the median over passes, and the range."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any


def read_report(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row per group and contender; and what is known of the machine."""
    report = json.loads(path.read_text())
    medians: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    memory: dict[tuple[str, str], int] = {}
    for run in sorted(report["benchmarks"], key=lambda run: run["extra_info"]["number"]):
        group, contender = run["group"], run["extra_info"]["contender"]
        medians[group][contender].append(run["stats"]["median"])
        memory.setdefault((group, contender), run["extra_info"].get("peak_bytes"))
    machine = report["machine_info"]
    about = {
        "processor": machine["cpu"].get("brand_raw", "unknown"),
        "instructions": machine["instructions"],
        "python": machine["python_version"],
        "torch": machine["torch"],
        "threads": machine["threads"],
    }
    return summarise(medians, memory), about


def summarise(medians: dict[str, dict[str, list[float]]], memory: dict[tuple[str, str], int]) -> list[dict[str, Any]]:
    """A row per group and contender: median milliseconds, how many times our time it takes, peak extra memory."""
    rows = []
    for group, contenders in medians.items():
        ours = contenders["ours"]
        for contender, times in contenders.items():
            ratios = [t / o for t, o in zip(times, ours, strict=True)]
            rows.append(
                {
                    "group": group,
                    "contender": contender,
                    "milliseconds": round(1e3 * statistics.median(times), 4),
                    "times_ours": round(statistics.median(ratios), 2),
                    "range": [round(min(ratios), 2), round(max(ratios), 2)],
                    "peak_extra_mb": round(memory[group, contender] / 1e6, 1),
                }
            )
    return rows


def to_markdown(rows: list[dict[str, Any]], about: dict[str, Any]) -> str:
    """A table per group; "x ours" above 1 means that the contender is slower."""
    lines = [", ".join(f"{key} {value}" for key, value in about.items())]
    for group in dict.fromkeys(row["group"] for row in rows):
        lines += [
            "",
            f"**{group}**",
            "",
            "| contender | ms | x ours | range over passes | peak extra MB |",
            "| --- | ---: | ---: | ---: | ---: |",
        ]
        for row in (row for row in rows if row["group"] == group):
            low, high = row["range"]
            cells = f"{row['milliseconds']:.3f} | {row['times_ours']:.2f} | {low:.2f} - {high:.2f}"
            lines.append(f"| {row['contender']} | {cells} | {row['peak_extra_mb']:.1f} |")
    return "\n".join(lines) + "\n"


def to_plot(rows: list[dict[str, Any]], about: dict[str, Any], path: Path) -> None:
    """A bar per contender and group, in multiples of our time; the floor as a mark on our bar."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    peers = [row for row in rows if row["contender"] not in ("ours", "floor")]
    floors = {row["group"]: row["times_ours"] for row in rows if row["contender"] == "floor"}
    figure, axes = plt.subplots(figsize=(9, 0.24 * len(peers) + 1.5), layout="constrained")
    labels = [f"{row['group']}: {row['contender']}" for row in peers]
    colours = {group: f"C{i % 10}" for i, group in enumerate(dict.fromkeys(row["group"] for row in peers))}
    lengths = [row["times_ours"] - 1 for row in peers]
    axes.barh(labels, lengths, left=1, color=[colours[row["group"]] for row in peers])
    marks = [floors.get(row["group"], float("nan")) for row in peers]
    axes.plot(marks, labels, "k|", markersize=9, label="floor")
    axes.axvline(1, color="black", linewidth=0.8, label="ours")
    axes.set(xscale="log", xlabel="times our time", title=", ".join(f"{k} {v}" for k, v in about.items()))
    axes.tick_params(axis="y", labelsize=6)
    axes.title.set_size(7)
    axes.set_ylim(len(peers) - 0.4, -0.6)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=75)
