"""Training steps and exact rankings over shards of items, measured against what `dmrec_ext` and the machine allow.

``python -m benchmarks.dmrec.sharded`` trains DMRec-M (width 64, text vectors of 64 numbers in float16) on 1, 2 and 4
processes of this machine at 100,000 and 1,000,000 items: seconds of a step and peak memory beside what
`dmrec.sharding.plan` predicts from rates that are measured in the same processes at the same time; then a ranking of
1,000 users beside one product of that size. ``--items 10000000 --ranks 2`` measures one size. Results go to
``results/sharded-PROCESSOR.json``.

``--operators``: the operators over 64 shards against one call over all items.
``--plan``: memory and time by the same formulas at the assumed rates of an H100; nothing is measured.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
WIDTH, TEXTS, BATCH, SHARDS, RANKED, K = 64, 64, 256, 64, 1000, 20
MEAN_LENGTH = 50  # interactions of a user
TILE = 4096  # items of a product that stays in caches


def measure(n_items: int, steps: int) -> dict[str, Any] | None:
    """One size, in the processes that torchrun has started; the figures in the first."""
    from dmrec.sharding.launch import joined

    with joined("exact", 10.0, print) as ranks:
        assert ranks is not None, "a power of two"
        found = _measure(ranks, n_items, steps)
        return found if ranks.is_first else None


def _measure(ranks: Any, n_items: int, steps: int) -> dict[str, Any]:
    import torch
    from dmrec.build import build_model
    from dmrec.config import build_config
    from dmrec.models.base import Model, Step, TrainingData, evaluating
    from dmrec.options import apply_overrides
    from dmrec.recipes import recipe
    from dmrec.runtime import Runtime
    from dmrec.sharding.items import ItemShards
    from dmrec.sharding.plan import Rates, Sizes, memory_of, seconds_of_step, sent_by
    from dmrec.training.loop import train_step
    from dmrec.training.optimiser import optimiser_of
    from dmrec.training.timing import PhaseTimer

    narrow = [f"model.hidden={WIDTH}", f"model.latent={WIDTH // 2}", f"language.hidden={WIDTH}"]
    settings = [*narrow, f"training.batch_size={BATCH}", f"sharding.shards={SHARDS}"]
    config = build_config(apply_overrides(recipe("dmrec-m"), settings))
    shards = ItemShards(n_items, SHARDS, ranks)

    def train(data: TrainingData, steps: int) -> tuple[Model, list[float]]:
        torch.manual_seed(0)
        model = build_model(config, data)
        optimiser = optimiser_of(model, config.training)
        seconds = []
        for number in range(steps):
            index = torch.arange(number * BATCH, (number + 1) * BATCH) % data.n_users
            ranks.wait()
            started = time.perf_counter()
            torch.manual_seed(number)
            model.train()
            train_step(model, model.batch(index), Step(number), optimiser, Runtime(torch.device("cpu")), PhaseTimer({}))
            ranks.wait()
            seconds.append(time.perf_counter() - started)
        return model, seconds

    data = _catalogue(n_items, BATCH * max(steps, 4), shards)
    train(_catalogue(SHARDS, BATCH * 4, ItemShards(SHARDS, SHARDS, ranks)), 2)
    own = _memory("VmRSS")  # of a process that has trained on hardly any items
    model, seconds = train(data, steps + 1)
    peak = _memory("VmHWM")
    rates = Rates(*_rates(ranks, n_items))
    sizes = Sizes(n_items, SHARDS, BATCH, WIDTH, WIDTH, TEXTS, 2)
    step, predicted = statistics.median(seconds[1:]), seconds_of_step(sizes, ranks.size, rates)
    with evaluating(model):
        users = data.users(torch.arange(RANKED) % data.n_users)
        ranking = _median(lambda: model.rank(users, K, users.interactions), ranks, 3)
        product = _median(lambda: _product(model, RANKED), ranks, 3)
    memory = memory_of(sizes, ranks.size).total
    memories = ranks.gather_values((peak, own))
    return {
        "items": n_items,
        "ranks": ranks.size,
        "threads": torch.get_num_threads(),
        "seconds_of_step": round(step, 4),
        "predicted_seconds": round(predicted, 4),
        "step_over_prediction": round(step / predicted, 2),
        "peak_gb": [round(each / 1e9, 3) for each, _ in memories],
        "of_the_process_gb": [round(each / 1e9, 3) for _, each in memories],
        "predicted_gb": round(memory / 1e9, 3),
        "peak_over_prediction": round(max(each / (memory + of_process) for each, of_process in memories), 2),
        "seconds_of_ranking": round(ranking, 3),
        "seconds_of_product": round(product, 3),
        "ranking_over_product": round(ranking / product, 2),
        "mb_sent": round(sent_by(sizes, ranks.size) / 1e6, 2),
        "rates": {
            "products_gflop_per_s": round(rates.products / 1e9, 1),
            "memory_gb_per_s": round(rates.memory / 1e9, 2),
            "network_gb_per_s": round(rates.network / 1e9, 2),
            "latency_us": round(rates.latency * 1e6, 1),
        },
    }


def _catalogue(n_items: int, n_users: int, shards: Any) -> Any:
    """Users with interactions and text vectors of items and users at random; rows of items are made when asked for."""
    import numpy as np
    import torch
    from dmrec.models.base import TrainingData

    from dmrec_ext import Csr

    random = np.random.default_rng(0)
    lengths = random.poisson(MEAN_LENGTH, n_users)
    keys = random.integers(0, n_items, int(lengths.sum()))
    rows = np.repeat(np.arange(n_users), lengths)
    pairs = np.unique(rows * n_items + keys)
    crow = np.concatenate([[0], np.cumsum(np.bincount(pairs // n_items, minlength=n_users))])
    x = Csr(torch.from_numpy(crow), torch.from_numpy(pairs % n_items), None, n_items)
    users = random.standard_normal((n_users, TEXTS)).astype(np.float16)
    return TrainingData(x, _Vectors(n_items), users, shards=shards)  # type: ignore[arg-type]


class _Vectors:
    """(N, TEXTS) float16 that are never all in memory, as vectors that are mapped from disk."""

    def __init__(self, n_items: int) -> None:
        self.shape = (n_items, TEXTS)

    def __getitem__(self, rows: slice) -> Any:
        import numpy as np

        count = len(range(*rows.indices(self.shape[0])))
        random = np.random.default_rng(rows.start or 0)
        return random.standard_normal((count, TEXTS), dtype=np.float32).astype(np.float16)


def _rates(ranks: Any, n_items: int) -> tuple[float, float, float, float]:
    """Products, memory, network, latency of a rank, while the others do the same."""
    import torch

    size = max(1, n_items // SHARDS)
    query, items = torch.randn(BATCH, WIDTH), torch.randn(size, WIDTH)
    source = torch.randn(1 << 24)
    target, product = torch.empty_like(source), torch.empty(BATCH, size)
    repeat = max(1, 2_000_000 // size)
    products = (
        2
        * BATCH
        * WIDTH
        * size
        * repeat
        / _median(lambda: [torch.mm(query, items.T, out=product) for _ in range(repeat)], ranks)
    )
    memory = 2 * source.nbytes / _median(lambda: target.copy_(source), ranks)
    if ranks.size == 1:
        return products, memory, 1e12, 0.0
    x = torch.randn(1 << 20)
    latency = _median(lambda: [ranks.any(False) for _ in range(20)], ranks) / 20
    of_sum = _median(lambda: ranks.sum(x), ranks) - 2 * latency
    return products, memory, 2 * x.nbytes * (ranks.size - 1) / ranks.size / max(of_sum, 1e-6), latency


def _product(model: Any, n_users: int) -> None:
    """The products of a ranking alone, of the shards that this rank holds."""
    import torch

    decoder = model.backbone.decoder_output
    query, product = torch.randn(n_users, WIDTH), torch.empty(n_users * TILE)
    for weight in decoder.items.tensors(decoder, "weight"):
        for tile in weight.split(TILE):
            torch.mm(query, tile.T, out=product[: n_users * len(tile)].view(n_users, len(tile)))


def _median(function: Callable[[], object], ranks: Any, repeat: int = 5) -> float:
    """Seconds, of the slowest rank."""
    times = []
    for _ in range(repeat + 1):
        ranks.wait()
        started = time.perf_counter()
        function()
        ranks.wait()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def _memory(name: str) -> int:
    """Bytes of this process, by their name in /proc/self/status."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = next(line for line in status.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def operators(n_items: int) -> dict[str, Any]:
    """The operators of a step over shards against one call, in this process, alternating. The gradient of a table is
    freed as soon as it is complete, as in training.
    """
    import torch
    from dmrec.sharding.items import ItemShards

    from dmrec_ext import csr_aggregate, multinomial_nll, rank_topk

    data = _catalogue(n_items, BATCH, None)
    x = data.interactions
    hidden = torch.randn(BATCH, WIDTH).requires_grad_()
    weight = (torch.randn(n_items, WIDTH) / WIDTH).requires_grad_()
    bias = torch.zeros(n_items).requires_grad_()
    items = ItemShards(n_items, SHARDS)
    cuts, biases = (
        [whole.detach()[slice(*items.bounds(shard))].clone().requires_grad_() for shard in items.owned]
        for whole in (weight, bias)
    )
    parts = items.split(x)
    for table in (weight, *cuts):
        table.register_post_accumulate_grad_hook(lambda table: setattr(table, "grad", None))

    def nll(sharded: bool) -> None:
        loss = (
            items.nll(hidden, cuts, x, biases) if sharded else multinomial_nll(hidden, weight, x, bias, logits_budget=0)
        )
        loss.backward()
        for tensor in (hidden, bias, *biases):
            tensor.grad = None

    def aggregate(sharded: bool) -> None:
        total = items.aggregate(parts, cuts) if sharded else csr_aggregate(x, weight)
        total.sum().backward()

    def rank(sharded: bool) -> None:
        with torch.no_grad():
            if sharded:
                items.rank(hidden, cuts, K, biases, x)
            else:
                rank_topk(hidden, weight, K, bias=bias, exclude=x)

    found: dict[str, Any] = {"items": n_items, "threads": torch.get_num_threads()}
    for name, function in (("multinomial_nll", nll), ("csr_aggregate", aggregate), ("rank_topk", rank)):
        times: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(8):
            for sharded in (True, False):
                started = time.perf_counter()
                function(sharded)
                times[sharded].append(time.perf_counter() - started)
        over = [a / b for a, b in zip(times[True][1:], times[False][1:], strict=True)]
        found[name] = {
            "one_call_ms": round(1e3 * statistics.median(times[False][1:]), 1),
            "shards_over_one_call": round(statistics.median(over), 3),
        }
    return found


