"""Builds the native libraries through CMake; everything else is in pyproject.toml.

Without a C++ compiler, or where the build fails, installation continues without the library and both packages run on
their reference path. DMREC_REQUIRE_NATIVE=1 turns that into an error; DMREC_CMAKE_ARGS adds arguments for CMake.

DMREC_CUDA=auto|on|off decides whether the kernels for CUDA are built: auto (the default) where nvcc is found (in PATH,
CUDACXX or CUDA_HOME) and torch is a CUDA build of the same major version, whether or not there is a GPU; on also for a
CPU build of torch, which cannot load them. TORCH_CUDA_ARCH_LIST names the targets by number ("8.0;9.0+PTX"), default
8.0, 9.0 and, as of CUDA 12.8, 10.0, the last with PTX.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def find_nvcc() -> str | None:
    """CUDA's compiler."""
    toolkit = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *([str(Path(toolkit) / "bin")] if toolkit else [])])
    return shutil.which(os.environ.get("CUDACXX", "nvcc"), path=path)


def version_of(nvcc: str) -> tuple[int, ...]:
    """Such as (13, 0)."""
    printed = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    release = re.search(r"release (\d+)\.(\d+)", printed)
    return tuple(map(int, release.groups())) if release else (0, 0)


def cuda_wanted() -> tuple[bool, str]:
    """Whether to build for CUDA, and why."""
    choice = os.environ.get("DMREC_CUDA", "auto")
    if choice not in ("auto", "on", "off"):
        sys.exit(f"DMREC_CUDA must be auto, on or off, got {choice!r}")
    if choice != "auto":
        return choice == "on", f"DMREC_CUDA={choice}"
    nvcc = find_nvcc()
    if nvcc is None:
        return False, "nvcc is not found"
    try:
        import torch
    except ImportError:
        return False, "torch is not installed"
    if torch.version.cuda is None:
        return False, f"torch {torch.__version__} is not a CUDA build"
    ours, theirs = version_of(nvcc), torch.version.cuda
    if ours[0] != int(theirs.split(".")[0]):
        return False, f"nvcc is of CUDA {'.'.join(map(str, ours))}, torch of {theirs}"
    return True, f"torch {torch.__version__} is a CUDA build"


def cuda_architectures() -> str:
    """The targets as CMake names them."""
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(" ", ";").strip(";")
    if not listed:
        nvcc = find_nvcc()
        listed = "8.0;9.0;10.0+PTX" if nvcc and version_of(nvcc) >= (12, 8) else "8.0;9.0+PTX"
    names = []
    for each in filter(None, listed.split(";")):
        number = each.removesuffix("+PTX").replace(".", "")
        if not re.fullmatch(r"\d{2,3}[af]?", number):
            sys.exit(f"TORCH_CUDA_ARCH_LIST must list numbers such as 8.0 or 9.0+PTX, got {each!r}")
        names.append(number if each.endswith("+PTX") else f"{number}-real")
    return ";".join(names)


BUILD_CUDA, CUDA_REASON = cuda_wanted()


class CMakeBuild(build_ext):
    """Builds each extension as the CMake target of the same name."""

    def build_extension(self, ext: Extension) -> None:
        target = ext.name.rsplit(".", 1)[-1]
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        try:
            built = self._run_cmake(target)
        except (ImportError, OSError, subprocess.CalledProcessError) as error:
            if os.environ.get("DMREC_REQUIRE_NATIVE") == "1":
                raise
            output.unlink(missing_ok=True)
            print(f"dmrec_ext: native library not built ({error}); operators run on the reference path there")
            return
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(built, output)
        targets = f"CUDA ({cuda_architectures()})" if target == "_C_cuda" else "the CPU"
        print(f"dmrec_ext: built {output.name} for {targets}")

    def run(self) -> None:
        print(f"dmrec_ext: building for the CPU{' and CUDA' if BUILD_CUDA else ', not for CUDA'}: {CUDA_REASON}")
        super().run()

    def copy_extensions_to_source(self) -> None:
        for name in ("dmrec_ext._C", "dmrec_ext._C_cuda"):
            file = self.get_ext_filename(name)
            if not Path(self.build_lib, file).exists():  # an older build must not pass for this one
                Path(ROOT, file).unlink(missing_ok=True)
        super().copy_extensions_to_source()

    def _run_cmake(self, target: str) -> Path:
        import torch  # the headers and libraries to build against

        # this environment's cmake and ninja before the system's, whether or not the environment is activated
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        cmake = shutil.which("cmake", path=path)
        if cmake is None:
            raise FileNotFoundError("cmake not found: pip install 'cmake>=3.27' ninja")
        build = Path(self.build_temp).resolve() / target
        configure = [cmake, "--fresh", "-S", str(ROOT), "-B", str(build), f"-DDMREC_TORCH_ROOT={torch.__path__[0]}"]
        if ninja := shutil.which("ninja", path=path):
            configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        if target == "_C_cuda":
            configure += ["-DDMREC_CUDA=ON", f"-DCMAKE_CUDA_ARCHITECTURES={cuda_architectures()}"]
            configure += [f"-DCMAKE_CUDA_COMPILER={nvcc}"] if (nvcc := find_nvcc()) else []
        subprocess.run([*configure, *shlex.split(os.environ.get("DMREC_CMAKE_ARGS", ""))], check=True)
        subprocess.run([cmake, "--build", str(build), "--target", target], check=True)
        return build / f"{target}.abi3.so"


NAMES = ["dmrec_ext._C", *(["dmrec_ext._C_cuda"] if BUILD_CUDA else [])]

setup(
    ext_modules=[Extension(name, sources=[], py_limited_api=True, optional=True) for name in NAMES],
    cmdclass={"build_ext": CMakeBuild},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
