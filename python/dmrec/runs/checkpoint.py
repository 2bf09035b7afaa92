"""Checkpoints that a run resumes from: weights, optimiser, random number generators, position, early stopping, log.

Two generations, ``state-a`` and ``state-b``, each a ``.safetensors`` file and a ``.json`` file with its checksum,
written after it: the older one is replaced, so that a crash at any byte leaves the newer one. Both are removed when the
run is finished. Where the items are cut into shards, a generation is a folder instead (see `shards`).
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from torch import Tensor

from ..errors import DmrecError
from ..files import read_with_checksum, replace_file, sha256_of, write_with_checksum
from ..sharding.items import ItemShards
from ..sharding.ranks import ALONE, Ranks, agreed
from .shards import MANIFEST, cut_otherwise, load_shards, remove_shards, save_shards, whole_folder

GENERATIONS = ("state-a", "state-b")


class NoCheckpointError(DmrecError):
    """There is no undamaged checkpoint."""


def part_of(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


class Checkpoint(NamedTuple):
    """Tensors by name, and values that JSON can hold."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, items: ItemShards | None = None) -> None:
    """Replaces the older generation. ``items``: where they are cut, how; all ranks call this, each with its tensors.

    Raises:
        DmrecError: it cannot be written; the earlier checkpoint is unchanged.
    """
    if items is not None and not items.is_whole:
        _save_cut(folder, checkpoint, items)
        return
    numbers = {name: _number(folder / f"{name}.json") for name in GENERATIONS}
    older = min(GENERATIONS, key=lambda name: numbers[name])
    weights, manifest = folder / f"{older}.safetensors", folder / f"{older}.json"
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    try:
        manifest.unlink(missing_ok=True)  # half of the old and half of the new one must not look whole
        replace_file(weights, lambda path: safetensors.torch.save_file(tensors, path))
        number = max(numbers.values()) + 1
        write_with_checksum(manifest, {**checkpoint.values, "number": number, "sha256": sha256_of(weights)})
    except (OSError, safetensors.SafetensorError) as error:
        raise _unwritten(weights, error) from error


def _save_cut(folder: Path, checkpoint: Checkpoint, items: ItemShards) -> None:
    numbers = items.ranks.tell({name: _number(folder / name / MANIFEST) for name in GENERATIONS})
    older = min(GENERATIONS, key=lambda name: numbers[name])
    try:
        values = {**checkpoint.values, "number": max(numbers.values()) + 1}
        save_shards(folder / older, checkpoint.tensors, values, items)
    except OSError as error:
        raise agreed(_unwritten(folder / older, error)) from error


def _unwritten(path: Path, error: Exception) -> DmrecError:
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    why = "the disk is full: make room" if full else str(error)
    return DmrecError(f"{path} cannot be written ({why}); the checkpoint before it is unchanged")


def load_checkpoint(folder: Path, items: ItemShards | None = None) -> Checkpoint:
    """The newest generation that is undamaged. ``items``: where they are cut, how; all ranks call this.

    Damaged ones no longer count, so that the next checkpoint replaces them and not the one that was good.

    Raises:
        NoCheckpointError: there is none; the message says why.
        DmrecError: the run was cut into another number of shards.
    """
    check_cut(folder, 1 if items is None else items.n_shards, ALONE if items is None else items.ranks)
    if items is not None and not items.is_whole:
        return _load_cut(folder, items)
    found = sorted(GENERATIONS, key=lambda name: -_number(folder / f"{name}.json"))
    faults = []
    for name in found:
        weights, manifest = folder / f"{name}.safetensors", folder / f"{name}.json"
        try:
            values = read_with_checksum(manifest)
            if sha256_of(weights) == values["sha256"]:
                for damaged in found[: found.index(name)]:
                    (folder / f"{damaged}.json").unlink(missing_ok=True)
                return Checkpoint(safetensors.torch.load_file(weights), values)
            faults.append(f"{weights.name} differs from its checksum")
        except FileNotFoundError as error:
            if weights.exists() or manifest.exists():
                faults.append(f"{Path(str(error.filename)).name} is missing")
        except DmrecError as error:
            faults.append(str(error))
    raise _unreadable(folder, faults)


def _load_cut(folder: Path, items: ItemShards) -> Checkpoint:
    numbers = items.ranks.tell({name: _number(folder / name / MANIFEST) for name in GENERATIONS})
    faults = []
    found = sorted(GENERATIONS, key=lambda name: -numbers[name])
    for name in found:
        there = items.ranks.tell((folder / name).exists())
        if not there:
            continue
        try:
            checkpoint = Checkpoint(*load_shards(folder / name, items))
            for damaged in found[: found.index(name)]:
                items.ranks.first_does(partial((folder / damaged / MANIFEST).unlink, missing_ok=True))
            return checkpoint
        except DmrecError as error:
            faults.append(str(error))
    raise agreed(_unreadable(folder, faults))


def _unreadable(folder: Path, faults: Sequence[str]) -> NoCheckpointError:
    why = f"no undamaged checkpoint: {'; '.join(faults)}"
    if not faults:
        why = "no checkpoint to resume from: it was stopped before the first one"
    return NoCheckpointError(f"{folder} has {why}; train again")


def check_cut(folder: Path, shards: int, ranks: Ranks = ALONE) -> None:
    """Checks that the checkpoints of a run are of so many shards. All ranks call this.

    Raises:
        DmrecError: on every rank, where they are not.
    """
    values = newest_values(folder)
    found = ranks.tell(shards if values is None else values.get("shards", 1))
    if found != shards:
        raise agreed(cut_otherwise(folder, found, shards))


def newest_values(folder: Path) -> dict[str, Any] | None:
    """The values of the newest generation, without its tensors; None: there is none whose manifest is undamaged."""
    found = []
    for name in GENERATIONS:
        for manifest in (folder / f"{name}.json", folder / name / MANIFEST):
            with suppress(OSError, DmrecError):
                found.append(read_with_checksum(manifest))
    return max(found, key=lambda values: int(values["number"]), default=None)


def has_checkpoint(folder: Path) -> bool:
    """Whether a generation was written to its end."""
    return any((folder / f"{name}.json").exists() or whole_folder(folder / name) for name in GENERATIONS)


def remove_checkpoints(folder: Path) -> None:
    """Removes all generations."""
    for name in GENERATIONS:
        remove_shards(folder / name)
        for ending in ("json", "safetensors"):
            (folder / f"{name}.{ending}").unlink(missing_ok=True)


def _number(manifest: Path) -> int:
    """The number of a generation, larger for a newer one; -1 where there is none or it is damaged."""
    try:
        return int(read_with_checksum(manifest)["number"])
    except (OSError, DmrecError):
        return -1
