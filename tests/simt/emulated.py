"""The CUDA half under the emulator: built on first use, and put in the place of the CPU's kernels for a while."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

ORDERS = ("ascending", "descending", "random")


class Emulated:
    """The operators of the CUDA half on CPU tensors, their kernels executed thread by thread.

    ``checked``: every access to memory is examined, and a finding is a RuntimeError.
    """

    def __init__(self, library: Path):
        torch.ops.load_library(library)
        self._control = ctypes.CDLL(str(library))
        self.checked = bool(self._control.simt_is_checked())
        self.operators = getattr(torch.ops, f"dmrec_{library.stem}")
        self.names = [
            name.removeprefix(f"dmrec_{library.stem}::").removesuffix(".default")
            for name in torch._C._dispatch_get_registrations_for_dispatch_key("CPU")
            if name.startswith(f"dmrec_{library.stem}::")
        ]

    @contextmanager
    def running(self, order: str = "ascending", seed: int = 1, traffic: bool = False) -> Iterator[None]:
        """Inside, ``torch.ops.dmrec_ext`` runs emulated on CPU tensors, and so does all that is built on it."""
        self._control.simt_configure(ORDERS.index(order), ctypes.c_ulong(seed), int(traffic))
        library = torch.library.Library("dmrec_ext", "IMPL")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in self.names:
                library.impl(name, getattr(self.operators, name).default, "CPU", allow_override=True)
        try:
            yield
        finally:
            library._destroy()

    def traffic(self) -> dict[str, dict[str, int]]:
        """Sectors and bank cycles by kernel since the last `running`, and the least possible."""
        buffer = ctypes.create_string_buffer(1 << 16)
        self._control.simt_traffic(buffer, len(buffer))
        fields = ("requests", "sectors", "ideal_sectors", "shared_cycles", "ideal_shared_cycles")
        lines = [line.rsplit(" ", len(fields)) for line in buffer.value.decode().splitlines()]
        return {name: dict(zip(fields, map(int, counts), strict=True)) for name, *counts in lines}
