"""The wheel as a user gets it: ``python tests/install/fresh.py [FOLDER]`` (default dist). 1.5 GB of disk meanwhile.

In an environment of its own, away from the sources and with no compiler, cmake or ninja in PATH: torch, the wheel, what
it requires, no extra. There ``smoke.py`` uses it; the native libraries must name no folder to search, and what comes
beyond torch must stay little. TORCH says which torch, as one gives it to pip (default torch==2.13.0).
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

MOST = 20  # distributions beyond torch
TOOLS = {"pip", "setuptools", "wheel"}


def main() -> int:
    """Exit status."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "dist")
    wheels = list(folder.glob("dmrec-*.whl"))
    if len(wheels) != 1:
        sys.exit(f"{folder} must hold one wheel, has {len(wheels)}: make wheel")
    version = str(parse_wheel_filename(wheels[0].name)[1])
    with tempfile.TemporaryDirectory(prefix="dmrec-wheel-") as name:
        home = Path(name)
        python = install(wheels[0].resolve(), home / "venv")
        smoke = [str(python), "-P", str(Path(__file__).with_name("smoke.py").resolve()), version]
        failed = subprocess.run(smoke, cwd=home, check=False, env=bare(python)).returncode
        (site,) = (home / "venv").glob("lib/python*/site-packages")
        faults = [
            *folders_of_the_builder(site),
            *searched_folders(site),
            *too_many(site),
            *(["smoke.py failed"] if failed else []),
        ]
    for fault in faults:
        print(f"FAULT: {fault}")
    print(f"{wheels[0].name}: {len(faults)} faults")
    return bool(faults)


def install(wheel: Path, environment: Path) -> Path:
    """Makes the environment; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
    for wanted in (shlex.split(os.environ.get("TORCH", "torch==2.13.0")), [str(wheel)]):
        subprocess.run([*pip, *wanted], cwd=environment, check=True, env=bare(python))
    return python


def bare(python: Path) -> dict[str, str]:
    """The variables of this process without what would help the package; nothing in PATH but the environment."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DMREC_", "PYTHON"))}
    return {**kept, "PATH": str(python.parent)}


def folders_of_the_builder(site: Path) -> list[str]:
    """Where native libraries name the folder that this file, and so the sources, are in."""
    root = str(Path(__file__).resolve().parents[2]).encode()
    named = [library.name for library in sorted((site / "dmrec_ext").glob("*.so")) if root in library.read_bytes()]
    return [f"{name} names {root.decode()}" for name in named]


def searched_folders(site: Path) -> list[str]:
    """Folders that native libraries tell the loader to search: torch's, of the machine that built them."""
    if shutil.which("readelf") is None:
        print("SKIPPED: readelf is not found. RUNPATH was NOT looked at.")
        return []
    faults = []
    for library in sorted((site / "dmrec_ext").glob("*.so")):
        told = subprocess.run(["readelf", "-d", "-W", str(library)], capture_output=True, text=True, check=True).stdout
        paths = [line.strip() for line in told.splitlines() if "(RPATH)" in line or "(RUNPATH)" in line]
        faults += [f"{library.name}: {path}" for path in paths]
        print(f"{library.name}: {library.stat().st_size / 1e6:.1f} MB, RUNPATH: {'; '.join(paths) or 'none'}")
    return faults


def too_many(site: Path) -> list[str]:
    """Counts what was installed beyond torch and what it requires itself."""
    installed = {canonicalize_name(each.name): each for each in distributions(path=[str(site)])}
    beyond = {name: megabytes(installed[name]) for name in installed.keys() - closure("torch", installed) - TOOLS}
    by_size = sorted(beyond, key=beyond.__getitem__, reverse=True)
    listed = ", ".join(f"{name} {beyond[name]:.1f}" for name in by_size)
    print(f"beyond torch: {len(beyond)} distributions, {sum(beyond.values()):.0f} MB ({listed})")
    return [f"{len(beyond)} distributions beyond torch, at most {MOST} are allowed"] if len(beyond) > MOST else []


def closure(name: str, installed: dict[str, Distribution]) -> set[str]:
    """A distribution and all that it requires here."""
    seen = set()
    todo = [(name, "")]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen or name not in installed:
            continue
        seen.add((name, extra))
        for required in map(Requirement, installed[name].requires or []):
            if required.marker is None or required.marker.evaluate({"extra": extra}):
                todo += [(canonicalize_name(required.name), each) for each in ("", *required.extras)]
    return {name for name, _ in seen}


def megabytes(distribution: Distribution) -> float:
    """Size of its files."""
    files = [Path(str(file.locate())) for file in distribution.files or []]
    return sum(file.stat().st_size for file in files if file.exists()) / 1e6


if __name__ == "__main__":
    sys.exit(main())