def table() -> list[list[str]]:
    """Gigabytes of a rank and milliseconds of a step at the assumed rates of an H100; - where 72 GB do not suffice."""
    from dmrec.sharding.plan import Rates, Sizes, counts_of_ranks, memory_of, seconds_of_step

    rows = []
    for width, texts in ((600, 1536), (64, 64)):
        for n_items in (10_000_000, 100_000_000, 1_000_000_000):
            sizes = Sizes(n_items, 64, 1024, width, width, texts, 2)
            cells = []
            for ranks in counts_of_ranks(64):
                rates = Rates(400e12, 2.5e12, 300e9 if ranks <= 8 else 45e9, 40e-6, tiles_in_cache=False)
                memory = memory_of(sizes, ranks).total / 1e9
                step = 1e3 * seconds_of_step(sizes, ranks, rates)
                cells.append(f"{memory:,.1f} / {step:,.1f}" + (" -" if memory > 72 else ""))
            rows.append([f"{width}, {texts}", f"{n_items:,}", *cells])
    return rows


def print_plan() -> None:
    """The table, in Markdown."""
    from dmrec.sharding.plan import counts_of_ranks

    print("GB a rank / ms a step of 1,024 users, at assumed rates of an H100; - does not fit 72 GB\n")
    heads = ["H, E", "items", *(f"R = {ranks}" for ranks in counts_of_ranks(64))]
    print("| " + " | ".join(heads) + " |\n|" + " --- |" * len(heads))
    for row in table():
        print("| " + " | ".join(row) + " |")


