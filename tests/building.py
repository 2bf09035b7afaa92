"""What tests build with CMake, in ``build/``: once, also where several processes share the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock

ROOT = Path(__file__).parents[1]


def built(target: str, folder: str, *options: str) -> Path:
    """The build tree ``build/FOLDER`` with ``target`` up to date; skips the test where there are no tools for it."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    if shutil.which("cmake", path=path) is None or shutil.which("c++", path=path) is None:
        pytest.skip("cmake or a C++ compiler is missing")
    build = ROOT / "build" / folder
    build.mkdir(parents=True, exist_ok=True)
    configure = ["cmake", "-S", str(ROOT), "-B", str(build), "-DDMREC_WERROR=ON", *options]
    configure.append(f"-DDMREC_TORCH_ROOT={torch.__path__[0]}")
    environment = {**os.environ, "PATH": path}
    if shutil.which("ninja", path=path):
        environment["CMAKE_GENERATOR"] = "Ninja"  # unlike -G it yields to what the tree was made with
    with FileLock(build / ".lock"):
        for command in (configure, ["cmake", "--build", str(build), "--target", target]):
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            assert done.returncode == 0, done.stdout + done.stderr
    return build
