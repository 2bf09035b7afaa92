"""The check of an installed wheel sees what it is there for."""

import fnmatch
import importlib.util
import json
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]

specification = importlib.util.spec_from_file_location("install_fresh", Path(__file__).with_name("fresh.py"))
fresh = importlib.util.module_from_spec(specification)
specification.loader.exec_module(fresh)


def _install(site, name, *requirements):
    folder = site / f"{name}-1.0.dist-info"
    folder.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {r}" for r in requirements)]
    (folder / "METADATA").write_text("\n".join(lines))
    (folder / "RECORD").write_text(f"{name}-1.0.dist-info/METADATA,,\n")


def test_what_torch_requires_is_not_counted(tmp_path, capsys):
    _install(
        tmp_path,
        "torch",
        "Sym_Py>=1",
        "toolkit[blas]",
        "absent; sys_platform == 'nowhere'",
        "of-an-extra; extra == 'x'",
    )
    _install(tmp_path, "sym.py", "mp-math")
    _install(tmp_path, "toolkit", "blas; extra == 'blas'", "rand; extra == 'rand'")
    for name in ("mp_math", "blas", "pip", "rand", "of_an_extra"):
        _install(tmp_path, name)
    assert fresh.too_many(tmp_path) == []
    printed = capsys.readouterr().out
    assert "beyond torch: 2 distributions" in printed
    assert "rand 0.0" in printed
    assert "of-an-extra 0.0" in printed
    for number in range(fresh.MOST - 1):
        _install(tmp_path, f"more{number}")
    assert fresh.too_many(tmp_path) == [
        f"{fresh.MOST + 1} distributions beyond torch, at most {fresh.MOST} are allowed"
    ]


def test_a_searched_folder_is_a_fault(tmp_path):
    for tool in ("c++", "readelf"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is missing")
    (tmp_path / "dmrec_ext").mkdir()
    compile_ = ["c++", "-shared", "-x", "c++", "/dev/null", "-o", str(tmp_path / "dmrec_ext" / "_C.abi3.so")]
    subprocess.run(compile_, check=True)
    assert fresh.searched_folders(tmp_path) == []
    subprocess.run([*compile_, "-Wl,-rpath,/builder/torch/lib"], check=True)
    assert fresh.folders_of_the_builder(tmp_path) == []
    library = tmp_path / "dmrec_ext" / "_C.abi3.so"
    library.write_bytes(library.read_bytes() + str(Path(__file__).parents[2] / "csrc/ops/rank_topk.cpp").encode())
    assert fresh.folders_of_the_builder(tmp_path) == [f"_C.abi3.so names {Path(__file__).parents[2]}"]
    (fault,) = fresh.searched_folders(tmp_path)
    assert "_C.abi3.so" in fault
    assert "/builder/torch/lib" in fault


def test_one_wheel_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["fresh.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="must hold one wheel, has 0: make wheel"):
        fresh.main()


def test_the_container_installs_what_is_checked_here():
    """``make wheel-check`` does, without Docker, what its RUN lines do; this compares the two."""
    lines = [line for line in (ROOT / "examples" / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    steps = [tuple(line.split(" ", 1)) for line in lines]
    assert [name for name, _ in steps] == ["FROM", "RUN", "RUN", "COPY", "RUN", "RUN", "USER", "WORKDIR", "ENTRYPOINT"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    image, version = steps[0][1].split(":")
    assert image == "python"
    assert Version(version.removesuffix("-slim")) in Requirement(f"python{project['requires-python']}").specifier
    torch = next(word for word in steps[2][1].split() if word.startswith("torch=="))
    assert f"TORCH ?= {torch}\n" in (ROOT / "Makefile").read_text()
    assert torch in Path(fresh.__file__).read_text()
    wheel, where = steps[3][1].split()
    assert fnmatch.fnmatch(f"dist/dmrec-{project['version']}-cp311-abi3-linux_x86_64.whl", wheel)
    assert steps[4][1].startswith(f"pip install --no-cache-dir {where}{Path(wheel).name} ")
    assert json.loads(steps[-1][1]) == list(project["scripts"])
