"""Runs all benchmarks and writes ``results/ops-PROCESSOR.{json,md,png}``. Nothing else should run meanwhile.

``--device cuda`` runs those of a GPU instead (`on_device`). Other arguments go to pytest; with any, only a table is
printed, unless ``--keep`` comes first: then the groups that ran take the place of theirs in the files.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from . import on_device
from .processor import slug
from .ratios import read_report, to_markdown, to_plot

HERE = Path(__file__).parent


def main() -> int:
    """Exit status of pytest, or of the benchmarks on a GPU."""
    if sys.argv[1:2] == ["--device"]:
        device, *sys.argv[1:] = sys.argv[2:] or [""]
        if device not in ("cpu", "cuda"):
            print(f"--device takes cpu or cuda, got '{device}'", file=sys.stderr)
            return 2
        if device == "cuda":
            return on_device.main()
    keep = sys.argv[1:2] == ["--keep"]
    if keep:
        del sys.argv[1]
    with tempfile.TemporaryDirectory() as temporary:
        report = Path(temporary) / "report.json"
        options = ["-q", "-o", "python_files=bench_*.py", "--benchmark-disable-gc", f"--benchmark-json={report}"]
        status = pytest.main([*options, "--benchmark-quiet", "-W", "ignore", str(HERE), *sys.argv[1:]])
        if status == 0:
            rows, about = read_report(report)
            if keep or not sys.argv[1:]:
                name = str(HERE / "results" / f"ops-{slug()}")
                if keep:
                    rows = _merged(Path(f"{name}.json"), rows)
                Path(f"{name}.json").write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n")
                Path(f"{name}.md").write_text(to_markdown(rows, about))
                to_plot(rows, about, Path(f"{name}.png"))
            print(to_markdown(rows, about))
    return int(status)


def _by_size(group: str) -> list[tuple[bool, int, str]]:
    """A key that orders numbers in names by value."""
    parts = re.split(r"(\d[\d,]*)", group)
    return [
        (part[:1].isdigit(), int(part.strip(",").replace(",", "")) if part[:1].isdigit() else 0, part) for part in parts
    ]


def _merged(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """``rows`` and those of other groups in the file, by the names of the groups."""
    measured = {row["group"] for row in rows}
    before = json.loads(path.read_text())["rows"] if path.exists() else []
    return sorted(
        [*rows, *(row for row in before if row["group"] not in measured)], key=lambda row: _by_size(row["group"])
    )


if __name__ == "__main__":
    sys.exit(main())
