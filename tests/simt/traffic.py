"""Memory traffic of every CUDA kernel at usual, aligned shapes: ``python tests/simt/traffic.py [--update]``.

Prints a table, as counted by the emulator: what share of the 32-byte sectors that warps ask for their bytes would fill
at least, and what share of the cycles of shared memory is free of bank conflicts. ``--update`` writes ``traffic.json``,
behind which no kernel may fall. Caches are not counted: sectors of one request that the next one asks for again count
twice.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from dmrec_ext import Csr, code_alignment, csr_aggregate, matching_loss, multinomial_nll, rank_topk, residual_quantize

TABLE = Path(__file__).with_name("traffic.json")

WHY_BELOW_90 = {
    "transposed_offsets": "a bisection reads single offsets; once per transpose, out of caches",
    "transposed_rows": "a bisection reads single offsets; once per transpose, out of caches",
}
WHY_CONFLICTS = {
    "item_norms": "two numbers a team of 16 lanes, once at the end of a block",
    "select_tile": "the bitonic sort exchanges neighbours two places apart; few chunks are sorted",
    "finish_ranking": "the bitonic sort exchanges neighbours two places apart; once per user",
}


def run_all() -> None:
    """Each operator forward and backward."""
    generator = torch.Generator().manual_seed(0)

    def randn(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator).requires_grad_()

    def sparse(rows: int, cols: int, density: float) -> Csr:
        return Csr.from_torch((torch.rand(rows, cols, generator=generator) < density).float())

    matching_loss(*(randn(16, 400) for _ in range(4)), strategy="mddm", beta=0.5).sum().backward()
    loss = matching_loss(*(randn(16, 400) for _ in range(4)), strategy="mddm", beta=0.5, reduction="mean")
    (3 * loss).backward()
    x = sparse(16, 60, 0.3)
    values = torch.ones(x.nnz).requires_grad_()
    csr_aggregate(x._replace(values=values), randn(60, 384)).sum().backward()
    multinomial_nll(randn(64, 8), randn(4096, 8), sparse(64, 4096, 0.005), randn(4096)).backward()
    rank_topk(randn(4, 64), randn(4096, 64), 20, exclude=sparse(4, 4096, 0.01))
    _, quantized, distances = residual_quantize(randn(64, 32), randn(2, 64, 32))
    (quantized.sum() + distances.sum()).backward()
    code_alignment(randn(64, 2, 96), randn(64, 2, 96)).sum().backward()


def shares(traffic: dict[str, dict[str, int]]) -> dict[str, dict[str, float]]:
    """By kernel: ideal over counted, of sectors and of cycles."""
    result = {}
    for kernel, counts in sorted(traffic.items()):
        result[kernel] = {"sectors": round(counts["ideal_sectors"] / counts["sectors"], 3)}
        if counts["shared_cycles"]:
            result[kernel]["shared"] = round(counts["ideal_shared_cycles"] / counts["shared_cycles"], 3)
    return result


def main() -> None:
    """The table."""
    from emulated import Emulated

    checked = Emulated(Path(__file__).parents[2] / "build" / "simt" / "tests" / "simt" / "simt_checked.so")
    with checked.running(traffic=True):
        run_all()
        counted = shares(checked.traffic())
    print("| kernel | sectors | shared memory | why |\n| --- | ---: | ---: | --- |")
    for kernel, share in counted.items():
        why = "; ".join(reasons[kernel] for reasons in (WHY_BELOW_90, WHY_CONFLICTS) if kernel in reasons)
        shared = f"{share['shared']:.0%}" if "shared" in share else "-"
        print(f"| `{kernel}` | {share['sectors']:.0%} | {shared} | {why} |")
    if "--update" in sys.argv:
        TABLE.write_text(json.dumps(counted, indent=1) + "\n")


if __name__ == "__main__":
    main()
