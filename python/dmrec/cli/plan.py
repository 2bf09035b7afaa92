"""``dmrec plan``: memory, traffic and time of a training over several processes, before anything starts."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from dmrec_ext import product_speeds

from ..config import Config, read_config
from ..data.dataset import Dataset, open_dataset
from ..errors import DmrecError
from ..memory import available_memory
from ..models.vae.model import BackboneConfig
from ..options import deep_merge
from ..recipes import compose
from ..runs.load import check_count
from ..runtime import resolve_device
from ..sharding.plan import (
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
    free = available_memory()
    measured = _rates(device, network, latency)
    rows = []
    for count in [ranks] if ranks else counts_of_ranks(sizes.shards):
        memory = memory_of(sizes, count)
        rates = _shared(measured, count) if device == "cpu" else measured
        step = seconds_of_step(sizes, count, rates)
        steps = -(-dataset.n_users // sizes.batch)
        rows.append(
            [
                count,
                round(memory.total / GB, 2),
                "yes" if memory.total * count <= free else "no",
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
    output.print(f"free memory here: {free / GB:.1f} GB; logits are {logits}")
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
    widths = config.model.table_widths if isinstance(config.model, BackboneConfig) else None
    assert widths is not None, "the configuration was validated"
    text = (0, 2)
    if config.language is not None:
        items = dataset.vectors(config.language.vectors).items
        text = (int(items.shape[1]), items.dtype.itemsize)
    return Sizes(dataset.n_items, config.sharding.shards, config.training.batch_size, *widths, *text)


def check_memory(config: Config, dataset: Dataset, ranks: int) -> None:
    """Refuses what does not fit into this machine's memory.

    Raises:
        DmrecError: it does not; the message says what would.
    """
    free = available_memory()
    if config.training.device.startswith("cuda"):
        return
    sizes = sizes_of(config, dataset)
    needed = memory_of(sizes, ranks).total
    if needed * ranks <= free:
        return
    narrower = sizes
    while memory_of(narrower, ranks).total * ranks > free and narrower.output_width > 1:
        narrower = narrower._replace(input_width=narrower.input_width // 2, output_width=narrower.output_width // 2)
    raise DmrecError(
        f"{sizes.items:,} items at a width of {sizes.output_width} need {needed / GB:.1f} GB for each of {ranks} "
        f"processes, this machine has {free / ranks / GB:.1f} GB free for each: share them with other machines "
        f"(torchrun), or take a width of {narrower.output_width}"
    )


def _rates(device: str, network: float, latency: float) -> Rates:
    place = resolve_device(device)
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
