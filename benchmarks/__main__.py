"""Runs all benchmarks and writes ``results/ops.json`` and ``results/ops.md``. Nothing else should run meanwhile."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest

from .ratios import read_medians, summarise, to_markdown

HERE = Path(__file__).parent


def main() -> int:
    """Exit status of pytest."""
    with tempfile.TemporaryDirectory() as temporary:
        report = Path(temporary) / "report.json"
        options = ["-q", "-o", "python_files=bench_*.py", "--benchmark-disable-gc", f"--benchmark-json={report}"]
        status = pytest.main([*options, "--benchmark-quiet", "-W", "ignore", str(HERE), *sys.argv[1:]])
        if status == 0:
            medians, about = read_medians(report)
            rows = summarise(medians)
            (HERE / "results" / "ops.json").write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n")
            (HERE / "results" / "ops.md").write_text(to_markdown(rows, about))
            print(to_markdown(rows, about))
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
