"""Where the tests marked ``cuda`` run: on the first GPU, and nowhere else.

Torch's default device is the GPU while such a test runs, so the CPU's tests, imported here, make their tensors there.
``DMREC_TEST_DEVICE=cpu`` runs them on the CPU instead, with tensors that count as a GPU's (`pretended.py`): it shows
that the tests themselves are right. Those that ask for `gpu` need a real one.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import dmrec_ext

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "simt")]  # pretended, calls, emulated

from pretended import PRETENDED, PretendedDevice  # noqa: E402

DEVICE = os.environ.get("DMREC_TEST_DEVICE", "cuda")
ABSENT = "no CUDA device is available"
TRACED = ("compile", "registration", "transforms")  # by torch, which does not trace modes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a GPU are skipped where there is none, those of the CPU alone everywhere here."""
    absent = DEVICE == "cuda" and not torch.cuda.is_available()
    for item in items:
        if item.get_closest_marker("cuda") is None:
            continue
        if absent:
            item.add_marker(pytest.mark.skip(reason=ABSENT))
        elif of_cpu := item.get_closest_marker("cpu_only"):
            item.add_marker(pytest.mark.skip(reason=f"of the CPU alone: {of_cpu.args[0]}"))
        elif DEVICE != "cuda" and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="tests/ops runs it on the CPU"))
        elif DEVICE != "cuda" and "gpu" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason="a real GPU is needed"))


@pytest.fixture(autouse=True)
def on_the_device(request):
    """Torch's default device is the one under test."""
    if request.node.get_closest_marker("cuda") is None:
        yield
        return
    if DEVICE == "cuda":
        for stem in dmrec_ext.OPERATORS:
            path = dmrec_ext.native_path(stem, "cuda")
            assert path.native, f"{stem} has no kernel for this GPU: {path.detail}"
    traced = any(word in request.node.name for word in TRACED)
    mode = nullcontext() if DEVICE == "cuda" or traced else PretendedDevice()
    before = torch.get_default_device()
    torch.set_default_device("cuda:0" if DEVICE == "cuda" else PRETENDED)
    try:
        with mode:
            yield
        if DEVICE == "cuda":
            torch.cuda.synchronize()  # an error that comes late belongs to this test
    finally:
        torch.set_default_device(before)


@pytest.fixture
def device() -> torch.device:
    """The device under test."""
    return torch.empty(0).device


@pytest.fixture
def gpu() -> torch.device:
    """A real GPU."""
    return torch.device("cuda", torch.cuda.current_device())
