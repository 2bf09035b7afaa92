"""The state of a model whose items are cut, in a folder: a file for each shard, one for what has no item axis.

``shard-0007.safetensors``   the tensors of shard 7, under their names without the number of the shard
``replicated.safetensors``   the tensors that are the same on every rank
``manifest.json``            values, the number of shards, and the checksum of each file; written last, so that a folder
                             with it is whole

The files do not depend on the number of ranks that wrote them. Each rank reads and writes the shards that it owns.
"""

from __future__ import annotations

import hashlib
import shutil
import socket
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ..errors import DmrecError
from ..files import read_with_checksum, remove_leftovers, replace_file, sha256_of, write_with_checksum
from ..sharding.items import ItemShards, shard_of, without_shard
from ..sharding.ranks import Ranks, agreed

MANIFEST, REPLICATED = "manifest.json", "replicated.safetensors"


def shard_file(shard: int) -> str:
    """The name of the file of a shard."""
    return f"shard-{shard:04}.safetensors"


def save_shards(folder: Path, tensors: Mapping[str, Tensor], values: dict[str, Any], items: ItemShards) -> None:
    """Replaces what is in ``folder``. Called by all ranks, each with the tensors of its shards and the replicated ones.

    Raises:
        DmrecError: on every rank, where one of them could not write or has computed other replicated tensors.
    """
    ranks = items.ranks
    replicated = {name: tensor for name, tensor in tensors.items() if shard_of(name) is None}
    _check_equal(replicated, values, ranks)
    ranks.first_does(partial(_begin, folder))
    files = {shard_file(shard): _of_shard(tensors, shard) for shard in items.owned}
    if ranks.is_first:
        files[REPLICATED] = replicated
    written: dict[str, str] = {}
    error = None
    try:
        for name, of_file in files.items():
            replace_file(folder / name, partial(_write, {key: _plain(tensor) for key, tensor in of_file.items()}))
            written[name] = sha256_of(folder / name)
    except (OSError, safetensors.SafetensorError) as raised:
        error = f"{raised}"
    checksums: dict[str, str] = {}
    for rank, (host, of_rank, fault) in enumerate(ranks.gather_values((socket.gethostname(), written, error))):
        if fault is not None:
            raise agreed(OSError(f"rank {rank} on {host}: {fault}"))
        checksums |= of_rank
    together = hashlib.sha256("".join(checksums[name] for name in sorted(checksums)).encode()).hexdigest()
    sealed = {**values, "shards": items.n_shards, "sha256": together, "files": dict(sorted(checksums.items()))}
    ranks.first_does(lambda: write_with_checksum(folder / MANIFEST, sealed))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The values of a folder that is whole.

    Raises:
        FileNotFoundError: it is not.
        DmrecError: the manifest is damaged.
    """
    return read_with_checksum(folder / MANIFEST)


def load_shards(folder: Path, items: ItemShards) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of the shards of this rank, the replicated ones, and the values. Called by all ranks.

    Raises:
        DmrecError: on every rank, where one of them found a file missing or damaged; the message names it.
    """
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    fault = None
    try:
        values = read_manifest(folder)
        if values["shards"] != items.n_shards:
            raise cut_otherwise(folder, values["shards"], items.n_shards)
        tensors |= _read(folder / REPLICATED, values["files"])
        for shard in items.owned:
            of_shard = _read(folder / shard_file(shard), values["files"])
            tensors |= {_with_shard(name, shard): tensor for name, tensor in of_shard.items()}
    except FileNotFoundError as error:
        fault = f"{folder.name}/{Path(str(error.filename)).name} is missing"
    except (OSError, KeyError, safetensors.SafetensorError, DmrecError) as error:
        fault = f"{folder.name} cannot be read ({type(error).__name__}: {error})"
        fault = str(error) if isinstance(error, DmrecError) else fault
    faults = [found for found in items.ranks.gather_values(fault) if found is not None]
    if faults:
        raise agreed(DmrecError(faults[0]))
    return tensors, values


def cut_otherwise(folder: Path, before: int, now: int) -> DmrecError:
    """The error of a run that is to be continued or used with another number of shards."""
    cut = f"was cut into {before} shards" if before > 1 else "was not cut into shards"
    return DmrecError(
        f"{folder}: sharding.shards is {now}, but the run {cut} and stays so; train anew (dmrec train --force, or "
        "another --out)"
    )


def remove_shards(folder: Path) -> None:
    """Removes a folder that `save_shards` wrote, the manifest first."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def whole_folder(folder: Path) -> bool:
    """Whether the folder has been written to its end."""
    return (folder / MANIFEST).exists()


def _begin(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    (folder / MANIFEST).unlink(missing_ok=True)  # half of the old and half of the new one must not look whole


def _of_shard(tensors: Mapping[str, Tensor], shard: int) -> dict[str, Tensor]:
    return {without_shard(name): tensor for name, tensor in tensors.items() if shard_of(name) == shard}


def _with_shard(name: str, shard: int) -> str:
    """The inverse of `without_shard`: the number stands behind the name of the parameter."""
    head, _, last = name.rpartition(".")
    return f"{head}@{shard}.{last}" if name.startswith("optimiser.") else f"{name}@{shard}"


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    safetensors.torch.save_file(tensors, path)


def _read(path: Path, checksums: Mapping[str, str]) -> dict[str, Tensor]:
    if sha256_of(path) != checksums.get(path.name):
        raise DmrecError(f"{path.parent.name}/{path.name} differs from its checksum in {MANIFEST}")
    return safetensors.torch.load_file(path)


def _check_equal(replicated: Mapping[str, Tensor], values: Mapping[str, Any], ranks: Ranks) -> None:
    """Compares what every rank computed from the same bits."""
    if ranks.size == 1:
        return
    own = {name: _digest(tensor) for name, tensor in replicated.items()}
    of_ranks = ranks.gather_values((socket.gethostname(), own))
    _, wanted = of_ranks[0]
    for rank, (host, found) in enumerate(of_ranks):
        if differing := [name for name in wanted if found.get(name) != wanted[name]]:
            raise agreed(
                DmrecError(
                    f"rank {rank} on {host} computed other weights than rank 0 (first: "
                    f"{_in_words(differing[0], values)}): faulty memory or mixed hardware; the last checkpoint is good"
                )
            )


def _in_words(name: str, values: Mapping[str, Any]) -> str:
    """What a tensor is; of a checkpoint, in which names say whose they are, with the step."""
    if "place" not in values:
        return name
    part, _, rest = name.partition(".")
    parameter, _, moment = rest.rpartition(".")
    words = {"model": rest, "best": f"{rest} of the best state", "optimiser": f"{moment} of {parameter}"}
    return f"{words.get(part, name)}, step {values['place']['step']}"


def _digest(tensor: Tensor) -> str:
    plain = _plain(tensor)
    content: Callable[[], bytes] = plain.view(-1).view(torch.uint8).numpy().tobytes
    return hashlib.sha256(content()).hexdigest()
