"""The operators and a training step on a GPU, with their peers and the device's floors, in one process.

``python -m benchmarks --device cuda`` writes ``results/ops-cuda.json``. Contenders of a workload take turns in five
passes; ratios are formed inside a pass. Every figure has a floor: the seconds that its bytes take at the rate of a
copy, or its products at the rate of a product, both measured in the same run. A contender that fails is a row with its
error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import dmrec_ext
from dmrec_ext import Csr, csr_aggregate, csr_dot, multinomial_nll, rank_topk

from . import peers
from .events import Step, cache_bytes, clock_of, copies_of, extra_bytes, floors, notes, race
from .ratios import summarise
from .sizes import ALIGNMENT, QUANTIZING, RANKING, ROWS, SAMPLED, SOFTMAX, SPARSE

RESULT = Path(__file__).parent / "results/ops-cuda.json"
MATCHING = {"godm": 0.4, "cpdm": 0.2, "mddm": 0.5}


class Workload(NamedTuple):
    """One group of contenders."""

    group: str
    make: Callable[[], Any]  # a copy of the inputs
    contenders: dict[str, Callable[[Any], Any]]  # by name, of such a copy
    n_bytes: float = 0.0  # that must move at least
    flops: float = 0.0  # of products
    precision: str = "float32"


def rows(device: torch.device, sizes: dict[str, tuple[int, int]] = ROWS) -> Iterator[Workload]:
    """Row losses, forward and backward: 12 passes over a (B, D) tensor at least."""
    for name, size in sizes.items():

        def make(size: tuple[int, int] = size) -> tuple[list[Tensor], Tensor]:
            return [torch.randn(size, device=device, requires_grad=True) for _ in range(4)], torch.rand(
                size[0], device=device
            )

        losses: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
            "gaussian_kl": (dmrec_ext.gaussian_kl, peers.gaussian_kl),
            "gaussian_w2": (dmrec_ext.gaussian_w2, peers.gaussian_w2),
            "composite_prior": (dmrec_ext.composite_prior, peers.composite_prior),
        }
        for strategy, beta in MATCHING.items():
            losses[f"matching_loss {strategy}"] = (
                lambda *x, s=strategy, b=beta: dmrec_ext.matching_loss(*x, strategy=s, beta=b, eps=1e-7),
                lambda *x, s=strategy, b=beta: peers.MATCHING[s](*x, beta=b),
            )
        for loss, (ours, eager) in losses.items():
            contenders = {"ours": ours, "eager": eager, "compile": torch.compile(eager)}
            yield Workload(
                f"{loss} forward+backward, {name}",
                make,
                {key: _with_gradients(function) for key, function in contenders.items()},
                12 * 4 * size[0] * size[1],
            )


def reduced(device: torch.device, sizes: dict[str, tuple[int, int]] = ROWS) -> Iterator[Workload]:
    """Means of row losses, forward and backward: 8 passes over a (B, D) tensor at least."""
    for name, size in sizes.items():

        def make(size: tuple[int, int] = size) -> list[Tensor]:
            return [torch.randn(size, device=device, requires_grad=True) for _ in range(4)]

        for strategy, beta in MATCHING.items():

            def ours(*x: Tensor, s: str = strategy, b: float = beta) -> Tensor:
                return dmrec_ext.matching_loss(*x, strategy=s, beta=b, eps=1e-7, reduction="mean")

            def eager(*x: Tensor, s: str = strategy, b: float = beta) -> Tensor:
                return peers.MATCHING[s](*x, beta=b).mean()

            contenders = {"ours": ours, "eager": eager, "compile": torch.compile(eager)}
            yield Workload(
                f"matching_loss {strategy}, mean, forward+backward, {name}",
                make,
                {key: _of_mean(function) for key, function in contenders.items()},
                8 * 4 * size[0] * size[1],
            )


def _of_mean(function: Callable[..., Tensor]) -> Callable[[Any], Any]:
    return lambda inputs: torch.autograd.grad(function(*inputs), inputs)


def _with_gradients(function: Callable[..., Tensor]) -> Callable[[Any], Any]:
    return lambda inputs: torch.autograd.grad(function(*inputs[0]), inputs[0], inputs[1])


def sparse(device: torch.device, sizes: dict[str, tuple[int, int, int, int]] = SPARSE) -> Iterator[Workload]:
    """Sparse sums: the gathered rows are read."""
    for name, (users, each, width, items) in sizes.items():

        def make(users: int = users, each: int = each, width: int = width, items: int = items) -> tuple[Csr, Tensor]:
            step = items // each
            col = torch.randint(step, (users, each), device=device) + step * torch.arange(each, device=device)
            crow = each * torch.arange(users + 1, device=device)
            return Csr(crow, col.flatten(), torch.rand(users * each, device=device), items), torch.randn(
                items, width, device=device
            )

        def bag(inputs: tuple[Csr, Tensor]) -> Tensor:
            x, dense = inputs
            return torch.nn.functional.embedding_bag(
                x.col, dense, x.crow, mode="sum", include_last_offset=True, per_sample_weights=x.values
            )

        def product(inputs: tuple[Csr, Tensor]) -> Tensor:
            x, dense = inputs
            return torch.sparse_csr_tensor(x.crow, x.col, x.values, (x.n_rows, x.n_cols)) @ dense

        contenders = {"ours": lambda inputs: csr_aggregate(*inputs), "embedding_bag": bag, "torch CSR": product}
        yield Workload(f"csr_aggregate forward, {name}", make, contenders, 4 * users * (each + 1) * width)


def sampled(device: torch.device, sizes: dict[str, tuple[int, int, int, int]] = SAMPLED) -> Iterator[Workload]:
    """Products of a user with items at random: the rows of the items are read."""
    for name, (users, each, width, items) in sizes.items():

        def make(users: int = users, each: int = each, width: int = width, items: int = items) -> tuple[Csr, Any, Any]:
            col = torch.randint(items, (users * each,), device=device)
            x = Csr(each * torch.arange(users + 1, device=device), col, None, items)
            return x, torch.randn(users, width, device=device), torch.randn(items, width, device=device)

        def einsum(inputs: tuple[Csr, Tensor, Tensor]) -> Tensor:
            x, query, dense = inputs
            return torch.einsum("be,bke->bk", query, dense[x.col].view(len(query), -1, query.shape[1])).flatten()

        contenders = {"ours": lambda inputs: csr_dot(*inputs), "einsum": einsum}
        yield Workload(f"csr_dot forward, {name}", make, contenders, 4 * users * (each + 1) * width)


def ranking(device: torch.device, sizes: dict[str, tuple[int, int, int]] = RANKING, k: int = 20) -> Iterator[Workload]:
    """Exact top k of a full ranking: one product at least."""
    for name, (users, items, width) in sizes.items():

        def make(users: int = users, items: int = items, width: int = width) -> tuple[Tensor, Tensor]:
            return torch.randn(users, width, device=device), torch.randn(items, width, device=device)

        contenders = {
            "ours": lambda qw: rank_topk(*qw, k),
            "ours, bf16": lambda qw: rank_topk(*qw, k, precision="bf16"),
            "product": lambda qw: qw[0] @ qw[1].T,
            "product + topk": lambda qw: (qw[0] @ qw[1].T).topk(k),
        }
        yield Workload(f"rank_topk, {name}", make, contenders, flops=2 * users * items * width)


def softmax(device: torch.device, sizes: dict[str, tuple[int, int, int, int]] = SOFTMAX) -> Iterator[Workload]:
    """Softmax loss over all items, forward and backward: three products at least."""
    for name, (users, items, width, each) in sizes.items():

        def make(users: int = users, items: int = items, width: int = width, each: int = each) -> Any:
            step = items // each
            col = torch.randint(step, (users, each), device=device) + step * torch.arange(each, device=device)
            x = Csr(each * torch.arange(users + 1, device=device), col.flatten(), None, items)
            weight = (0.05 * torch.randn(items, width, device=device)).requires_grad_()
            leaves = torch.randn(users, width, device=device, requires_grad=True), weight
            return (*leaves, torch.zeros(items, device=device, requires_grad=True)), x

        def ours(inputs: Any) -> Any:
            (hidden, weight, bias), x = inputs
            return torch.autograd.grad(multinomial_nll(hidden, weight, x, bias), inputs[0])

        def ours_bf16(inputs: Any) -> Any:
            (hidden, weight, bias), x = inputs
            with torch.autocast(device.type, torch.bfloat16):
                loss = multinomial_nll(hidden, weight, x, bias)
            return torch.autograd.grad(loss, inputs[0])

        def dense(inputs: Any) -> Any:
            (hidden, weight, bias), x = inputs
            logits = torch.nn.functional.linear(hidden, weight, bias)
            row = x.row_of_entry()
            normaliser = (x.crow.diff() * torch.logsumexp(logits, 1)).sum()
            loss = (normaliser - logits[row, x.col].sum()) / len(hidden)
            return torch.autograd.grad(loss, inputs[0])

        contenders = {"ours": ours, "ours, bf16": ours_bf16, "dense": dense}
        yield Workload(
            f"multinomial_nll forward+backward, {name}", make, contenders, flops=3 * 2 * users * items * width
        )


def codes(device: torch.device) -> Iterator[Workload]:
    """Quantization and alignment, forward and backward: what is read and written at least."""
    quantize, align = torch.compile(peers.residual_quantize), torch.compile(peers.code_alignment)
    for name, (rows, width, levels, n_codes) in QUANTIZING.items():

        def inputs(size: tuple[int, ...] = (rows, width), books: tuple[int, ...] = (levels, n_codes, width)) -> Any:
            return [torch.randn(shape, device=device, requires_grad=True) for shape in (size, books)]

        contenders = {
            "ours": lambda of: dmrec_ext.residual_quantize(*of)[1:],
            "eager": lambda of: peers.residual_quantize(*of),
            "compile": lambda of: quantize(*of),
        }
        yield Workload(
            f"residual_quantize forward+backward, {name}",
            inputs,
            {key: _of_sum(function) for key, function in contenders.items()},
            4 * rows * (4 * width + 4 * levels),
        )
    for name, size in ALIGNMENT.items():

        def logits(size: tuple[int, ...] = size) -> Any:
            return [torch.randn(size, device=device, requires_grad=True) for _ in range(2)]

        contenders = {
            "ours": lambda of: [dmrec_ext.code_alignment(*of)],
            "eager": lambda of: [peers.code_alignment(*of)],
            "compile": lambda of: [align(*of)],
        }
        yield Workload(
            f"code_alignment forward+backward, {name}",
            logits,
            {key: _of_sum(function) for key, function in contenders.items()},
            24 * size[0] * size[1] * size[2],
        )


def _of_sum(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda inputs: torch.autograd.grad(sum(each.sum() for each in function(inputs)), inputs)


def training_step(device: torch.device) -> Iterator[Workload]:
    """A step of DMRec-M, forward, backward and optimiser, and of the same model over dense interactions."""
    from .dmrec.bench_step import made

    def of(kind: str, bf16: bool) -> Callable[[Any], Any]:
        model, optimiser, loss_of = made(kind, str(device))
        model.train()

        def step(_: Any) -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss = loss_of()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()

        return step

    contenders = {
        "ours": of("ours", False),
        "ours, bf16": of("ours", True),
        "dense": of("dense", False),
        "dense, bf16": of("dense", True),
    }
    yield Workload("training step of DMRec-M, 1,024 users, 11,010 items, vectors 1536 wide", lambda: None, contenders)


def measure(
    device: torch.device, workloads: Iterator[Workload], rates: dict[str, float], passes: int = 5
) -> list[dict[str, Any]]:
    """A row for each group and contender, with the floor of the group."""
    clock, found = clock_of(device), []
    for work in workloads:
        copies = copies_of(_size(work.make()), cache_bytes(device))
        inputs = [work.make() for _ in range(copies)]
        steps: dict[str, Step] = {}
        for name, function in work.contenders.items():
            step: Step = partial(_with_copy, function, inputs)
            try:
                step(0)
                clock.wait()
                steps[name] = step
            except Exception as error:
                found.append(
                    {"group": work.group, "contender": name, "error": f"{type(error).__name__}: {error}"[:300]}
                )
        if "ours" not in steps:
            continue
        times = race(steps, copies, clock, passes)
        memory = {(work.group, name): extra_bytes(step, device) or 0 for name, step in steps.items()}
        floor = 1e-9 * work.n_bytes / rates["copy, GB/s"] + 1e-12 * work.flops / rates["float32 product, TFLOP/s"]
        for row in summarise({work.group: times}, memory):
            found.append({**row, "floor_ms": round(1e3 * floor, 4) or None, "copies": copies})
            print(json.dumps(found[-1]), flush=True)
    return found


def _with_copy(function: Callable[[Any], Any], inputs: list[Any], number: int) -> Any:
    return function(inputs[number])


def _size(value: Any) -> int:
    """Bytes of all tensors in nested lists and tuples."""
    if isinstance(value, Tensor):
        return value.nbytes
    return sum(map(_size, value)) if isinstance(value, list | tuple) else 0


def main(result: Path = RESULT) -> int:
    """Measures everything on the first GPU; exit status 2 without one."""
    if not torch.cuda.is_available():
        why = "finds no GPU" if torch.version.cuda else "is a build without CUDA"
        print(f"python -m benchmarks --device cuda needs a GPU: torch {torch.__version__} {why}")
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    torch.manual_seed(0)
    about = {
        "gpu": torch.cuda.get_device_name(device),
        "capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "operators": {op: dmrec_ext.native_path(op, "cuda").detail for op in dmrec_ext.OPERATORS},
        "before": notes(),
    }
    rates = floors(device, clock_of(device))
    found = []
    for workloads in (rows, reduced, sparse, sampled, ranking, softmax, codes, training_step):
        found += measure(device, workloads(device), rates)
        about |= {"floors": rates, "after": notes()}
        result.write_text(json.dumps({"machine": about, "rows": found}, indent=1) + "\n")
    print(f"{result}: {sum('error' in row for row in found)} contenders failed")
    return 0
