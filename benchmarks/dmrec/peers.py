"""Mult-VAE's time to train beside what people use now: ``python -m benchmarks.dmrec.peers data/ml-100k``.

Every contender runs in a process and an environment of its own (made in ``--environments`` where it is missing), on the
same interactions, with the same hyper-parameters where it has them. It is measured in two parts, since the first takes
long and needs no quiet machine, and the second does:

- ``--part curve`` trains until validation no longer rises. What is kept: the best recall@20, and the first epoch with
  99 % of it.
- ``--part seconds`` runs a few epochs. What is kept: the median seconds of an epoch after the first, those of a full
  ranking of the users of validation, and the peak resident memory of the process. ``products alone``, the floor, has
  this part only.

Seconds to 99 % are so many epochs, and a ranking after every third of them (after each for ALS, WARP and RecBole's
defaults). Written to ``results/peers-PROCESSOR.json``, where each part adds to what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any, NamedTuple

import scipy.sparse as sp
import torch
from dmrec.data.dataset import open_dataset

from benchmarks.processor import processor, slug

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
TORCH = f"torch=={torch.__version__.split('+')[0]}"


class Contender(NamedTuple):
    """A script in contenders/, what its environment has, and every how many epochs it is ranked."""

    script: str
    installs: list[list[str]]
    every: int = 3
    options: tuple[str, ...] = ()


# RecBole 1.2.1 needs numpy below 2, and names ray, which training does not import
REQUIRED = [
    "numpy<2",
    "scipy",
    "pandas<3",
    "tqdm",
    "scikit-learn",
    "pyyaml",
    "tensorboard",
    "thop",
    "tabulate",
    "plotly",
    "texttable",
    "psutil",
    "colorlog==4.7.2",
    "colorama==0.4.4",
]
RECBOLE = [[TORCH, "numpy<2"], REQUIRED, ["--no-deps", "recbole==1.2.1"]]
CONTENDERS = {
    "dmrec": Contender("ours", []),
    "RecBole MultiVAE": Contender("recbole_multivae", RECBOLE),
    "RecBole MultiVAE, ranked as by default": Contender(
        "recbole_multivae", RECBOLE, every=1, options=("--default-ranking",)
    ),
    "dense PyTorch": Contender("dense_pytorch", [[TORCH, "numpy", "scipy"]]),
    "implicit ALS": Contender("implicit_als", [["implicit==0.7.3"]], every=1),
    "LightFM WARP": Contender("lightfm_warp", [["rectools-lightfm==1.17.3"]], every=1),
    "products alone": Contender("products", []),
}


def interpreter(contender: Contender, environments: Path) -> Path:
    """The Python of its environment, which is made where it is missing; this one for ours."""
    if not contender.installs:
        return Path(sys.executable)
    folder = environments / contender.script
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists():
        print(f"making {folder}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        for packages in contender.installs:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        complete.touch()
    return python


def measure(contender: Contender, environments: Path, data: Path, epochs: int, patience: int) -> dict[str, Any]:
    """The record of one contender; see contenders/common.py."""
    threads = torch.get_num_threads()
    command = [
        interpreter(contender, environments),
        HERE / "contenders" / f"{contender.script}.py",
        data,
        f"--epochs={epochs}",
        f"--every={contender.every}",
        f"--patience={patience}",
        f"--threads={threads}",
        *contender.options,
    ]
    # implicit asks for a BLAS of one thread, as its own loop is parallel
    blas = {"OPENBLAS_NUM_THREADS": "1"} if contender.script == "implicit_als" else {}
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": str(threads), **blas}, stdout=subprocess.PIPE, check=True
    )
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record


def curve(record: dict[str, Any]) -> dict[str, Any]:
    """The best recall@20, and after how many epochs 99 % of it are reached."""
    best = max(each["recall"] for each in record["evaluations"])
    reached = next(each["epoch"] for each in record["evaluations"] if each["recall"] >= 0.99 * best)
    return {"recall@20": round(best, 4), "epochs_to_99": reached, "epochs": len(record["epochs"])}


def seconds(record: dict[str, Any]) -> dict[str, Any]:
    """Medians of epochs and rankings after the first, and the peak of memory."""
    return {
        "epoch": round(statistics.median(record["epochs"][1:]), 4),
        "ranking": round(statistics.median(each["seconds"] for each in record["evaluations"][1:]), 4),
        "peak_mib": record["peak_mib"],
    }


def to_99(row: dict[str, Any], every: int) -> float | None:
    """Seconds until 99 % of the best validation, rankings on the way included; None where a part is missing."""
    if "epochs_to_99" not in row or "epoch" not in row:
        return None
    return round(row["epochs_to_99"] * row["epoch"] + row["epochs_to_99"] // every * row["ranking"], 2)


def main() -> None:
    """Measures the contenders on each dataset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--part", choices=("curve", "seconds"), action="append", help="default: both")
    parser.add_argument("--only", choices=CONTENDERS, action="append")
    parser.add_argument("--epochs", type=int, default=1000, help="of the curve at most")
    parser.add_argument("--patience", type=int, default=20, help="rankings without a better one")
    parser.add_argument("--alone", type=int, default=9, help="epochs of which the seconds are taken")
    parser.add_argument("--environments", type=Path, default=Path("build/peers"))
    chosen = parser.parse_args()
    path = RESULTS / f"peers-{slug()}.json"
    for folder in chosen.data:
        dataset = open_dataset(folder)
        with tempfile.TemporaryDirectory() as temporary:
            for part in ("train", "valid"):
                matrix = dataset.matrix(part)
                sp.save_npz(Path(temporary) / f"{part}.npz", matrix)
            for name in chosen.only or CONTENDERS:
                contender = CONTENDERS[name]
                row: dict[str, Any] = {}
                for part in chosen.part or ("curve", "seconds"):
                    if part == "curve" and name == "products alone":
                        continue
                    limits = (chosen.epochs, chosen.patience) if part == "curve" else (chosen.alone, chosen.alone)
                    record = measure(contender, chosen.environments, Path(temporary), *limits)
                    row |= {"version": record["version"]} | (curve if part == "curve" else seconds)(record)
                print(dataset.name, name, keep(path, dataset.name, name, row, contender.every), flush=True)


def keep(path: Path, dataset: str, name: str, row: dict[str, Any], every: int) -> dict[str, Any]:
    """Adds ``row`` to the row of the same dataset and contender in the file, and returns the whole row."""
    result = json.loads(path.read_text()) if path.exists() else {"datasets": {}}
    result |= {"processor": processor(), "threads": torch.get_num_threads()}
    rows = result["datasets"].setdefault(dataset, {})
    whole: dict[str, Any] = rows.get(name, {}) | row
    if (reached := to_99(whole, every)) is not None:
        whole["seconds_to_99"] = reached
    rows[name] = whole
    result["datasets"][dataset] = {known: rows[known] for known in CONTENDERS if known in rows}
    path.write_text(json.dumps(result, indent=1) + "\n")
    return whole


if __name__ == "__main__":
    main()
