"""Figures that are typed into their page are those of the committed results; `docs/generate.py` makes the rest."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/figures.md").read_text()
RESULTS = ROOT / "benchmarks/results"


def test_growth_with_the_catalogue_is_what_was_measured():
    for row in json.loads((RESULTS / "million.json").read_text()):
        figures = [row["ms_per_step"], row["step_floor_ms"], row["ranking_seconds"], row["peak_mb"]]
        cells = [f"{row['items']:,}", *map(str, figures), str(row["weights_and_adam_mb"])]
        assert f"| {' | '.join(cells)} |" in PAGE
