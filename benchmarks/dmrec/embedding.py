"""Speed and memory of the encoders: ``python -m benchmarks.dmrec.embedding data/amazon-scientific``.

The first 5,000 texts of a dataset, items then users, into its vectors, each family in a process of its own, so that its
peak memory is its own (imports and the model included; ``peak_mb_before`` is that without encoding). Then once more,
broken off in the middle and taken up: the files must be equal, byte for byte.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
TEXTS = 5000
FAMILIES = {
    "tfidf-svd": {},
    "wordllama": {},
    "minilm, bf16": {"precision": "bf16"},
    "minilm, float32": {"precision": "float32"},
}


class BrokenOffError(Exception):
    """In the middle."""


def measure(folder: Path, family: str) -> dict[str, Any]:
    """One family, in this process."""
    import torch
    from dmrec.data.create import create_dataset
    from dmrec.data.dataset import Dataset, open_dataset
    from dmrec.language.embed import embed_dataset
    from dmrec.language.encoders import TextEncoder, make_encoder

    TextEncoder.shard_size = 1024
    whole = open_dataset(folder)
    items, users = whole.items[:TEXTS], whole.users[: max(TEXTS - whole.n_items, 1)]
    splits = {s: getattr(whole, s)[: len(users)][:, : len(items)] for s in ("train", "valid", "test")}
    encoder = make_encoder(family.split(",")[0], **FAMILIES[family])

    def files(dataset: Dataset) -> list[bytes]:
        return [(dataset.folder / f"{side}.it.npy").read_bytes() for side in ("items", "users")]

    def breaking_off(done: int) -> None:
        if done >= 2048:
            raise BrokenOffError

    with tempfile.TemporaryDirectory() as temporary:
        dataset = create_dataset(Path(temporary), "part", splits, items=items, users=users, provenance={})
        encoder.fit(["a b", "a c", "b c"])
        encoder.encode(["a b"])  # loads the model
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        embed_dataset(dataset, encoder, name="it")
        seconds = time.perf_counter() - started
        peak, at_once = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, files(dataset)
        try:
            embed_dataset(dataset, encoder, name="it", force=True, progress=breaking_off)
        except BrokenOffError:
            embed_dataset(dataset, encoder, name="it", force=True)
        equal, width = files(dataset) == at_once, int(dataset.vectors("it").items.shape[1])
    return {
        "family": family,
        "texts": len(items) + len(users),
        "characters": sum(len(each.text) for each in [*items, *users]),
        "width": width,
        "texts_per_second": round((len(items) + len(users)) / seconds, 1),
        "peak_mb": round(peak / 1024),
        "peak_mb_before": round(before / 1024),
        "interrupted_equals_uninterrupted": equal,
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Measures all and writes ``results/embedding.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--family", choices=FAMILIES)
    chosen = parser.parse_args()
    if chosen.family:
        print(json.dumps(measure(chosen.data, chosen.family)))
        return
    rows = []
    for family in FAMILIES:
        command = [sys.executable, "-m", "benchmarks.dmrec.embedding", str(chosen.data), "--family", family]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(rows[-1], flush=True)
    (RESULTS / "embedding.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
