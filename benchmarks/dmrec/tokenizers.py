"""Tokenizers on a dataset: ``python -m benchmarks.dmrec.tokenizers data/amazon-scientific --vectors minilm svd``.

For each tokenizer and vectors: codes used, perplexity, collisions before the rule, seconds; and the health of the codes
that the dataset holds. Written to ``results/tokenizers-DATASET.json``; the dataset keeps no codes of it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from dmrec.data.dataset import open_dataset
from dmrec.tokenizers.health import health_of
from dmrec.tokenizers.tokenize import TOKENIZERS, make_tokenizer, tokenize_dataset

RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--vectors", nargs="+", default=["svd"])
    parser.add_argument("--tokenizers", nargs="+", default=list(TOKENIZERS))
    parser.add_argument("--epochs", type=int, default=3000)
    parser.add_argument("--untimed", action="store_true", help="leave the seconds out: something else is running")
    chosen = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "data"
        shutil.copytree(chosen.data, copy)
        dataset = open_dataset(copy)
        for name in dataset.code_names:
            found = dataset.codes(name)
            rows.append({"codes": name, "given": True, **health_of(found.codes.astype(np.int64), found.size)})
        for vectors in chosen.vectors:
            for kind in chosen.tokenizers:
                options = {} if kind == "rk-means" else {"epochs": chosen.epochs}
                last: dict[str, object] = {}
                started = time.perf_counter()
                tokenizer, name = make_tokenizer(kind, **options), f"measured-{kind}"
                made = tokenize_dataset(dataset, tokenizer, vectors=vectors, name=name, force=True, report=last.update)
                seconds = round(time.perf_counter() - started, 1)
                epochs = {"epochs": last["epoch"]} if "epoch" in last else {}
                times = {} if chosen.untimed else {"seconds": seconds}
                rows.append({"codes": f"{kind} on {vectors}", **made, **epochs, **times})
                print(rows[-1], flush=True)
    result = {"dataset": dataset.name, "rows": rows}
    (RESULTS / f"tokenizers-{dataset.name}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
