"""The CUDA half as a user gets it: ``python tests/cuda/full.py``. Some 8 GB of disk, minutes, nvcc, no GPU.

In an environment of its own: a CUDA build of torch, this package built with it as its setup.py decides, imported
without a driver; every operator must then have a kernel for CUDA. TORCH says which torch (default torch==2.14.1).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / "build" / "cuda-full"
NEEDED_GB = 8
IMPORT = """
import sys, torch, dmrec_ext
assert torch.version.cuda, f"torch {torch.__version__} is not a CUDA build"
print(f"torch {torch.__version__}, CUDA {torch.version.cuda}, GPU: {torch.cuda.is_available()}")
assert "site-packages" in dmrec_ext.__file__, dmrec_ext.__file__
names = [name for op in dmrec_ext.OPERATORS for name in (op, f"_{op}_backward")] + ["_csr_dot", "_csr_transpose"]
names = [name for name in names if hasattr(torch.ops.dmrec_ext, name)]
has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
missing = [name for name in names if not has_kernel(f"dmrec_ext::{name}", "CUDA")]
for op in dmrec_ext.OPERATORS:
    path = dmrec_ext.native_path(op, "cuda")
    print(f"{op}: {'native' if path.native else 'reference'} on CUDA ({path.detail})")
    missing += [] if path.native else [op]
print(f"{len(names)} operators, without a kernel for CUDA: {missing or 'none'}")
sys.exit(bool(missing))
"""


def main() -> int:
    """Exit status."""
    if shutil.which("nvcc") is None:
        return skipped("nvcc is not found")
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < NEEDED_GB and not ENVIRONMENT.exists():
        return skipped(f"{free:.1f} GB are free, {NEEDED_GB} needed")
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, os.environ.get("TORCH", "torch==2.14.1")], check=True)
    subprocess.run([*pip, "setuptools>=77", "wheel", "cmake>=3.27", "ninja", "numpy"], check=True)
    environment = {**os.environ, "DMREC_REQUIRE_NATIVE": "1", "DMREC_CUDA": "auto"}
    subprocess.run(
        [*pip, "--no-build-isolation", "--no-deps", "--force-reinstall", str(ROOT)], check=True, env=environment
    )
    return subprocess.run([str(python), "-c", IMPORT], cwd=ENVIRONMENT, check=False).returncode


def skipped(why: str) -> int:
    """Says so; a skip is neither a failure nor a success."""
    print(f"SKIPPED: {why}. The CUDA half was NOT installed with a CUDA build of torch.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
