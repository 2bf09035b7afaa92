"""What setup.py decides about CUDA; the versions locked for developing."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def _decide(**environment):
    code = "import setuptools, runpy; setuptools.setup = lambda **o: print([e.name for e in o['ext_modules']]);"
    code += "scope = runpy.run_path('setup.py'); print(scope['CUDA_REASON']); print(scope['cuda_architectures']())"
    given = {key: value for key, value in os.environ.items() if key not in ("DMREC_CUDA", "TORCH_CUDA_ARCH_LIST")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env={**given, **environment}
    )
    return done.stdout.splitlines() if done.returncode == 0 else done.stderr.strip()


def test_on_and_off_are_obeyed():
    assert _decide(DMREC_CUDA="on")[:2] == ["['dmrec_ext._C', 'dmrec_ext._C_cuda']", "DMREC_CUDA=on"]
    assert _decide(DMREC_CUDA="off")[:2] == ["['dmrec_ext._C']", "DMREC_CUDA=off"]
    assert _decide(DMREC_CUDA="maybe") == "DMREC_CUDA must be auto, on or off, got 'maybe'"


def test_auto_wants_nvcc_and_a_cuda_build_of_torch(tmp_path):
    assert _decide(CUDACXX="/nowhere/nvcc")[:2] == ["['dmrec_ext._C']", "nvcc is not found"]
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\n")
    nvcc.chmod(0o755)
    names, reason, _ = _decide(CUDACXX=str(nvcc))
    assert "_C_cuda" not in names  # no CUDA build of torch, or another version
    assert (torch.version.cuda or torch.__version__) in reason
    nvcc.write_text('#!/bin/sh\necho "release 12.6, V12.6.1"\n')
    assert _decide(CUDACXX=str(nvcc))[2] == "80-real;90"
    nvcc.write_text('#!/bin/sh\necho "release 13.0, V13.0.88"\n')
    assert _decide(CUDACXX=str(nvcc))[2] == "80-real;90-real;100"


@pytest.mark.parametrize(
    ("listed", "named"),
    [("8.0", "80-real"), ("8.0;9.0+PTX", "80-real;90"), ("8.6 12.0a+PTX", "86-real;120a")],
)
def test_torch_cuda_arch_list_is_honoured(listed, named):
    assert _decide(TORCH_CUDA_ARCH_LIST=listed)[2] == named
    assert "must list numbers such as 8.0 or 9.0+PTX, got 'Ampere'" in _decide(TORCH_CUDA_ARCH_LIST="Ampere")


def _required(project, requirements):
    """Requirements by name, those of dmrec's own extras in its place."""
    for required in map(Requirement, requirements):
        if required.name == project["name"]:
            for extra in required.extras:
                yield from _required(project, project["optional-dependencies"][extra])
        else:
            yield required


def test_what_developers_need_is_locked():
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = configuration["project"]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    locked = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    assert not {"torch", "dmrec"} & locked.keys()
    listed = [*project["dependencies"], "dmrec[dev,bench]", *configuration["build-system"]["requires"]]
    required = list(_required(project, listed))
    assert len(required) > 20
    for each in required:
        if each.name != "torch":
            assert each.specifier.contains(locked[canonicalize_name(each.name)], prereleases=True), each
