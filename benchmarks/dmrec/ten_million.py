"""Ten million items from a dataset to recommendations, by the commands that users have, over two processes.

``python -m benchmarks.dmrec.ten_million --folder build/ten-million`` makes a dataset of format 2 with 10,000 users
and text vectors of 64 numbers, trains DMRec-M (width 64) for 20 steps of 500 users, which ranks all items for 1,000
users when it validates, and writes 20 recommendations for each user, twice: once undisturbed, once killed in the middle
and started again. Data and a trained model that are there already are used. Results go to
``results/ten-million-PROCESSOR.json``. It takes some 30 GB of disk and 20 GB of memory.

``--control-group /sys/fs/cgroup/memory/NAME`` recommends once more in a control group (Linux, cgroup v1 or v2), whose
limit then holds for all processes and for what they read of files.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from dmrec.data.create_parts import create_large_dataset
from dmrec.data.interactions import Block
from dmrec.files import sha256_of
from dmrec.runs.run import Run

RESULTS = Path(__file__).parents[1] / "results"
WIDTH, TEXTS, BATCH, STEPS, MEASURED, K, MEAN_LENGTH = 64, 64, 500, 20, 1000, 20, 50
PART_USERS = 1000  # of a file, so that there are several


def make_data(folder: Path, n_items: int, n_users: int) -> None:
    """Interactions and vectors at random; validation and test have an item of every user."""
    random = np.random.default_rng(0)
    lengths = random.poisson(MEAN_LENGTH, n_users) + 3
    rows = [np.unique(random.integers(0, n_items, length)) for length in lengths]
    parts = {"valid": [row[:1] for row in rows], "test": [row[1:2] for row in rows], "train": [row[2:] for row in rows]}
    block = {
        split: Block(np.cumsum([0, *map(len, of_split)]), np.concatenate(of_split).astype(np.int32))
        for split, of_split in parts.items()
    }
    dataset = create_large_dataset(folder, folder.name, [block], n_items, provenance={"source": "synthetic"})
    items = np.concatenate(
        [
            random.standard_normal((len(range(first, min(first + 1_000_000, n_items))), TEXTS), np.float32).astype(
                np.float16
            )
            for first in range(0, n_items, 1_000_000)
        ]
    )
    users = random.standard_normal((n_users, TEXTS), np.float32).astype(np.float16)
    dataset.add_vectors("random", items, users, {"source": "synthetic"})


class Peak(threading.Thread):
    """The largest VmHWM of each worker below a process, by their place, and the largest sum of what they hold."""

    def __init__(self, parent: int) -> None:
        super().__init__(daemon=True)
        self.parent, self.of_process, self.together, self.stopped = parent, dict[int, int](), 0, False

    def run(self) -> None:
        """Looks twice a second."""
        while not self.stopped:
            found = {pid: _memory(pid) for pid in children(self.parent)}
            for pid, (peak, _) in found.items():
                self.of_process[pid] = max(self.of_process.get(pid, 0), peak)
            self.together = max(self.together, sum(held for _, held in found.values()))
            time.sleep(0.5)


def children(parent: int) -> list[int]:
    """The processes that a process has started."""
    listed = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(pid) for pid in listed.read_text().split()] if listed.exists() else []


def _memory(pid: int) -> tuple[int, int]:
    """Bytes: the most that a process has held, and what it holds that is not mapped from files."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}
    return values.get("VmHWM", 0), values.get("RssAnon", 0)


