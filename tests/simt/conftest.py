"""The CUDA half built for the emulator, once per session."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dmrec_ext

sys.path.insert(0, str(Path(__file__).parent))  # emulated

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def simt_folder():
    """The folder of the built libraries."""
    if dmrec_ext.NATIVE_ABSENT:
        pytest.skip(f"no native library: {dmrec_ext.NATIVE_ABSENT}")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    if shutil.which("cmake", path=path) is None or shutil.which("g++", path=path) is None:
        pytest.skip("cmake or g++ is missing")
    build = ROOT / "build" / "simt"
    configure = ["cmake", "-S", str(ROOT), "-B", str(build), "-DDMREC_SIMT_TEST=ON", "-DDMREC_WERROR=ON"]
    configure += ["-DDMREC_CLONES=OFF", f"-DDMREC_TORCH_ROOT={torch.__path__[0]}"]
    if shutil.which("ninja", path=path):
        configure += ["-G", "Ninja"]
    for command in (configure, ["cmake", "--build", str(build), "--target", "simt"]):
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
        assert done.returncode == 0, done.stdout + done.stderr
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
