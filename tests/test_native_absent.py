"""Without the native library: both packages work, say so once, and installing does not fail."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _python(code, folder=ROOT, **environment):
    command = [sys.executable, "-W", "default", "-c", code]
    environment = {**os.environ, **environment}
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=environment, check=False, timeout=120
    )


def test_runs_on_the_reference_path_and_says_so_once():
    done = _python(
        "import torch, dmrec_ext, dmrec.training.trainer\n"
        "x = torch.randn(3, 4, requires_grad=True)\n"
        "dmrec_ext.gaussian_kl(x, x).sum().backward(); dmrec_ext.gaussian_kl(x, x)\n"
        "assert x.grad is not None and not dmrec_ext.native_path('gaussian_kl', 'cpu').native",
        DMREC_NATIVE="0",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("dmrec_ext runs on its reference path: DMREC_NATIVE=0 is set") == 1


def test_doctor_tells_why():
    code = "from dmrec.cli.main import main; main(['doctor', '--json'])"
    found = json.loads(_python(code, DMREC_NATIVE="0").stdout)
    assert found["operators"]["gaussian_kl"]["cpu"] == {"path": "reference", "why": "DMREC_NATIVE=0 is set"}
    assert found["native_library"] == "DMREC_NATIVE=0 is set"


def test_a_library_that_does_not_load_is_no_catastrophe(tmp_path):
    package = tmp_path / "dmrec_ext"
    subprocess.run(["cp", "-r", str(ROOT / "dmrec_ext"), str(package)], check=True)
    for library in package.glob("_C*.so"):
        library.unlink()
    (package / "_C.abi3.so").write_bytes(b"no library")
    done = _python("import dmrec_ext; print(dmrec_ext.NATIVE_ABSENT)", folder=tmp_path, DMREC_NATIVE="1")
    assert done.returncode == 0, done.stderr
    assert "_C.abi3.so does not load with torch" in done.stdout


@pytest.mark.parametrize(("required", "status"), [("0", 0), ("1", 1)])
def test_installing_without_a_compiler(tmp_path, required, status):
    command = [sys.executable, "setup.py", "build_ext"]
    command += ["--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "temp")]
    environment = {**os.environ, "CXX": "/nonexistent/compiler", "DMREC_REQUIRE_NATIVE": required}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode != 0) == bool(status)
    if not status:
        assert "native library not built" in done.stdout
        assert "operators run on the reference path" in done.stdout
    assert not list(tmp_path.glob("lib/**/*.so"))


def test_this_suite_runs_with_the_native_library_where_it_must():
    import dmrec_ext

    if os.environ.get("DMREC_REQUIRE_NATIVE") != "1":
        pytest.skip("DMREC_REQUIRE_NATIVE is not set")
    assert dmrec_ext.NATIVE_ABSENT is None


def test_the_source_distribution_can_be_built_from(tmp_path):
    command = [sys.executable, "setup.py", "-q", "sdist", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.*")}
    assert sources | {"CMakeLists.txt", "setup.py", "python/dmrec/cli/main.py", "dmrec_ext/csr.py"} <= names