def dmrec(
    *arguments: object, ranks: int, kill_when: Path | None = None, control_group: Path | None = None
) -> dict[str, Any]:
    """Runs a command over so many processes; its seconds and memory. It is killed once ``kill_when`` exists."""
    command = [sys.executable, "-m", "dmrec", *map(str, arguments), "--ranks", str(ranks)]
    started = time.perf_counter()
    if control_group is not None:
        joining = 'echo $$ > "$0"/cgroup.procs; exec "$@"'
        command = ["sh", "-c", joining, str(control_group), *command]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak = Peak(process.pid)
    peak.start()
    while kill_when is not None and process.poll() is None:
        if kill_when.exists():
            for pid in [process.pid, *children(process.pid)]:
                os.kill(pid, signal.SIGKILL)
            break
        time.sleep(0.05)
    printed, _ = process.communicate()
    peak.stopped = True
    if process.returncode and kill_when is None:
        raise RuntimeError(printed)
    largest = sorted(peak.of_process.values())[-ranks:]
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "peak_gb": [round(each / 1e9, 2) for each in largest],
        "not_mapped_together_gb": round(peak.together / 1e9, 2),
    }


def limit_of(control_group: Path) -> float:
    """Gigabytes that the processes of a control group may use."""
    limits = [control_group / name for name in ("memory.max", "memory.limit_in_bytes")]
    return round(int(next(limit for limit in limits if limit.exists()).read_text()) / 1e9, 2)


def drop_from_cache(folder: Path) -> None:
    """Has the system forget what it has read of the files below a folder."""
    for each in folder.rglob("*"):
        if each.is_file():
            with each.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    """See the top of the file."""
    from benchmarks.processor import processor, slug

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/ten-million"))
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--control-group", type=Path, help="an existing folder, with a limit of memory")
    parser.add_argument("--keep", action="store_true", help="keep what was written")
    given = parser.parse_args()
    folder, n_users, path = given.folder, BATCH * STEPS, RESULTS / f"ten-million-{slug()}.json"
    found: dict[str, Any] = {
        "processor": processor(),
        "items": given.items,
        "users": n_users,
        "users_of_a_step": BATCH,
        "ranks": given.ranks,
    }
    if not (folder / "data/manifest.json").exists():
        make_data(folder / "data", given.items, n_users)
    narrow = [f"model.hidden={WIDTH}", f"model.latent={WIDTH // 2}", f"language.hidden={WIDTH}"]
    narrow += [f"training.batch_size={BATCH}", "training.epochs=1", "training.checkpoint_minutes=600"]
    narrow += [f"evaluation.users={MEASURED}"]
    settings = [part for each in narrow for part in ("--set", each)]
    train = ("train", "dmrec-m", "--data", folder / "data", "--out", folder / "runs", *settings)
    run = Run(folder / "runs/data/dmrec-m/seed-0")
    if run.state()[0] != "finished":
        found["training"] = dmrec(*train, ranks=given.ranks)
    elif path.exists():
        found["training"] = json.loads(path.read_text())["training"]
    for name in ("whole", "killed", "limited"):
        shutil.rmtree(folder / name, ignore_errors=True)
    found["seconds_of_step"] = round(run.events("epoch")[0]["seconds"] / STEPS, 3)
    found["seconds_of_ranking_1000"] = run.events("evaluation")[0]["seconds"]
    found["result"] = run.result["valid"]
    recommend = ("recommend", run.folder, "-k", K, "--part-users", PART_USERS, "--out")
    found["recommending"] = dmrec(*recommend, folder / "whole", ranks=given.ranks)
    dmrec(*recommend, folder / "killed", ranks=given.ranks, kill_when=folder / "killed/part-00001.parquet")
    found["recommending_again"] = dmrec(*recommend, folder / "killed", ranks=given.ranks)
    names = ["whole", "killed"]
    if given.control_group is not None:
        names.append("limited")
        drop_from_cache(folder)  # what is cached already would not be charged to the group
        limited = dmrec(*recommend, folder / "limited", ranks=given.ranks, control_group=given.control_group)
        found["recommending_in_a_control_group"] = {"limit_gb": limit_of(given.control_group), **limited}
    files = [{path.name: sha256_of(path) for path in sorted((folder / name).iterdir())} for name in names]
    found["same_files"], found["files"] = all(each == files[0] for each in files), len(files[0])
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    if not given.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
