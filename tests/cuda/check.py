"""Static gates of the CUDA half: ``python tests/cuda/check.py [--update]``. Needs nvcc, no GPU.

Compiles ``_C_cuda`` for every target with warnings as errors, links it against the torch that is installed, and looks
at each kernel's machine code. Fails where a kernel has a stack frame or touches local memory, where one that should
move 16 bytes at a time does not, and where one uses more registers or fewer wide accesses than ``kernels.json`` says.
What is better, or new, goes there with ``--update``. Registers are compared for the nvcc of the table alone.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("kernels.json")
BUILD = ROOT / "build" / "cuda"
FIELDS = ["registers", "shared_bytes", "wide_loads", "wide_stores"]
LOAD_WIDE = {
    "row_forward",
    "row_backward",
    "row_both",
    "multiply_unless_one",
    "csr_sum",
    "csr_dot",
    "select_tile",
    "chunk_sums",
    "tile_gradient",
    "add_to",
}
STORE_WIDE = {"row_backward", "row_both", "multiply_unless_one", "csr_sum", "tile_gradient", "add_to"}
FROM_TORCH_CUDA = {"aoti_torch_get_current_cuda_stream"}  # not in a CPU build: found when the library is loaded

Kernels = dict[str, dict[str, list[int]]]  # by kernel and target


def main() -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="write what was found to the table")
    update = parser.parse_args().update
    if shutil.which("nvcc") is None:
        print("SKIPPED: nvcc is not found. The CUDA half was NOT compiled.")
        return 0
    library = build()
    compiler = run("nvcc", "--version").splitlines()[-1]
    faults = missing_symbols(library)
    kernels = examine(library, faults)
    if update:
        TABLE.write_text(to_json({"compiler": compiler, "fields": FIELDS, "kernels": kernels}))
        print(f"wrote {len(kernels)} kernels to {TABLE.relative_to(ROOT)}")
    faults += worse_than(json.loads(TABLE.read_text()), kernels, compiler)
    for fault in faults:
        print(f"FAULT: {fault}")
    targets = sorted({target for of_kernel in kernels.values() for target in of_kernel})
    registers = max(row[0] for of_kernel in kernels.values() for row in of_kernel.values())
    print(f"{len(kernels)} kernels for {', '.join(targets)}: at most {registers} registers, {len(faults)} faults")
    return 1 if faults else 0


def run(*command: str) -> str:
    """What a command prints; its errors end the program."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def build() -> Path:
    """The library, compiled for all targets with warnings as errors."""
    import torch

    cmake, ninja = shutil.which("cmake") or "cmake", ["-G", "Ninja"] if shutil.which("ninja") else []
    options = ["-DDMREC_CUDA=ON", "-DDMREC_WERROR=ON", f"-DDMREC_TORCH_ROOT={torch.__path__[0]}"]
    run(cmake, "-S", str(ROOT), "-B", str(BUILD), *ninja, *options)
    run(cmake, "--build", str(BUILD), "--target", "_C_cuda")
    return BUILD / "_C_cuda.abi3.so"


def missing_symbols(library: Path) -> list[str]:
    """Symbols of torch that neither the installed torch has nor its CUDA library will bring."""
    import torch

    def symbols(file: Path, kind: str) -> set[str]:
        lines = run("nm", "-D", kind, str(file)).splitlines()
        return {line.split()[-1] for line in lines if re.search(r"\b(aoti_)?torch_\w+$", line)}

    wanted = symbols(library, "--undefined-only")
    offered = symbols(Path(torch.__path__[0]) / "lib" / "libtorch_cpu.so", "--defined-only")
    return [f"{name} is in no library of torch" for name in sorted(wanted - offered - FROM_TORCH_CUDA)]


def tool(name: str) -> str:
    """A program of CUDA's binary utilities: from PyPI, or the toolkit's."""
    found = [*Path(sys.prefix).glob(f"lib/python*/site-packages/nvidia/*/bin/{name}"), shutil.which(name)]
    if found[0] is None:
        sys.exit(f"{name} is not found: pip install '.[cuda]'")
    return str(found[0])


