"""csrc/math by other compilers and for other processors, which run it, emulated where they are not this one."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("elementary.cpp")
CSRC = Path(__file__).parents[2] / "csrc"
FLAGS = ["-std=c++20", "-O3", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra", "-Werror"]
COMPILERS = {
    "g++": (["g++"], []),
    "g++, x86-64-v4": (["g++", "-march=x86-64-v4"], []),
    "clang++": (["clang++", "-Wno-pass-failed"], []),
    "g++ for aarch64": (["aarch64-linux-gnu-g++", "-static"], ["qemu-aarch64"]),
}


def _runs_v4():
    flags = Path("/proc/cpuinfo")
    return flags.exists() and "avx512vl" in flags.read_text()


@pytest.mark.parametrize("name", list(COMPILERS))
def test_errors_are_within_their_limits(name, tmp_path):
    compile_with, run_with = COMPILERS[name]
    for program in (compile_with[0], *run_with):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if "v4" in name and not _runs_v4():
        pytest.skip("this processor has no AVX-512")
    program = tmp_path / "elementary"
    subprocess.run([*compile_with, *FLAGS, "-I", CSRC, SOURCE, "-o", program], check=True)
    result = subprocess.run([*run_with, program], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(re.findall(r"^\w+ [48] bytes: \d+\.\d+ ulp$", result.stdout, re.MULTILINE)) == 10
