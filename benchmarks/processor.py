"""What the processor is called: results are kept by it, since what is fast on one may be slow on another."""

from __future__ import annotations

import re
from typing import Any

from cpuinfo import get_cpu_info


def processor() -> str:
    """The name with family and model, as virtual machines name very different ones alike."""
    found = get_cpu_info()
    kind = f"family {found.get('family', '?')}, model {found.get('model', '?')}"
    return f"{_name(found)} ({kind})"


def slug() -> str:
    """As part of a file's name, such as ``intel-xeon-6-207``."""
    found = get_cpu_info()
    return "-".join([*_name(found).lower().split(), str(found.get("family", "")), str(found.get("model", ""))])


def _name(found: dict[str, Any]) -> str:
    """Vendor and series, without marks, clock and number of cores."""
    noise = r"\((R|TM)\)|\bprocessor\b|\bCPU\b|@.*|\d+-core"
    return " ".join(re.sub(noise, "", found.get("brand_raw", "unknown"), flags=re.I).split())
