"""A run is a folder.

``config.yaml``       the resolved configuration
``log.jsonl``         one JSON object a line: epochs with seconds by phase, evaluations, the error of a failed run
``tensorboard/``      with ``training.tensorboard``: the same for TensorBoard
``model.safetensors`` the best state; ``model.json`` its metadata and checksum, written after it
``model/``            instead of both, where the items are cut into shards (`shards`)
``result.json``       the figures of a finished run; ``users.npz``, with ``evaluation.per_user``, those of every
                      user (`users`)
``state-*``           while the run is not finished: checkpoints (`checkpoint`)
``.lock``             held by the process that trains here
``.previous/``        while a run is trained again: the finished one that it replaces, which is used until then

A run lies in ``OUT/DATASET/MODEL/seed-S``. Where a run is named, the folder of its model will do: the first seed's run.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from ..config import Config, build_config, dump_config, read_config, upgrade
from ..errors import DmrecError
from ..files import (
    locked,
    read_json,
    read_with_checksum,
    replace_file,
    sha256_of,
    write_atomically,
    write_json,
    write_with_checksum,
)
from ..sharding.items import ItemShards
from ..sharding.ranks import ALONE, Ranks
from .checkpoint import has_checkpoint, remove_checkpoints
from .shards import load_shards, read_manifest, remove_shards, save_shards, whole_folder

CONFIG, LOG, WEIGHTS, CHECKPOINT, RESULT, USERS = (
    "config.yaml",
    "log.jsonl",
    "model.safetensors",
    "model.json",
    "result.json",
    "users.npz",
)
FILES = (USERS, RESULT, CHECKPOINT, WEIGHTS, LOG, CONFIG)
MODEL = "model"
LOCK = ".lock"
PREVIOUS = ".previous"
TENSORBOARD = ("tensorboard", "board")  # version 0.1 called it board
FORMAT = 2  # 1 had other names for some options: see `dmrec.config.upgrade`


@dataclass(frozen=True)
class Run:
    """Access to the folder of a run. Where several processes train, they share it, and rank 0 writes.

    ``items``: how they are cut, and which of them this process holds; None: not at all.
    """

    folder: Path
    items: ItemShards | None = None

    @property
    def ranks(self) -> Ranks:
        """The processes that share the run."""
        return ALONE if self.items is None else self.items.ranks

    @classmethod
    def create(cls, folder: Path, config: Config, items: ItemShards | None = None) -> Run:
        """Starts a run in a folder; see `clear`."""
        run = cls(folder, items)
        if run.ranks.is_first:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / CONFIG, f"# dmrec run, format {FORMAT}\n{dump_config(config)}".encode())
        run.ranks.wait()
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Opens the folder of a run, or of a model: then the run of the first seed.

        Of a run that is being trained again, the finished one before it is opened.
        """
        if not (folder / CONFIG).exists() and (seeds := seed_folders(folder)):
            folder = seeds[0]
        if not (folder / RESULT).exists() and (folder / PREVIOUS / RESULT).exists():
            folder /= PREVIOUS
        if not (folder / CONFIG).exists():
            raise DmrecError(f"{folder} is not a run (no {CONFIG}); make one with dmrec train")
        return cls(folder)

    @cached_property
    def config(self) -> Config:
        """The resolved configuration, read once."""
        return read_run_config(self.folder / CONFIG)

    @property
    def result(self) -> dict[str, Any]:
        """The figures of the finished run."""
        result: dict[str, Any] = read_json(self.folder / RESULT)
        return result

    @property
    def is_resumable(self) -> bool:
        """Whether the run was interrupted and left a checkpoint."""
        return not (self.folder / RESULT).exists() and has_checkpoint(self.folder)

    def data_folder(self, moved_to: Path | None = None) -> Path:
        """Where the dataset is: ``moved_to``, or where it was when the run was started."""
        location = moved_to or self.config.data
        assert location is not None, "the configuration of a run names its dataset"
        return location

    def log(self, event: str, **values: Any) -> None:
        """Appends a line to the log."""
        if not self.ranks.is_first:
            return
        line = json.dumps({"time": round(time.time(), 3), "event": event, **values})
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def log_bytes(self) -> int:
        """Length of the log."""
        return (self.folder / LOG).stat().st_size

    def cut_log(self, length: int) -> None:
        """Removes what was logged after a checkpoint: it will be logged again."""
        if not self.ranks.is_first:
            return
        with (self.folder / LOG).open("r+b") as file:
            file.truncate(length)

    def events(self, event: str) -> list[dict[str, Any]]:
        """The logged lines of one kind."""
        lines = map(json.loads, (self.folder / LOG).read_text(encoding="utf-8").splitlines())
        return [line for line in lines if line["event"] == event]

    def save(self, state: Mapping[str, Tensor], metadata: dict[str, Any]) -> None:
        """Writes the model, weights first."""
        if self.items is not None and not self.items.is_whole:
            save_shards(self.folder / MODEL, state, metadata, self.items)
            return
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        replace_file(self.folder / WEIGHTS, lambda path: safetensors.torch.save_file(tensors, path))
        write_with_checksum(self.folder / CHECKPOINT, {**metadata, "sha256": sha256_of(self.folder / WEIGHTS)})

    def load_metadata(self) -> dict[str, Any]:
        """The metadata of the model, ``sha256`` of its weights among it; no weight is read.

        Raises:
            DmrecError: there is no model, or its metadata is damaged.
        """
        cut = whole_folder(self.folder / MODEL)
        if not cut and not (self.folder / CHECKPOINT).exists():
            raise DmrecError(f"{self.folder} has no model yet: the run was stopped before its first evaluation")
        try:
            return read_manifest(self.folder / MODEL) if cut else read_with_checksum(self.folder / CHECKPOINT)
        except DmrecError as error:
            raise DmrecError(f"{self.folder}: {error}; train again") from None

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The model's state and metadata, after comparing its checksum; of items that are cut, by default all."""
        metadata = self.load_metadata()
        if whole_folder(self.folder / MODEL):
            items = self.items or ItemShards(metadata["n_items"], metadata["shards"])
            try:
                return load_shards(self.folder / MODEL, items)
            except DmrecError as error:
                raise DmrecError(f"{self.folder}: {error}; train again") from None
        path = self.folder / WEIGHTS
        if not path.exists() or sha256_of(path) != metadata["sha256"]:
            raise DmrecError(f"{path} is missing or differs from its checksum in {CHECKPOINT}; train again")
        return safetensors.torch.load_file(path), metadata

    def state(self) -> tuple[str, str]:
        """``finished``, ``failed``, ``stopped`` (it can be resumed) or ``unfinished``, and a remark."""
        if (self.folder / RESULT).exists():
            return "finished", ""
        lines = (self.folder / LOG).read_text(encoding="utf-8").splitlines() if (self.folder / LOG).exists() else []
        last = json.loads(lines[-1]) if lines else {"event": "start"}
        if last["event"] == "failed":
            return "failed", str(last["error"])
        epochs = sum('"event": "epoch"' in line for line in lines)
        return ("stopped" if self.is_resumable else "unfinished"), f"after {epochs} epochs"

    def finish(self, result: dict[str, Any]) -> None:
        """Writes the figures and removes the checkpoints."""
        self.ranks.first_does(lambda: self._finish(result))

    def _finish(self, result: dict[str, Any]) -> None:
        write_json(self.folder / RESULT, result)
        remove_checkpoints(self.folder)
        shutil.rmtree(self.folder / PREVIOUS, ignore_errors=True)


