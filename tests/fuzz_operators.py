"""10,000 calls of the raw native operators with arguments that mostly fit and sometimes do not: `make fuzz`.

Runs against a library built with AddressSanitizer and UndefinedBehaviorSanitizer, whose path is the argument. A call
may succeed or raise; anything the sanitizers find ends the process.
"""

from __future__ import annotations

import random
import sys
from itertools import pairwise

import torch
from torch import Tensor

CALLS = 10_000
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
SHAPES = [(3, 5), (7, 16), (4, 17), (2, 40), (0, 5), (3, 0), (1, 1), (5, 33)]
ODD_SHAPES = [(5,), (), (3, 5, 2), (1, 5), (6, 5)]


def argument(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    """A tensor of this shape and dtype, now and then of another, another layout or device, or none at all."""
    if random.random() < 0.01:
        return None
    if random.random() < 0.03:
        shape = random.choice(ODD_SHAPES)
    if random.random() < 0.03:
        dtype = random.choice([*FLOATS, torch.int64, torch.bool, torch.complex64])
    tensor = torch.randn(shape).mul(random.choice([1.0, 1.0, 100.0])).to(dtype)
    if tensor.dim() != 2:
        return tensor
    changes = [
        lambda t: t.t(),
        lambda t: torch.cat([t, t], 1)[:, ::2],
        lambda t: torch.cat([t, t, t], 1)[:, 1 : 1 + t.shape[1]],
        lambda t: t[:1].expand_as(t),
        lambda t: t[:, :1].expand_as(t),
        lambda t: t.to("meta"),
        lambda t: t.to_sparse(),
    ]
    return random.choice(changes)(tensor) if random.random() < 0.15 else tensor


def sparse(n_rows: int, n_cols: int) -> tuple[Tensor, Tensor]:
    """Offsets and columns of a CSR matrix, now and then damaged."""
    counts = torch.randint(0, 4, (n_rows,))
    crow = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    col = torch.randint(0, max(n_cols, 1), (int(crow[-1]),))
    for tensor in (crow, col):
        if len(tensor) > 0 and random.random() < 0.1:
            far = [-1, -(2**63), 2**63 - 1, n_cols, len(col) + 1, 1 << 40]
            tensor[random.randrange(len(tensor))] = random.choice(far)
    changes = [
        lambda t: t[:-1],
        lambda t: t.int(),
        lambda t: t.repeat(2)[::2],
        lambda t: t[None],
        lambda t: t.to("meta"),
    ]
    return tuple(random.choice(changes)(t) if random.random() < 0.05 else t for t in (crow, col))  # type: ignore[return-value]


def call_sparse() -> None:
    """One operator of csr_aggregate's column."""
    ops = torch.ops.dmrec_ext
    n_rows, n_cols, width = random.choice([0, 1, 5, 40]), random.choice([0, 1, 7, 300]), random.choice([0, 1, 17, 300])
    dtype = random.choice(FLOATS)
    (crow, col), (t_crow, t_col) = sparse(n_rows, n_cols), sparse(n_cols, n_rows)
    dense, rows = argument((n_cols, width), dtype), argument((n_rows, width), dtype)
    result = random.choice([None, None, dtype, torch.float32, random.choice(FLOATS)])
    if result == torch.float32 and random.random() < 0.9:
        rows = argument((n_rows, width), result)
    values = argument(tuple(col.shape), random.choice([dtype, result or dtype])) if random.random() < 0.7 else None
    bias = random.choice([None, rows, argument((width,), result or dtype)])
    random.choice(
        [
            lambda: ops.csr_aggregate(crow, col, values, dense, bias, dtype=result),
            lambda: ops.csr_aggregate(crow, col, values, dense, bias, t_crow, t_col, values, result),
            lambda: ops._csr_dot(crow, col, rows, dense),
            lambda: ops._csr_transpose(crow, col, random.choice([n_cols, n_cols, -1])),
            lambda: ops._csr_is_valid(crow, col, random.choice([n_cols, -1, -(2**63)])),
        ]
    )()


def call_large() -> None:
    """An operator over all items."""
    ops = torch.ops.dmrec_ext
    users, items, width = random.choice([0, 1, 5, 40]), random.choice([0, 1, 70, 1500]), random.choice([0, 1, 17])
    dtype = random.choice(FLOATS)
    crow, col = sparse(users, items)
    col = sparse_order(crow, col)
    query, weight, bias = argument((users, width), dtype), argument((items, width), dtype), argument((items,), dtype)
    values = argument(tuple(col.shape), random.choice([dtype, torch.float32]))
    if weight is not None and weight.numel() and random.random() < 0.2:
        weight = weight.clone()
        weight.view(-1)[random.randrange(weight.numel())] = random.choice([float("nan"), float("inf"), 1e30])
    bias, bf16 = random.choice([None, bias]), random.random() < 0.3
    grad, log_sums = argument((2, users), torch.float64), argument((2, users), torch.float32)
    least = random.choice([None, argument((users,), torch.float64)])
    logits = argument(random.choice([(users, items), (0, 0)]), torch.float32)
    needed = random.choice([0, 1, 3, 7, -1])
    back = ops._multinomial_terms_backward
    random.choice(
        [
            lambda: ops.rank_topk(
                query, weight, random.choice([1, 7, 2000, 0, -5]), bias, crow, col, bf16, at_least=least
            ),
            lambda: ops.rank_topk(query, weight, 3, bias, None, None, bf16, at_least=least),
            lambda: ops.rank_topk(query, weight, 3, bias, None, None, bf16, *prepared(weight, bias, bf16)),
            lambda: ops.multinomial_terms(query, weight, crow, col, values, bias, bf16, random.random() < 0.5),
            lambda: back(grad, query, weight, crow, col, values, bias, bf16, log_sums, logits, needed),
        ]
    )()


def call_codes() -> None:
    """An operator over codebooks."""
    ops = torch.ops.dmrec_ext
    rows, levels, codes, width = (random.choice(sizes) for sizes in ([0, 1, 9], [0, 1, 3], [0, 1, 70], [0, 1, 17]))
    dtype = random.choice(FLOATS)
    x, number = argument((rows, width), dtype), random.choice([0.25, 0.0, -1.0, float("nan")])
    books = torch.randn(random.choice([(levels, codes, width), (levels, codes, width + 1), (codes, width)])).to(dtype)
    kind = random.choice(["first", "all", "full", "no such"])
    high = [max(codes, 1), rows + 1, max(rows, 1)]
    shapes = [(rows, levels), (levels, codes + 1), (levels, rows)]
    found, begin, of_code = (torch.randint(n, size).sort(1).values for n, size in zip(high, shapes, strict=True))
    if begin.numel():
        begin[:, 0], begin[:, -1] = 0, rows
    for tensor in (found, begin, of_code):
        if tensor.numel() and random.random() < 0.1:
            tensor.view(-1)[random.randrange(tensor.numel())] = random.choice([-1, 2**62, -(2**63)])
    grads = [random.choice([None, argument((rows, width), dtype)]), random.choice([None, argument((rows,), dtype)])]
    logits = [torch.randn(rows, levels, codes).mul(random.choice([1.0, 1e4])).to(dtype) for _ in range(2)]
    if random.random() < 0.1:
        logits[0] = random.choice([logits[0][:1], logits[0].double(), logits[0].flatten(1), logits[0].to("meta")])
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    options = (
        random.choice(["forward", "reverse", "symmetric", "no such"]),
        random.choice(["batch_mean", "leave_one_out", "no such"]),
        random.random() < 0.5,
        random.choice([None, torch.ones(levels, dtype=arithmetic), torch.ones(levels + 1)]),
        random.choice([1.0, 2.0, 0.0]),
    )
    sums, columns = torch.randn(4, rows, levels, dtype=arithmetic), torch.randn(4, levels, codes, dtype=arithmetic)
    kept = torch.rand(random.choice([0, 2]), rows, levels, codes, dtype=arithmetic)
    saved = [sums, columns, torch.randn(rows, dtype=arithmetic), kept]
    if random.random() < 0.2:
        saved[random.randrange(4)] = random.choice([torch.empty(0), torch.randn(4, 2, 2), torch.randn(rows).half()])
    needed = random.choice([0, 1, 2, 3, -1])
    of_rows = argument((rows,), arithmetic)
    random.choice(
        [
            lambda: ops.residual_quantize(x, books, number, kind),
            lambda: ops._residual_quantize_backward(*grads, x, books, found, begin, of_code, number, kind, needed),
            lambda: ops.code_alignment(*logits, *options, random.random() < 0.5),
            lambda: ops._code_alignment_backward(of_rows, *logits, *saved, *options, needed),
        ]
    )()


def prepared(items: Tensor | None, bias: Tensor | None, bf16: bool) -> list[Tensor]:
    """What belongs to the items, or to others."""
    parts = list(torch.ops.dmrec_ext._prepare_items(items, bias, bf16 ^ (random.random() < 0.1)))
    if random.random() < 0.2:
        which = random.randrange(len(parts))
        parts[which] = random.choice([parts[which][:1], parts[which].float(), parts[which].T, torch.empty(0)])
    return parts


def sparse_order(crow: Tensor, col: Tensor) -> Tensor:
    """Mostly the columns with each row sorted and without repetitions, so that calls go through."""
    if crow.dtype != torch.int64 or crow.dim() != 1 or col.dim() != 1 or random.random() < 0.1:
        return col
    bounds = [b for b in crow.tolist() if 0 <= b <= len(col)]
    for begin, end in pairwise(bounds):
        if end > begin:
            col[begin:end] = col[begin] // 4 + torch.arange(end - begin)
    return col


def call() -> None:
    """One operator, forward or backward."""
    if random.random() < 0.5:
        return random.choice([call_sparse, call_large, call_codes])()
    ops = torch.ops.dmrec_ext
    shape, dtype = random.choice(SHAPES), random.choice(FLOATS)
    rows = [argument(shape, dtype) for _ in range(4)]
    grad = argument(shape[:1], dtype)
    saved = argument(shape[:1], torch.float64 if dtype == torch.float64 else torch.float32)
    needed = random.choice([0, 1, 5, 10, 15, -1, 1 << 40])
    number = random.choice([0.0, 0.5, 1.0, -1.0, float("nan"), float("inf")])
    strategy = random.choice(["godm", "cpdm", "mddm", "kl", "no such"])
    interpolation = random.choice(["log_linear", "linear", "moment", "no such"])
    fusion = random.choice(["add", "collaborative", "no such"])
    options = (strategy, number, 0.5, interpolation, random.random() < 0.5, 0.0, fusion)
    return random.choice(
        [
            lambda: ops.gaussian_kl(*rows[: random.choice([2, 3, 4])]),
            lambda: ops._gaussian_kl_backward(grad, *rows, needed),
            lambda: ops.gaussian_w2(*rows, random.random() < 0.5, number),
            lambda: ops._gaussian_w2_backward(grad, saved, *rows, random.random() < 0.5, number, needed),
            lambda: ops.composite_prior(*rows, number, interpolation),
            lambda: ops._composite_prior_backward(grad, *rows, number, interpolation, needed),
            lambda: ops.matching_loss(*rows, *options),
            lambda: ops._matching_loss_backward(grad, saved, *rows, *options, needed),
            lambda: ops._gaussian_kl_reduced(*rows[:2], None, None, number, needed),
            lambda: ops._gaussian_kl_reduced(*rows, number, needed),
            lambda: ops._gaussian_w2_reduced(*rows, random.random() < 0.5, number, 0.1, needed),
            lambda: ops._composite_prior_reduced(*rows, number, interpolation, 0.1, needed),
            lambda: ops._matching_loss_reduced(*rows, random.randrange(-1, 66), number, 0.5, 0.0, 0.1, needed),
            lambda: ops._multiply_unless_one_([row for row in rows if row is not None], argument((), dtype)),
        ]
    )()


def main(library: str) -> None:
    """Fuzzes the library and prints how many calls went through; fails if nearly none did."""
    torch.ops.load_library(library)
    random.seed(0)
    torch.manual_seed(0)
    done = 0
    for _ in range(CALLS):
        try:
            call()
            done += 1
        except (RuntimeError, TypeError):
            pass
    print(f"{CALLS} calls: {done} went through, {CALLS - done} were refused, 0 findings")
    if done < CALLS // 5:
        sys.exit("too few calls went through to mean anything")


if __name__ == "__main__":
    main(sys.argv[1])
