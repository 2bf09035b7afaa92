"""From pytest-benchmark's JSON to ratios: peer over ours inside each pass, the median over passes, and the range."""

from __future__ import annotations

import io
import json
import statistics
import textwrap
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
        "processor": machine["processor_kind"],
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
    """A panel for each group: how many times our time its contenders take, and what the floor is of it."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from PIL import Image

    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["contender"] != "ours":
            groups[row["group"]].append(row)
    columns = 3
    lines = -(-len(groups) // columns)
    counts = [len(of_group) for of_group in groups.values()]
    most = [max(counts[i : i + columns]) for i in range(0, len(counts), columns)]  # of a line of panels
    heights = [0.17 * count + 0.6 for count in most]
    figure, panels = plt.subplots(
        lines,
        columns,
        figsize=(13, sum(heights) + 0.35 * lines + 0.6),
        layout="constrained",
        gridspec_kw={"height_ratios": heights},
    )
    for place, (axes, (group, of_group)) in enumerate(zip(panels.flat, groups.items(), strict=False)):
        rows = most[place // columns]
        peers = [row for row in of_group if row["contender"] != "floor"]
        for line, row in enumerate(peers):
            slower = row["times_ours"] >= 1
            axes.barh(line, row["times_ours"] - 1, left=1, color="#0072B2" if slower else "#D55E00", height=0.7)
            axes.annotate(
                f"{row['times_ours']:.2f}",
                (row["times_ours"], line),
                xytext=(3 if slower else -3, 0),
                textcoords="offset points",
                ha="left" if slower else "right",
                va="center",
                fontsize=8,
            )
        for row in of_group:
            if row["contender"] == "floor":
                axes.axvline(row["times_ours"], color="#009E73", linestyle="--", linewidth=1.2)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_yticks(range(len(peers)), [row["contender"] for row in peers], fontsize=8)
        axes.set(xscale="log", xlim=(0.1, 30), ylim=(rows - 0.4, -0.6))
        axes.set_title(textwrap.fill(group, 40), fontsize=8, loc="left")
        axes.tick_params(axis="x", labelsize=7)
    for axes in list(panels.flat)[len(groups) :]:
        axes.set_axis_off()
    figure.supxlabel("times our time (right of the line: slower than ours); dashed: the floor", fontsize=10)
    figure.suptitle(", ".join(f"{key} {value}" for key, value in about.items()), fontsize=10)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=80)
    Image.open(drawn).convert("RGB").quantize(48).save(path, optimize=True)