def is_finished(folder: Path) -> bool:
    """Whether a run of one seed or of several has left its figures here."""
    return (folder / RESULT).exists() or any((each / RESULT).exists() for each in seed_folders(folder))


def run_folder(out: Path, dataset: str, model: str, seed: int) -> Path:
    """Where a run lies."""
    return out / dataset / model / f"seed-{seed}"


def run_lock(folder: Path, ranks: Ranks = ALONE) -> AbstractContextManager[None]:
    """The lock of those who train in a folder, which rank 0 holds; another process is refused."""
    if not ranks.is_first:
        return nullcontext()
    return locked(folder / LOCK, f"{folder}: another process trains there; name another folder, or stop it first")


def read_run_config(path: Path) -> Config:
    """The configuration in a run's folder, also of version 0.1."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    values = read_config(path)
    return build_config(values if text.startswith("# dmrec run, format") else upgrade(values))


def make_room(folder: Path) -> None:
    """Makes room for a new run. A finished one is kept in `PREVIOUS` until the new one has.

    Raises:
        DmrecError: one of them is being trained.
    """
    if (folder / RESULT).exists():
        aside = folder / f"{PREVIOUS}.tmp"
        for stale in (aside, folder / PREVIOUS):
            shutil.rmtree(stale, ignore_errors=True)
        aside.mkdir()
        for name in FILES:
            if (folder / name).exists():
                shutil.copy2(folder / name, aside / name)
        if whole_folder(folder / MODEL):
            (folder / MODEL).rename(aside / MODEL)
        aside.rename(folder / PREVIOUS)  # whole, or not there
    clear(folder)


def clear(folder: Path) -> None:
    """Removes what runs of one seed or of several left here, and nothing else.

    Raises:
        DmrecError: one of them is being trained.
    """
    for part in seed_folders(folder):
        with run_lock(part):
            _remove_files(part)
            with suppress(PermissionError):  # Windows does not remove open files
                (part / LOCK).unlink()
        if not any(part.iterdir()):
            part.rmdir()
    _remove_files(folder)


def _remove_files(folder: Path) -> None:
    remove_checkpoints(folder)
    remove_shards(folder / MODEL)
    _remove_tensorboard(folder)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)


def _remove_tensorboard(folder: Path) -> None:
    for name in TENSORBOARD:
        for path in folder.glob(f"{name}/events.out.tfevents.*"):
            path.unlink()
        if (folder / name).is_dir() and not any((folder / name).iterdir()):
            (folder / name).rmdir()


def seed_folders(folder: Path) -> list[Path]:
    """The folders of single seeds, by seed."""
    found = [*folder.glob(f"seed-*/{CONFIG}"), *(path.parent for path in folder.glob(f"seed-*/{PREVIOUS}/{CONFIG}"))]
    folders = {path.parent for path in found}
    return sorted(folders, key=lambda path: (len(path.name), path.name))
