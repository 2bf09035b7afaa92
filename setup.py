"""Builds the native library through CMake; everything else stands in pyproject.toml.

Without a C++ compiler, or where the build fails, installation goes on without the library and both packages run on
their reference path. DMREC_REQUIRE_NATIVE=1 turns that into an error; DMREC_CMAKE_ARGS adds arguments for CMake.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


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
            print(f"dmrec_ext: native library not built ({error}); operators run on the reference path")
            return
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(built, output)
        print(f"dmrec_ext: built {output.name} for the CPU")

    def copy_extensions_to_source(self) -> None:
        for ext in self.extensions:
            file = self.get_ext_filename(ext.name)
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
        build = Path(self.build_temp).resolve()
        configure = [cmake, "--fresh", "-S", str(ROOT), "-B", str(build), f"-DDMREC_TORCH_ROOT={torch.__path__[0]}"]
        if ninja := shutil.which("ninja", path=path):
            configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        subprocess.run([*configure, *shlex.split(os.environ.get("DMREC_CMAKE_ARGS", ""))], check=True)
        subprocess.run([cmake, "--build", str(build), "--target", target], check=True)
        return build / f"{target}.abi3.so"


setup(
    ext_modules=[Extension("dmrec_ext._C", sources=[], py_limited_api=True, optional=True)],
    cmdclass={"build_ext": CMakeBuild},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
