"""``dmrec plan``: memory, traffic and time of a training over several processes, before anything starts."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer

from dmrec_ext import product_speeds

from ..config import Config, read_config
from ..data.dataset import Dataset, open_dataset
from ..errors import DmrecError, counted
from ..memory import available_memory
from ..models.vae.model import BackboneConfig
from ..options import deep_merge
from ..recipes import compose
from ..runs.load import check_count
from ..runs.run import Run
from ..runtime import resolve_device
from ..sharding.launch import under_torchrun
from ..sharding.plan import (
    PROCESS,
    Rates,
    Sizes,
    bytes_of_checkpoint,
    collectives,
    counts_of_ranks,
    keeps_logits,
    memory_of,
    seconds_of_step,
    sent_by,
)
from ..sharding.ranks import Ranks
from .console import output, print_table
from .ranks import SHARDS

GB = 1e9


def plan(
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]", show_default=False)] = None,
    data: Annotated[Path | None, typer.Option(help="Dataset folder.", show_default=False)] = None,
    config: Annotated[Path | None, typer.Option(help="YAML over the recipe, or a whole configuration.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option; repeatable.")
    ] = None,
    ranks: Annotated[
        int | None, typer.Option(min=1, help="Show this number of processes alone. Default: 1, 2, 4 ..")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto: whose speed is measured.")] = "cpu",
    network: Annotated[float, typer.Option(min=0.001, help="GB/s that a process sends to others; assumed.")] = 10.0,
    latency: Annotated[float, typer.Option(min=0.0, help="Microseconds of a collective; assumed.")] = 100.0,
) -> None:
    """Show memory, traffic and time of a training over 1, 2, 4 .. processes, and what fits. Nothing is trained.

    Products, memory and disk are measured here, for processes that share this machine's cores (on a GPU: for one GPU
    each). The network is not: --network and --latency say what to expect of it.

    Examples:

    - `dmrec plan dmrec-m --data data/large --ranks 8`
    - `dmrec plan mult-vae --data data/large --set model.hidden=256 --network 25`
    """
    values = deep_merge({"sharding": {"shards": SHARDS}}, read_config(config) if config else {})
    chosen = compose([recipe] if recipe else [], values, list(settings or []))[0]
    location = data or chosen.data
    if location is None:
        raise DmrecError("name the dataset: --data FOLDER")
    dataset = open_dataset(location)
    sizes = sizes_of(chosen, dataset)
    if ranks is not None:
        check_count(ranks, chosen.sharding)
    place = resolve_device(device)
    rooms = {count: room_for(count, place) for count in ([ranks] if ranks else counts_of_ranks(sizes.shards))}
    free = room_for(1, place)
    measured = _rates(place, network, latency)
    rows = []
    for count, room in rooms.items():
        needed = memory_of(sizes, count).total + PROCESS
        rates = _shared(measured, count) if room.shared else measured
        step = seconds_of_step(sizes, count, rates)
        steps = -(-dataset.n_users // sizes.batch)
        rows.append(
            [
                count,
                round(needed / GB, 2),
                "yes" if needed <= room.free and count <= room.most else "no",
                round(sent_by(sizes, count) / 1e6, 2),
                collectives(sizes, count),
                _duration(step),
                _duration(step * steps),
            ]
        )
    print_table(
        f"{chosen.name} on {dataset.name}: {sizes.items} items, {dataset.n_users} users, batches of {sizes.batch}",
        ["processes", "GB each", "fit here", "MB sent a step", "collectives", "a step", "an epoch"],
        rows,
    )
    of_checkpoint, disk = bytes_of_checkpoint(sizes), _disk()
    logits = "kept" if keeps_logits(sizes) else "computed twice"
    where = "here" if free.shared else f"of each GPU here ({free.most})"
    output.print(f"free memory {where}: {free.free / GB:.1f} GB; logits are {logits}")
    output.print(
        f"measured here: products {measured.products / 1e9:.0f} GFLOP/s, memory {measured.memory / GB:.1f} GB/s, disk "
        f"{disk / GB:.2f} GB/s; assumed: network {network:g} GB/s, {latency:g} us a collective"
    )
    output.print(
        f"a checkpoint: {of_checkpoint / GB:.2f} GB, {_duration(of_checkpoint / disk)} on one disk; torchrun waits "
        "30 s for it when it is stopped, unless --shutdown-timeout says otherwise"
    )


def sizes_of(config: Config, dataset: Dataset) -> Sizes:
    """What a configuration trains on a dataset."""
    widths = _model_of(config).table_widths
    assert widths is not None, "the configuration was validated"
    text = (0, 2)
    if config.language is not None:
        items = dataset.vectors(config.language.vectors).items
        text = (int(items.shape[1]), items.dtype.itemsize)
    return Sizes(dataset.n_items, config.sharding.shards, config.training.batch_size, *widths, *text)


class Room(NamedTuple):
    """What is free on a machine for the ranks that run on it."""

    free: float  # bytes for each
    here: int  # ranks on this machine
    most: int  # ranks that can have as much on a machine
    shared: bool  # whether fewer of them would have more


def room_for(here: int, device: torch.device, gpu: int | None = None) -> Room:
    """What each of ``here`` ranks can take on this machine: a share of its memory, or the memory of a GPU.

    ``gpu``: the number of that of this process; None: of all that they would use, the one with the least is taken.
    """
    if device.type != "cuda":
        return Room(available_memory() / here, here, here, True)
    count = torch.cuda.device_count()
    looked_at = range(min(here, count)) if gpu is None else [gpu]  # each gets a context of this process
    free = min(torch.cuda.mem_get_info(number)[0] for number in looked_at)
    return Room(free, here, count, False)


def check_memory(config: Config, dataset: Dataset, ranks: int | Ranks) -> None:
    """Refuses what does not fit into memory.

    Args:
        config: what is to be trained, on ``dataset``.
        ranks: how many processes torchrun is to start here; or those that it has started, if it has, which all call
            this: each machine compares what its own need with what it has.

    Raises:
        DmrecError: it does not fit; the message says what would. On all ranks, if some have been started.
    """
    if not isinstance(ranks, int) and not under_torchrun():
        return
    device = resolve_device(config.training.device)
    if isinstance(ranks, int):
        if refusal := _refusal(config, dataset, ranks, room_for(ranks, device), PROCESS, "this machine"):
            raise refusal
    else:
        rank, of_machine, here = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))
        here = min(here, ranks.size - (rank - of_machine))  # others stand by
        room = room_for(here, device, of_machine)
        ranks.agree(_refusal(config, dataset, ranks.size, room, 0, socket.gethostname()))


def check_memory_of_run(run: Path, data: Path | None, device: str | None, ranks: int | Ranks) -> None:
    """`check_memory` for a run that is to be continued, on ``device`` if not on its own."""
    if not isinstance(ranks, int) and not under_torchrun():
        return
    resumed = Run(run)
    config = resumed.config
    if device is not None:
        training = config.training.model_copy(update={"device": device})
        config = config.model_copy(update={"training": training})
    check_memory(config, open_dataset(resumed.data_folder(data)), ranks)


def _refusal(config: Config, dataset: Dataset, ranks: int, room: Room, own: int, place: str) -> DmrecError | None:
    """Why so many ranks do not fit; None: they do. ``own``: bytes that each takes besides, ``place``: the machine."""
    needed = memory_of(sizes_of(config, dataset), ranks).total + own
    if needed <= room.free:
        return None
    key = _model_of(config).width
    width = "" if key is None else f" at model.{key}={getattr(config.model, key)}"
    ways = filter(
        None, [_ranks_that_fit(config, dataset, ranks, room, own), _width_that_fits(config, dataset, ranks, room, own)]
    )
    listed = ", or ".join(ways)
    return DmrecError(
        f"{dataset.n_items:,} items{width} need {needed / GB:.1f} GB a rank on "
        f"{counted(ranks, 'rank')}, {place} has {room.free / GB:.1f} free for each{': ' if listed else ''}{listed}"
    )


def _ranks_that_fit(config: Config, dataset: Dataset, ranks: int, room: Room, own: int) -> str | None:
    """The next lower number of ranks that fits here, or else the next higher one, with the machines that it needs."""
    sizes, sharding = sizes_of(config, dataset), config.sharding
    counts = counts_of_ranks(sharding.shards) if sharding.sums == "exact" else range(1, sharding.shards + 1)
    for count in reversed([count for count in counts if count < ranks == room.here and room.shared]):
        if (memory_of(sizes, count).total + own) * count <= room.free * room.here:
            return counted(count, "rank")
    for count in (count for count in counts if count > ranks):
        if memory_of(sizes, count).total + own <= room.free:
            machines = next(n for n in range(1, count + 1) if count % n == 0 and count <= n * room.most)
            return f"{count} ranks" + (f" on {machines} machines" if machines > 1 else "")
    return None


def _width_that_fits(config: Config, dataset: Dataset, ranks: int, room: Room, own: int) -> str | None:
    """The option of the largest width that fits, of eights where there are so many."""
    model = _model_of(config)
    if (key := model.width) is None:
        return None
    low, high = 0, int(getattr(model, key))
    while high - low > 1:
        middle = (low + high) // 2
        narrower = config.model_copy(update={"model": model.model_copy(update={key: middle})})
        fits = memory_of(sizes_of(narrower, dataset), ranks).total + own <= room.free
        low, high = (middle, high) if fits else (low, middle)
    return f"model.{key}={low - low % 8 if low >= 8 else low}" if low else None


def _model_of(config: Config) -> BackboneConfig:
    assert isinstance(config.model, BackboneConfig), "the configuration was validated"
    return config.model


def _rates(place: torch.device, network: float, latency: float) -> Rates:
    numbers = torch.zeros(1 << 26, device=place)
    best = float("inf")
    for _ in range(3):
        if place.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        numbers.clone()
        if place.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    products = product_speeds(place).float32 * 1e9
    memory = 2 * numbers.numel() * numbers.element_size() / best
    return Rates(products, memory, network * GB, latency * 1e-6, place.type == "cpu")


def _shared(rates: Rates, ranks: int) -> Rates:
    """Those of each of so many processes that share the cores and the memory of a machine."""
    return rates._replace(products=rates.products / ranks, memory=rates.memory / ranks)


def _disk() -> float:
    """Bytes/s of writing to the disk of this folder."""
    content = bytes(1 << 26)
    with tempfile.NamedTemporaryFile(dir=".") as file:
        started = time.perf_counter()
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        return len(content) / (time.perf_counter() - started)


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{1000 * seconds:.1f} ms"