def examine(library: Path, faults: list[str]) -> Kernels:
    """Resources and accesses of every kernel; what no kernel may have goes to ``faults``."""
    kernels: Kernels = defaultdict(dict)
    target, name = "", ""
    for line in run(tool("cuobjdump"), "--dump-resource-usage", str(library)).splitlines():
        if match := re.match(r"arch = (\w+)", line):
            target = match[1]
        elif match := re.match(r" Function (\S+):$", line):
            name = match[1]
        elif match := re.match(r"  REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            kernels[name][target] = [int(match[1]), int(match[3]), 0, 0]
            if match[2] != "0" or match[4] != "0":
                faults.append(f"{readable(name)} for {target} has a stack frame of {match[2]} bytes")
    disassembled = subprocess.Popen([tool("cuobjdump"), "-sass", str(library)], stdout=subprocess.PIPE, text=True)
    assert disassembled.stdout is not None
    for line in disassembled.stdout:
        if match := re.match(r"arch = (\w+)", line):
            target = match[1]
        elif match := re.match(r"\s+Function : (\S+)", line):
            name = match[1]
        elif match := re.search(r"\b(LDG|STG)\.E\.128|\b(LDL|STL)\b", line):
            if match[1] is None:
                faults.append(f"{readable(name)} for {target} touches local memory")
            else:
                kernels[name][target][2 if match[1] == "LDG" else 3] += 1
    if disassembled.wait() != 0:
        sys.exit("cuobjdump -sass failed")
    result = dict(sorted((readable(name), of_target) for name, of_target in kernels.items()))
    for kernel, of_target in result.items():
        stem = kernel.split("<")[0]
        for target, (_, _, loads, stores) in of_target.items():
            if (stem in LOAD_WIDE and not loads) or (stem in STORE_WIDE and not stores):
                faults.append(f"{kernel} for {target} does not move 16 bytes at a time")
    missing = (LOAD_WIDE | STORE_WIDE) - {kernel.split("<")[0] for kernel in result}
    return result if not missing else sys.exit(f"no such kernels any more: {missing}")


_readable: dict[str, str] = {}


def readable(mangled: str) -> str:
    """``row_forward<GaussianW2, float>`` for its mangled name."""
    if mangled not in _readable:
        name = run("c++filt", mangled).strip().removeprefix("void ").split("(")[0]
        _readable[mangled] = re.sub(r"\bdmrec::(cuda::)?", "", name)
    return _readable[mangled]


def worse_than(table: dict, kernels: Kernels, compiler: str) -> list[str]:
    """In what the kernels fall behind the table."""
    faults = [f"{kernel} is not in {TABLE.name}: --update" for kernel in kernels if kernel not in table["kernels"]]
    same_compiler = compiler == table["compiler"]
    if not same_compiler:
        print(f"registers are not compared: the table was made with {table['compiler']}, this is {compiler}")
    for kernel, of_target in table["kernels"].items():
        for target, row in of_target.items():
            now = kernels.get(kernel, {}).get(target)
            if now is None:
                faults.append(f"{kernel} for {target} is gone: --update")
            elif same_compiler and now[0] > row[0]:
                faults.append(f"{kernel} for {target} uses {now[0]} registers, {row[0]} before")
            elif now[2] < row[2] or now[3] < row[3]:
                faults.append(f"{kernel} for {target} has {now[2:]} wide loads and stores, {row[2:]} before")
    return faults


def to_json(table: dict) -> str:
    """A line per kernel."""
    lines = [f"  {json.dumps(kernel)}: {json.dumps(row)}" for kernel, row in table["kernels"].items()]
    head = {key: value for key, value in table.items() if key != "kernels"}
    return json.dumps(head)[:-1] + ', "kernels": {\n' + ",\n".join(lines) + "\n}}\n"


if __name__ == "__main__":
    sys.exit(main())
