"""Imports point one way: cli -> {experiment, inference} -> training -> runs -> build -> .. -> data -> dmrec_ext."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python/dmrec"
BASE = {"errors", "files", "dmrec_ext"}
SETTINGS = {"options", "config", "runtime"}
ALLOWED = {
    "errors": set(),
    "yaml12": set(),
    "table": {"errors"},
    "files": {"errors"},
    "plugins": {"errors"},
    "options": {"errors", "yaml12"},
    "sharding": {"errors", "dmrec_ext"},
    "runtime": BASE | {"sharding"},
    "memory": set(),
    "data": BASE | {"memory"},
    "language": BASE | {"data", "runtime"},
    "tokenizers": BASE | {"options", "data"},
    "models": BASE | {"options", "runtime", "tokenizers", "sharding"},
    "eval": BASE | {"models", "runtime"},
    "config": BASE | {"options", "yaml12", "eval", "models"},
    "recipes": BASE | {"options", "config", "data", "models"},
    "build": BASE | {"config", "models"},
    "runs": BASE | SETTINGS | {"sharding", "data", "tokenizers", "models", "eval", "build"},
    "training": BASE | SETTINGS | {"sharding", "data", "models", "eval", "build", "runs"},
    "inference": BASE | SETTINGS | {"table", "sharding", "data", "language", "models", "eval", "runs"},
    "experiment": BASE
    | SETTINGS
    | {"plugins", "sharding", "recipes", "data", "models", "eval", "build", "runs", "training"},
    "__main__": {"cli"},
}
ALLOWED["api"] = {*ALLOWED, "dmrec_ext"} - {"__main__", "experiment"}
ALLOWED["cli"] = {*ALLOWED, "dmrec_ext"} - {"__main__", "api"}


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


def _single_models() -> set[str]:
    """The classes of models and of their options, as their files register them."""
    found = set()
    for path in (PACKAGE / "models").rglob("*.py"):
        if "@register" in path.read_text():
            tree = ast.parse(path.read_text())
            found |= {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    return found


SINGLE_MODELS = _single_models()
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


def test_nothing_asks_for_a_single_model_outside_its_own_file():
    """`isinstance` on one model, or a comparison with its kind, ties other rooms to it."""
    for path in PACKAGE.rglob("*.py"):
        owned = path.read_text()
        if "models/" in str(path.relative_to(PACKAGE)) and "@register" in owned:
            continue
        for single in SINGLE_MODELS:
            assert not re.search(rf"isinstance\([^)]*\b{single}\b", owned), f"{path}: {single}"
        assert not re.search(r"model\.kind [!=]= ", owned), path


def test_only_the_command_line_prints():
    """Below it there is no console: what is shown goes through observers and callables."""
    for path in PACKAGE.rglob("*.py"):
        where = str(path.relative_to(PACKAGE))
        if where.startswith("cli/") or where in ("api.py", "training/progress.py"):
            continue
        text = path.read_text()
        assert "rich" not in _modules(text), path
        assert not re.search(r"(?<![\w.])print\(", text), path


def _modules(text: str) -> set[str]:
    """The packages that a file imports by absolute names."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").split(".")[0])
    return found
