"""How much memory an engine may use."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from ...errors import DmrecError
from ...memory import available_memory

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def bytes_of(text: str) -> int:
    """The bytes that a size such as ``64GB``, ``500MB`` or ``1GiB`` means.

    >>> bytes_of("1.5GB")
    1500000000
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?\s*", text.upper())
    if not found:
        raise DmrecError(f"--memory {text}: must be a size such as 64GB or 500MB")
    return int(float(found[1]) * UNITS[found[2] or ""])


def memory_of_engine(memory: int | None) -> int:
    """What is left of ``memory`` bytes for an engine next to this process, at least half; of half of what is free where
    None.
    """
    memory, own = memory or available_memory() // 2, 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        own = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return max(memory - own, memory // 2)
