"""``dmrec doctor``: what is installed, and which path every operator runs on."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from typing import Annotated, Any

import torch
import typer

import dmrec_ext

from .console import output, print_table

PACKAGES = ("dmrec", "torch", "numpy", "scipy", "safetensors", "pydantic", "pyarrow", "matplotlib")


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    speed: Annotated[
        bool, typer.Option("--speed", help="Also measure matrix products here, in float32 and in bfloat16.")
    ] = False,
) -> None:
    """Show what is installed, whether each operator runs natively, and if not, why.

    Examples:

    - `dmrec doctor`
    - `dmrec doctor --speed`
    - `dmrec doctor --json`
    """
    found = examine()
    if speed:
        found["speed"] = {device: measure(device) for device in ("cpu", *(["cuda"] if found["gpu"] else []))}
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    print_table("versions", ["package", "version"], list(found["versions"].items()), numbers_from=9)
    rows = [
        [op, *(f"{paths[device]['path']}: {paths[device]['why']}" for device in ("cpu", "cuda"))]
        for op, paths in found["operators"].items()
    ]
    print_table("operators", ["operator", "CPU", "CUDA"], rows, numbers_from=9)
    output.print(f"threads: {found['threads']} of {found['processors']} processors; GPU: {found['gpu'] or 'none'}")

    for device, of_device in found.get("speed", {}).items():
        rates = ", ".join(f"{of_device[name]:.0f} in {name}" for name in ("float32", "bf16"))
        output.print(f"matrix products on {device}, GFLOP/s: {rates}")
        output.print(f"rankings filter candidates, and --precision auto trains, in {of_device['faster']}")


def measure(device: str) -> dict[str, Any]:
    """GFLOP/s of products in either precision, and which one is used where that is left open."""
    speeds = dmrec_ext.product_speeds(device)
    return {**speeds._asdict(), "faster": dmrec_ext.fastest_precision(device), "threads": torch.get_num_threads()}


def examine() -> dict[str, Any]:
    """The facts, as printed by ``--json``."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    operators = {}
    for op in dmrec_ext.OPERATORS:
        paths = {device: dmrec_ext.native_path(op, device) for device in ("cpu", "cuda")}
        operators[op] = {
            device: {"path": "native" if path.native else "reference", "why": path.detail}
            for device, path in paths.items()
        }
    return {
        "versions": versions,
        "native_library": dmrec_ext.NATIVE_ABSENT or "loaded",
        "operators": operators,
        "threads": torch.get_num_threads(),
        "processors": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
