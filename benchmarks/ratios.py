"""From pytest-benchmark's JSON to ratios: peer over ours inside each pass, the median over passes, and the range."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any


def read_medians(path: Path) -> tuple[dict[str, dict[str, list[float]]], dict[str, Any]]:
    """Medians in seconds by group and contender, one per pass; and what is known of the machine."""
    report = json.loads(path.read_text())
    medians: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in sorted(report["benchmarks"], key=lambda run: run["extra_info"]["number"]):
        medians[run["group"]][run["extra_info"]["contender"]].append(run["stats"]["median"])
    machine = report["machine_info"]
    about = {
        "processor": machine["cpu"].get("brand_raw", "unknown"),
        "python": machine["python_version"],
        "torch": machine["torch"],
        "threads": machine["threads"],
    }
    return medians, about


def summarise(medians: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    """A row per group and contender: median milliseconds, and how many times our time it takes."""
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
            "| contender | ms | x ours | range over passes |",
            "| --- | ---: | ---: | ---: |",
        ]
        for row in (row for row in rows if row["group"] == group):
            low, high = row["range"]
            lines.append(
                f"| {row['contender']} | {row['milliseconds']:.3f} | {row['times_ours']:.2f} | {low:.2f} - {high:.2f} |"
            )
    return "\n".join(lines) + "\n"
