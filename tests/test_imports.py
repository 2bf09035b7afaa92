"""Imports point one way: cli -> train -> {data, language, models, matching, eval} -> dmrec_ext."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python/dmrec"
BASE = {"errors", "files", "dmrec_ext"}
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "data": BASE,
    "eval": BASE,
    "runtime": {"errors"},
    "language": BASE | {"data", "runtime"},
    "sections": set(),
    "models": BASE | {"sections"},
    "matching": BASE,
    "config": BASE | {"sections", "eval", "models"},
    "recipes": BASE | {"sections"},
    "train": BASE | {"config", "data", "language", "models", "matching", "eval"},
    "__main__": {"cli"},
    "experiment": BASE | {"sections", "config", "recipes", "data", "models", "train"},
    "cli": BASE
    | {"sections", "runtime", "models", "config", "recipes", "data", "language", "eval", "train", "experiment"},
}


def _parts_imported(path: Path) -> set[str]:
    """The parts of the product that a file imports: `data`, `models`, .., `dmrec_ext`."""
    inside = path.relative_to(PACKAGE).parts
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = inside[: len(inside) - node.level]
            full = [*base, *(node.module.split(".") if node.module else [])]
            parts |= {full[0]} if full else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            parts |= {name.split(".")[0] for name in names if name.split(".")[0] in ("dmrec_ext", "dmrec")}
    return parts


def _part(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


FILES = [p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.stem != "__init__"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_direction(path):
    part = _part(path)
    assert _parts_imported(path) <= ALLOWED[part] | {part}


def test_operators_know_nothing_of_the_trainer():
    for path in (ROOT / "dmrec_ext").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name == "dmrec" or name.startswith("dmrec.") for name in names), path


def test_operators_are_used_through_their_public_names():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dmrec_ext"):
                assert node.module == "dmrec_ext", path
