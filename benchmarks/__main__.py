"""Runs all benchmarks and writes ``results/ops-PROCESSOR.{json,md,png}``. Nothing else should run meanwhile.

``--device cuda`` runs those of a GPU instead (`on_device`). Other arguments go to pytest; with any, only a table is
printed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

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
    with tempfile.TemporaryDirectory() as temporary:
        report = Path(temporary) / "report.json"
        options = ["-q", "-o", "python_files=bench_*.py", "--benchmark-disable-gc", f"--benchmark-json={report}"]
        status = pytest.main([*options, "--benchmark-quiet", "-W", "ignore", str(HERE), *sys.argv[1:]])
        if status == 0:
            rows, about = read_report(report)
            if not sys.argv[1:]:
                name = str(HERE / "results" / f"ops-{slug()}")
                Path(f"{name}.json").write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n")
                Path(f"{name}.md").write_text(to_markdown(rows, about))
                to_plot(rows, about, Path(f"{name}.png"))
            print(to_markdown(rows, about))
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
