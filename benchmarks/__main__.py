"""Runs all benchmarks and writes ``results/ops.{json,md,png}``. Nothing else should run meanwhile.

Arguments go to pytest; with any, only a table is printed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest

from .ratios import read_report, to_markdown, to_plot

HERE = Path(__file__).parent


def main() -> int:
    """Exit status of pytest."""
    with tempfile.TemporaryDirectory() as temporary:
        report = Path(temporary) / "report.json"
        options = ["-q", "-o", "python_files=bench_*.py", "--benchmark-disable-gc", f"--benchmark-json={report}"]
        status = pytest.main([*options, "--benchmark-quiet", "-W", "ignore", str(HERE), *sys.argv[1:]])
        if status == 0:
            rows, about = read_report(report)
            if not sys.argv[1:]:
                results = HERE / "results"
                (results / "ops.json").write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n")
                (results / "ops.md").write_text(to_markdown(rows, about))
                to_plot(rows, about, results / "ops.png")
            print(to_markdown(rows, about))
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
