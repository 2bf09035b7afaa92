"""Where the time of an epoch goes: ``python -m benchmarks.dmrec.epoch data/amazon-scientific --recipe dmrec-m``.

Phases come from the log of a run of ``--epochs`` epochs with the default interval of evaluation. What is inside them
comes from torch's profiler over one more epoch with two full rankings (validation, test): time of the operators
themselves, without what they call, by kind. The
floor of a kind is what it must compute or move, at rates measured in the same process:

- matrix products: their multiplications and additions, at the rate of the decoder's own product, alone;
- Adam: 4 numbers a weight read and 3 written, at the rate of an update in place;
- sparse sums (``csr_aggregate``): the rows of the dense matrix that are read and what is written, at the same rate;
- ranking: every score read once; tanh: read and written, its gradient from two arrays to a third; at the same rate.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from dmrec.build import build_model
from dmrec.config import build_config
from dmrec.data.dataset import open_dataset
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.runs.load import training_data
from dmrec.runs.resolve import resolve
from dmrec.runs.run import Run
from dmrec.training.trainer import train
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

RESULTS = Path(__file__).parents[1] / "results"


def _sparse(event: Any) -> int:
    """Numbers that a sparse sum reads and writes: a row of the matrix for each entry, a row for each user."""
    sizes = [shape[0] for shape in event.input_shapes if len(shape) == 1]
    matrices = [shape for shape in event.input_shapes if len(shape) == 2]
    if len(sizes) < 2 or not matrices:
        return 0
    (rows, entries), matrix = sizes[:2], matrices[-1]
    written = math.prod(matrix) if "backward" in event.name.lower() else 0
    return (rows - 1 + entries) * matrix[1] + written


def _ranked(event: Any) -> int:
    """Scores: each is read once."""
    return int(event.input_shapes[0][0] * event.input_shapes[1][0])


def _tanh(event: Any) -> int:
    """Read and written; its gradient from two arrays to a third."""
    return math.prod(event.input_shapes[0]) * (3 if "backward" in event.name else 2)


KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "Adam": ("aten::_fused_adam_",),
    "sparse sums and their gradients": (
        "dmrec_ext::csr_aggregate",
        "dmrec_ext::_csr_aggregate_backward",
        "GeneratedBackwardFor_dmrec_ext_csr_aggregate_defaultBackward",
    ),
    "softmax and likelihood, without products": ("dmrec_ext::multinomial_nll", "dmrec_ext::_multinomial_nll_backward"),
    "ranking, without products": ("dmrec_ext::rank_topk",),
    "tanh and its gradient": ("aten::tanh", "aten::tanh_backward"),
}
MOVED = {
    "sparse sums and their gradients": _sparse,
    "ranking, without products": _ranked,
    "tanh and its gradient": _tanh,
}


def measure(folder: Path, name: str, precision: str, epochs: int, device: str = "cpu") -> dict[str, Any]:
    """Phases, kinds and floors of one model; on a GPU phases alone, since what runs there is not the host's."""
    dataset = open_dataset(folder)
    options = [f"training.precision={precision}", f"training.epochs={epochs}", "training.patience=1000"]
    options.append(f"training.device={device}")
    config = resolve(build_config(apply_overrides(recipe(name), options)), dataset, 0)
    with tempfile.TemporaryDirectory() as temporary:
        result = train(config, dataset, Path(temporary) / "run")
        timed = Run(Path(temporary) / "run").events("epoch")[1:]  # the first one warms up
        phases = {phase: _median([each["phases"][phase] for each in timed]) for phase in timed[0]["phases"]}
        evaluation = [each["seconds"] for each in Run(Path(temporary) / "run").events("evaluation")]
        phases["evaluation"] = _median(evaluation) / config.training.evaluate_every
        weights = sum(tensor.numel() for tensor in Run(Path(temporary) / "run").load()[0].values())
        about = {"dataset": dataset.name, "model": name, "precision": precision, "epochs": result["epochs"]}
        about["phases"] = {phase: round(seconds, 4) for phase, seconds in phases.items()}
        if not config.training.device.startswith("cpu"):
            return {**about, **result["environment"]}
        one = config.model_copy(
            update={"training": config.training.model_copy(update={"epochs": 1, "evaluate_every": 1})}
        )
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
            train(one, dataset, Path(temporary) / "one")
    spent: dict[str, float] = defaultdict(float)
    floors: dict[str, float] = defaultdict(float)
    model = build_model(config, training_data(config, dataset))
    decoder = model.item_vectors()
    rates = _rates(config.training.batch_size, decoder.shape[1], dataset.n_items, precision)
    for event in profiled.events():
        if event.device_type == DeviceType.CPU:
            kind = next((kind for kind, names in KINDS.items() if event.name in names), "everything else")
            spent[kind] += event.self_cpu_time_total / 1e6
            if kind == "matrix products":
                floors[kind] += _operations(event) / rates["product"]
            elif kind in MOVED and event.input_shapes:
                floors[kind] += 4 * MOVED[kind](event) / rates["memory"]
    floors["Adam"] = -(-dataset.n_users // config.training.batch_size) * 7 * 4 * weights / rates["memory"]
    return {
        **about,
        "kinds": {
            kind: {"seconds": round(seconds, 4), "floor": round(floors[kind], 4) if floors[kind] else None}
            for kind, seconds in sorted(spent.items(), key=lambda each: -each[1])
        },
        "product_gflop_per_s": round(rates["product"] / 1e9),
        "memory_gb_per_s": round(rates["memory"] / 1e9, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _operations(event: Any) -> float:
    """Multiplications and additions of a product: 2 m k n, from the shapes of its two matrices."""
    shapes = [shape for shape in event.input_shapes if len(shape) == 2]
    if event.name == "aten::addmm":
        shapes = shapes[-2:] if len(event.input_shapes[0]) != 2 else shapes[1:]
    return 2.0 * shapes[0][0] * shapes[0][1] * shapes[1][1] if len(shapes) >= 2 else 0.0


def _rates(users: int, hidden: int, items: int, precision: str) -> dict[str, float]:
    """Bytes a second of an update in place, operations a second of the decoder's product."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    values, query, weight = torch.randn(1 << 25), torch.randn(users, hidden).to(dtype), torch.randn(items, hidden)
    weight, product = weight.to(dtype), torch.empty(users, items, dtype=dtype)
    return {
        "memory": 2 * values.nbytes / _seconds(lambda: values.mul_(0.5)),
        "product": 2 * users * hidden * items / _seconds(lambda: torch.mm(query, weight.T, out=product)),
    }


def _seconds(step: Any) -> float:
    times = []
    for _ in range(9):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return _median(times)


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def main() -> None:
    """Measures and writes ``results/epoch-RECIPE.json``: a row for each precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--recipe", default="dmrec-m")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    chosen = parser.parse_args()
    rows = [
        measure(chosen.data, chosen.recipe, precision, chosen.epochs, chosen.device)
        for precision in ("float32", "bf16")
    ]
    suffix = "" if chosen.device == "cpu" else f"-{chosen.device}"
    (RESULTS / f"epoch-{chosen.recipe}{suffix}.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
