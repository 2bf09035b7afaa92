"""Conventions that keep the repository navigable: one operator is one column, files stay short, input stays sparse."""

import re
from pathlib import Path

import pytest

import dmrec_ext

ROOT = Path(__file__).parents[1]
SOURCES = [
    path
    for pattern in ("dmrec_ext/**/*.py", "python/**/*.py", "tests/**/*.py", "tests/**/*.h", "tests/**/*.cpp")
    for path in ROOT.glob(pattern)
]
NATIVE = [path for kind in ("h", "cpp", "cuh", "cu") for path in (ROOT / "csrc").glob(f"**/*.{kind}")]
EVERY_OPERATOR = ["dmrec_ext/ops/{}.py", "dmrec_ext/reference/{}.py", "tests/ops/test_{}.py"]
NATIVE_OPERATOR = [
    "csrc/ops/{}.cpp",
    "csrc/ops/cpu/{}_kernel.cpp",
    "csrc/ops/cuda/{}.cu",
    "csrc/ops/cuda/{}_kernel.cpp",
    "benchmarks/ops/bench_{}.py",
]
ROW_OPERATORS = ["gaussian_kl", "gaussian_w2", "composite_prior", "matching_loss"]  # with arithmetic of their own
SHARED = {
    "elementary",
    "row_functor",
    "row_inputs",
    "row_map",
    "row_operator",
    "element",
    "stream",
    "target",
    "capability",
    "huge_pages",
    "scratch",
    "csr_input",
    "dispatch",
    "product_bound",
    "rank_order",
    "item_tiles",
    "aten_calls",
    "online_softmax",
    "products",
    "vector",
    "dot",
    "library",
    "device",
    "launch",
    "row_launch",
    "binding",
    "csr_binding",
    "csr_indices",
    "reduce",
    "reduction",
    "reduction_kernel",
    "runtime",
}


@pytest.mark.parametrize("stem", dmrec_ext.OPERATORS)
def test_every_operator_has_its_column(stem):
    layers = list(EVERY_OPERATOR)
    if (ROOT / f"csrc/ops/{stem}.cpp").exists():
        layers += [*NATIVE_OPERATOR, "csrc/math/{}.h" if stem in ROW_OPERATORS else "csrc/ops/cuda/{}.cuh"]
    missing = [layer.format(stem) for layer in layers if not (ROOT / layer.format(stem)).exists()]
    assert not missing


@pytest.mark.parametrize("stem", dmrec_ext.OPERATORS)
def test_what_is_compiled_is_what_runs(stem, native):
    assert dmrec_ext.native_path(stem, "cpu").native == (ROOT / f"csrc/ops/{stem}.cpp").exists()


def test_native_files_belong_to_an_operator_or_to_the_shared_ones():
    for path in NATIVE:
        of_operator = any(path.stem == stem or path.stem.startswith(f"{stem}_") for stem in dmrec_ext.OPERATORS)
        assert of_operator or path.stem in SHARED, f"{path.relative_to(ROOT)} does not belong to an operator"


def test_shared_files_exist():
    assert {path.stem for path in NATIVE} >= SHARED


@pytest.mark.parametrize("stem", dmrec_ext.OPERATORS)
def test_columns_do_not_include_each_other(stem):
    """A column holds all of its operator; matching_loss, which is composed of others, takes the options of one."""
    may_include = {stem, "composite_prior"} if stem == "matching_loss" else {stem}
    others = [other for other in dmrec_ext.OPERATORS if other not in may_include]
    for path in NATIVE:
        if path.parent.name == "math" or not (path.stem == stem or path.stem.startswith(f"{stem}_")):
            continue
        for include in re.findall(r'#include "ops/([^"]+)"', path.read_text()):
            name = Path(include).stem
            assert not any(name == other or name.startswith(f"{other}_") for other in others), f"{path}: {include}"


def test_files_stay_short():
    long = {str(p.relative_to(ROOT)): n for p in SOURCES + NATIVE if (n := len(p.read_text().splitlines())) > 500}
    assert not long


def test_includes_are_relative_to_csrc_and_point_one_way():
    layers = ["math", "ops", "ops/cpu", "ops/cuda"]
    may_include = {"math": {"math"}, "ops": {"math", "ops"}}
    may_include |= {device: {"math", "ops", device} for device in ("ops/cpu", "ops/cuda")}
    for path in NATIVE:
        layer = str(path.parent.relative_to(ROOT / "csrc"))
        assert layer in layers
        for include in re.findall(r'#include "([^"]+)"', path.read_text()):
            if include == "simt.h":  # the tests' emulator, in place of CUDA
                assert path.name in ("device.h", "binding.h")
                continue
            assert (ROOT / "csrc" / include).exists(), f"{path}: {include}"
            assert str(Path(include).parent) in may_include[layer], f"{path}: {include}"


def test_kernels_and_launchers_know_no_torch():
    """So they compile in seconds, and run under the emulator."""
    cuda = ROOT / "csrc/ops/cuda"
    plain = re.compile(r"math/\w+\.h|ops/cuda/(device|launch|\w+_launch)\.h|ops/cuda/\w+\.cuh|simt\.h")
    for path in [*cuda.glob("*.cu*"), *cuda.glob("*launch.h"), cuda / "device.h"]:
        text = path.read_text()
        assert "#include <torch" not in text, path
        assert all(map(plain.fullmatch, re.findall(r'#include "([^"]+)"', text))), path


def test_arithmetic_knows_no_torch_and_no_loop():
    for path in (ROOT / "csrc/math").glob("*.h"):
        text = path.read_text()
        assert "torch" not in text, path
        assert not re.search(r"\b(for|while) \(", text), path


def test_private_names_of_torch_are_in_one_file():
    private = re.compile(r"\btorch(?!\.ops\.)(\.\w+)*\._(?!_)|\bforward_ad\._|\bfrom torch\S* import _")
    found = {path.name for path in (ROOT / "dmrec_ext").rglob("*.py") if private.search(path.read_text())}
    assert found == {"_torch_private.py"}


def test_interactions_stay_sparse():
    """Nothing turns users x items dense; the items x items matrix of EASE and its kin is their definition."""
    allowed = {"item_item.py"}
    for path in (ROOT / "python").glob("**/*.py"):
        if path.name not in allowed:
            assert not re.search(r"\.(toarray|todense|to_dense)\(", path.read_text()), path
