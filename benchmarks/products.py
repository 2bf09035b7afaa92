"""What torch's matrix products reach on one thread of this processor: ``python -m benchmarks.products``.

At the shapes of a decoder of 4,344 items, 600 wide, for 1,024 users: float32 as torch multiplies it, by oneDNN in the
same torch (an operator of its compiler, not public), and bfloat16. To ``results/products.json``. Nothing else should
run meanwhile.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

RESULT = Path(__file__).parent / "results/products.json"
SHAPES = ((1024, 4344, 600), (512, 1024, 600), (1024, 600, 4344), (4344, 600, 1024))
PASSES = 15


def main() -> None:
    torch.set_num_threads(1)
    rows = [{"m, n, k": shape, "gflop_per_s": rates(*shape)} for shape in SHAPES]
    about = {"torch": torch.__version__, "instructions": torch.backends.cpu.get_cpu_capability()}
    RESULT.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    print(RESULT.read_text())


def rates(m: int, n: int, k: int) -> dict[str, int]:
    """Medians of passes in which all take turns."""
    a, b, out = torch.randn(m, k), torch.randn(n, k), torch.empty(m, n)
    half = [each.bfloat16() for each in (a, b, out)]
    contenders: dict[str, Callable[[], Tensor]] = {
        "float32": lambda: torch.mm(a, b.T, out=out),
        "float32, oneDNN": lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""),
        "bfloat16": lambda: torch.mm(half[0], half[1].T, out=half[2]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(PASSES + 1):
        for name, multiply in contenders.items():
            started = time.perf_counter()
            multiply()
            seconds[name].append(time.perf_counter() - started)
    return {name: round(2e-9 * m * n * k / statistics.median(each[1:])) for name, each in seconds.items()}


if __name__ == "__main__":
    main()
