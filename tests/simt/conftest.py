"""The CUDA half built for the emulator, once per session."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from building import built

import dmrec_ext

sys.path.insert(0, str(Path(__file__).parent))  # emulated


@pytest.fixture(scope="session")
def simt_folder():
    """The folder of the built libraries."""
    if dmrec_ext.NATIVE_ABSENT:
        pytest.skip(f"no native library: {dmrec_ext.NATIVE_ABSENT}")
    build = built("simt", "simt", "-DDMREC_SIMT_TEST=ON", "-DDMREC_CLONES=OFF")
    return build / "tests" / "simt"


@pytest.fixture(scope="session")
def fast(simt_folder):
    """Kernels as they are."""
    from emulated import Emulated

    return Emulated(simt_folder / "simt_fast.so")


@pytest.fixture(scope="session")
def checked(simt_folder):
    """Kernels whose accesses to memory are examined."""
    from emulated import Emulated

    return Emulated(simt_folder / "simt_checked.so")