def start(n_items: int, ranks: int, steps: int, threads: int) -> dict[str, Any]:
    """One size over so many processes."""
    from dmrec.sharding.launch import torchrun

    command, environment = torchrun(ranks, [], 1)
    command = [*command[: command.index("-m", 3)], "-m", "benchmarks.dmrec.sharded", "--worker"]
    command += ["--items", str(n_items), "--steps", str(steps)]
    environment["OMP_NUM_THREADS"] = str(threads)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(done.stdout + done.stderr)
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--operators", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--items", type=int)
    parser.add_argument("--ranks", type=int)
    parser.add_argument("--steps", type=int, default=5)
    chosen = parser.parse_args()
    if chosen.plan:
        print_plan()
        return
    if chosen.worker:
        found = measure(chosen.items, chosen.steps)
        if found is not None:
            print(json.dumps(found), flush=True)
        from dmrec.sharding.launch import leave

        leave(0)
    from dmrec.runtime import usable_processors

    from benchmarks.processor import processor, slug

    path = RESULTS / f"sharded-{slug()}.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept["processor"] = processor()
    if chosen.operators:
        kept["operators"] = operators(chosen.items or 1_000_000)
        print(json.dumps(kept["operators"]), flush=True)
    else:
        sizes = [chosen.items] if chosen.items else [100_000, 1_000_000]
        for n_items in sizes:
            for ranks in [chosen.ranks] if chosen.ranks else [1, 2, 4]:
                row = start(n_items, ranks, chosen.steps, max(1, usable_processors() // ranks))
                rows = [each for each in kept.get("steps", []) if (each["items"], each["ranks"]) != (n_items, ranks)]
                kept["steps"] = sorted([*rows, row], key=lambda each: (each["items"], each["ranks"]))
                print(json.dumps(row), flush=True)
                path.write_text(json.dumps(kept, indent=1) + "\n")
    path.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
