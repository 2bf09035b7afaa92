"""A run is a folder.

``config.yaml``       the resolved configuration
``log.jsonl``         one JSON object a line: epochs with seconds by phase, evaluations; why it failed
``board/``            where ``training.board`` is set: the same for TensorBoard
``model.safetensors`` the best state; ``model.json`` what it is and its checksum, written after it
``result.json``       figures of the finished run; ``users.npz`` every user's, where ``evaluation.per_user`` is set
``state-*``           while it is not finished: what it goes on from (`checkpoint`)
``.lock``             held by the process that trains here

Several seeds make a folder each, ``seed-S``.
"""

from __future__ import annotations

import io
import json
import time
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from torch import Tensor

from ..config import Config, build_config, dump_config, read_config
from ..errors import DmrecError
from ..eval.ranking import Evaluation
from ..files import locked, read_json, read_sealed, replace_file, sha256_of, write_atomically, write_json, write_sealed
from .board import remove_board
from .checkpoint import GENERATIONS, remove_checkpoints

CONFIG, LOG, WEIGHTS, CHECKPOINT, RESULT, USERS = (
    "config.yaml",
    "log.jsonl",
    "model.safetensors",
    "model.json",
    "result.json",
    "users.npz",
)
LOCK = ".lock"


@dataclass(frozen=True)
class Run:
    """Access to the folder of a run."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, config: Config) -> Run:
        """Starts a run in a folder; see `clear`."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / CONFIG, dump_config(config).encode())
        return cls(folder)

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Opens the folder of a run; where it holds the runs of several seeds, that of the first."""
        if not (folder / CONFIG).exists():
            seeds = _seed_folders(folder)
            if not seeds:
                raise DmrecError(f"{folder} is no run (no {CONFIG}); make one with dmrec train")
            folder = seeds[0]
        return cls(folder)

    @property
    def config(self) -> Config:
        """The resolved configuration."""
        return build_config(read_config(self.folder / CONFIG))

    @property
    def result(self) -> dict[str, Any]:
        """The figures of the finished run."""
        result: dict[str, Any] = read_json(self.folder / RESULT)
        return result

    def log(self, event: str, **values: Any) -> None:
        """Appends a line to the log."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **values})
        with (self.folder / LOG).open("a") as file:
            file.write(line + "\n")

    def log_bytes(self) -> int:
        """How long the log is."""
        return (self.folder / LOG).stat().st_size

    def cut_log(self, length: int) -> None:
        """Takes away what was logged after a checkpoint: it will be logged again."""
        with (self.folder / LOG).open("r+b") as file:
            file.truncate(length)

    def events(self, event: str) -> list[dict[str, Any]]:
        """The logged lines of one kind."""
        lines = map(json.loads, (self.folder / LOG).read_text().splitlines())
        return [line for line in lines if line["event"] == event]

    def save(self, state: dict[str, Tensor], about: dict[str, Any]) -> None:
        """Writes the checkpoint, weights first."""
        tensors = {name: tensor.detach().contiguous() for name, tensor in state.items()}
        replace_file(self.folder / WEIGHTS, lambda path: safetensors.torch.save_file(tensors, path))
        write_sealed(self.folder / CHECKPOINT, {**about, "sha256": sha256_of(self.folder / WEIGHTS)})

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The checkpoint, after comparing its checksum."""
        if not (self.folder / CHECKPOINT).exists():
            raise DmrecError(f"{self.folder} has no model yet: the run was stopped before its first evaluation")
        try:
            about = read_sealed(self.folder / CHECKPOINT)
        except DmrecError as error:
            raise DmrecError(f"{self.folder}: {error}; train again") from None
        path = self.folder / WEIGHTS
        if not path.exists() or sha256_of(path) != about["sha256"]:
            raise DmrecError(f"{path} is missing or differs from its checksum in {CHECKPOINT}; train again")
        return safetensors.torch.load_file(path), about

    def state(self) -> tuple[str, str]:
        """``finished``, ``failed``, ``stopped`` (it can go on) or ``unfinished``, and what there is to say of it."""
        if (self.folder / RESULT).exists():
            return "finished", ""
        lines = (self.folder / LOG).read_text().splitlines() if (self.folder / LOG).exists() else []
        last = json.loads(lines[-1]) if lines else {"event": "start"}
        if last["event"] == "failed":
            return "failed", str(last["error"])
        epochs = sum('"event": "epoch"' in line for line in lines)
        can_go_on = any((self.folder / f"{name}.json").exists() for name in GENERATIONS)
        return ("stopped" if can_go_on else "unfinished"), f"after {epochs} epochs"

    def save_users(self, tested: Evaluation) -> None:
        """Keeps every user's values of the test: arrays by metric, and ``user``."""
        buffer = io.BytesIO()
        values = {metric: of_users.numpy() for metric, of_users in tested.values.items()}
        np.savez_compressed(buffer, user=tested.users.numpy(), **values)  # type: ignore[arg-type]
        write_atomically(self.folder / USERS, buffer.getbuffer())

    def finish(self, result: dict[str, Any]) -> None:
        """Writes the figures."""
        write_json(self.folder / RESULT, result)
        remove_checkpoints(self.folder)


def is_finished(folder: Path) -> bool:
    """Whether a run of one seed or of several has left its figures here."""
    return (folder / RESULT).exists() or any((each / RESULT).exists() for each in _seed_folders(folder))


def in_use(folder: Path) -> AbstractContextManager[None]:
    """Held by the one process that trains in a folder; another one is refused."""
    return locked(folder / LOCK, f"{folder}: another process trains there; name another folder, or stop it first")


def clear(folder: Path) -> None:
    """Removes what a run of one seed or of several left here, and nothing else.

    Raises:
        DmrecError: one of those of several seeds is being trained.
    """
    for part in _seed_folders(folder):
        with in_use(part):
            _remove_files(part)
            with suppress(PermissionError):  # Windows removes no open file
                (part / LOCK).unlink()
        if not any(part.iterdir()):
            part.rmdir()
    _remove_files(folder)


def _remove_files(folder: Path) -> None:
    remove_checkpoints(folder)
    remove_board(folder)
    for name in (USERS, RESULT, CHECKPOINT, WEIGHTS, LOG, CONFIG):
        (folder / name).unlink(missing_ok=True)


def _seed_folders(folder: Path) -> list[Path]:
    """The folders of single seeds, by seed."""
    folders = [path.parent for path in folder.glob(f"seed-*/{CONFIG}")]
    return sorted(folders, key=lambda path: (len(path.name), path.name))
