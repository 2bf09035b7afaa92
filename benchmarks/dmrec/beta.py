"""Plots what the weight of a matching loss does, as Fig. 6 of the paper: ``python -m benchmarks.dmrec.beta``.

From the rows of ``results/experiments/beta``, whose models are called ``beta-0.1`` and so on, to ``results/beta.png``.
"""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [json.loads(line) for line in (RESULTS / "experiments/beta/rows.jsonl").read_text().splitlines()]
    rows.sort(key=lambda row: row["model"])
    betas = [float(row["model"].removeprefix("beta-")) for row in rows]
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for ax, metric in zip(axes, ("recall@20", "ndcg@20"), strict=True):
        for split, style in (("valid", "--"), ("test", "-")):
            ax.plot(betas, [row[split][metric] for row in rows], style, marker="o", label=split)
        ax.set(xlabel="beta", ylabel=metric)
        ax.legend()
    figure.suptitle(f"DMRec-M (Mult-VAE) on {rows[0]['dataset']}, seed {rows[0]['seed']}")
    figure.savefig(RESULTS / "beta.png", dpi=110)


if __name__ == "__main__":
    main()
