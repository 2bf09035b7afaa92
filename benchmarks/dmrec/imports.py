"""What an import larger than memory costs: ``python -m benchmarks.dmrec.imports --rows 100000000 --memory 4GB``.

The source is Parquet: ratings by users, of items whose popularity falls as rank^-0.9, a twentieth of the rows repeated.
It is made in ``--folder`` if it is not there. The import runs in a process of its own, so that its peak memory (VmHWM)
is its own. Then rows of 1,024 random users are read from the parts, again and again. What the import wrote is removed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from dmrec.data.dataset import open_dataset
from dmrec.data.engines.memory import bytes_of
from dmrec.data.sources.large import import_large

from benchmarks.processor import processor

PART = 5_000_000  # rows of a file
BATCH, READS = 1024, 50
OF_USER = 50  # rows


def make_source(folder: Path, rows: int, n_items: int) -> None:
    """Writes ``rows`` ratings into files of `PART` rows."""
    if folder.exists():
        return
    making = folder.with_name(f"{folder.name}.making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    for number, first in enumerate(range(0, rows, PART)):
        random = np.random.default_rng(number)
        count = min(PART, rows - first)
        users = random.integers(0, max(rows // OF_USER, 1), count)
        items = ((n_items**0.1 * random.random(count)) ** 10).astype(np.int64)  # density rank^-0.9
        repeated = slice(0, count // 20)
        users[-(count // 20) :], items[-(count // 20) :] = users[repeated], items[repeated]
        table = {"user_id": users * 7919 + 10**9, "item_id": items, "rating": random.integers(1, 6, count).astype("f4")}
        pyarrow.parquet.write_table(pyarrow.table(table), making / f"{number:05d}.parquet")
    making.rename(folder)


def measure(source: Path, out: Path, engine: str, memory: int) -> dict[str, Any]:
    """One import, in this process."""
    began = time.perf_counter()
    data = import_large(source, out, name="imported", engine=engine, memory=memory, k_core=5, min_rating=2.0)
    seconds = time.perf_counter() - began
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    return {
        "seconds": round(seconds, 1),
        "peak_mb": round(peak / 1e6),
        "peak_over_memory": round(peak / memory, 3),
        "users": data.n_users,
        "items": data.n_items,
        "interactions": data.manifest["interactions"],
        "moved_to_train": data.provenance["moved_to_train"],
        "dataset_mb": round(sum(noted["bytes"] for noted in data.manifest["files"].values()) / 1e6),
    }


def rows_ms(folder: Path) -> float:
    """The median time of reading `BATCH` random users."""
    train, generator = open_dataset(folder).interactions("train"), torch.Generator().manual_seed(0)
    times = []
    for _ in range(READS):
        index = torch.randint(train.n_rows, (BATCH,), generator=generator)
        began = time.perf_counter()
        train.rows(index)
        times.append(time.perf_counter() - began)
    return round(1e3 * statistics.median(times), 3)


def main() -> None:
    """Makes the source, imports it in a process of its own, prints what it cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--memory", default="1GB")
    parser.add_argument("--engine", default="duckdb")
    parser.add_argument("--folder", type=Path, default=Path("build/imports"), help="of sources and datasets")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--keep", action="store_true", help="keep the dataset")
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(*given.measure, given.engine, bytes_of(given.memory))))
        return
    source, out = given.folder / f"{given.rows}-{given.items}", given.folder / "imported"
    shutil.rmtree(out, ignore_errors=True)
    make_source(source, given.rows, given.items)
    command = [sys.executable, "-m", "benchmarks.dmrec.imports", "--measure", str(source), str(out)]
    command += ["--engine", given.engine, "--memory", given.memory]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result = {
        "processor": processor(),
        "rows": given.rows,
        "source_mb": round(sum(path.stat().st_size for path in source.iterdir()) / 1e6),
        "engine": given.engine,
        "memory": given.memory,
        **json.loads(done.stdout.splitlines()[-1]),
        f"ms_for_rows_of_{BATCH}_users": rows_ms(out),
    }
    if not given.keep:
        shutil.rmtree(out)
    print(json.dumps(result, indent=1))
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
