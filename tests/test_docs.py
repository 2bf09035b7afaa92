"""The documentation is true: its commands and programs run, its links lead somewhere, its tables follow the code."""

import importlib.util
import json
import os
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from dmrec.cli.main import main
from dmrec.config import Config
from dmrec.data.dataset import open_dataset
from dmrec.data.sources import download

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHERS = [ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/README.md", ROOT / "csrc/README.md"]
READABLE = {str(path.relative_to(ROOT)): path for path in [*PAGES, *OTHERS]}
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.M | re.S)


def _generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(ROOT / "docs"))  # as for a script there
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "docs"))
    return module


@pytest.mark.parametrize("name", ["command-line.md", "configuration.md", "figures.md", "python.md", "sequential.md"])
def test_what_follows_from_code_and_results_is_current(name):
    assert (ROOT / "docs" / name).read_text() == _generator().PAGES[name](), "run: make docs"


def test_every_option_is_described():
    """By a description of its own or, a section, by its docstring."""
    generator = _generator()

    def undescribed(section, path):
        for name, field in section.model_fields.items():
            inner = generator.sections_of(field)
            for each in inner:
                assert each.__doc__
                yield from undescribed(each, f"{path}{name}.")
            if not inner and name != "kind" and not field.description:
                yield path + name

    assert list(undescribed(Config, "")) == []


@pytest.mark.parametrize("name", READABLE)
def test_links_lead_somewhere(name):
    path = READABLE[name]
    for target, heading in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]*))?\)", path.read_text()):
        found = (path.parent / target) if target else path
        assert found.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", found.read_text(), re.M)
            assert heading in [re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings], heading


def _shop(folder):
    """RecBole's atomic files of a small shop."""
    folder.mkdir()
    rng = random.Random(0)
    pairs = [(u, i) for u in range(40) for i in range(24) if rng.random() < (0.7 if u % 4 == i % 4 else 0.1)]
    inter = "user_id:token\titem_id:token\n" + "".join(f"{u}\t{i}\n" for u, i in pairs)
    item = "item_id:token\ttitle:token_seq\n" + "".join(f"{i}\tthing kind{i % 4} no{i % 3}\n" for i in range(24))
    user = "user_id:token\tjob:token_seq\n" + "".join(f"{u}\tlikes kind{u % 4}\n" for u in range(40))
    for kind, text in (("inter", inter), ("item", item), ("user", user)):
        (folder / f"shop.{kind}").write_text(text)


OTHERWISE = ["adding-a-backbone.md", "adding-a-generative-recommender.md"]  # run by a test of their own


@pytest.mark.parametrize(
    "path",
    [path for path in PAGES if BLOCK.search(path.read_text()) and path.name not in OTHERWISE],
    ids=lambda p: p.name,
)
def test_examples_run(path, tmp_path, wheel, monkeypatch):
    """In their order, in an empty folder but for a shop's RecBole files; downloads come from a stand-in."""
    monkeypatch.setattr(download, "SHA256", download.sha256_of(wheel))
    monkeypatch.chdir(tmp_path)
    _shop(tmp_path / "shop")
    scope, ran = {}, 0
    for kind, block in BLOCK.findall(path.read_text()):
        if kind == "python":
            exec(compile(block, path.name, "exec"), scope)
            ran += 1
            continue
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                assert words[0] == "dmrec", f"commands of other programs go into ```text blocks: {line}"
                ran += 1
                if "--ranks" in words:  # torchrun replaces the process
                    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
                    subprocess.run([sys.executable, "-m", *words], check=True, env=one_thread)
                    continue
                with pytest.raises(SystemExit) as stopped:
                    main(words[1:])
                assert not stopped.value.code, line
    assert ran
    torch.set_grad_enabled(True)
    assert Path.cwd() == tmp_path
    assert os.listdir(tmp_path)  # noqa: PTH208


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_run(path, tmp_path, wheel, monkeypatch):
    """Cell by cell in one scope; lines that begin with ``!dmrec`` are commands. Outputs are not kept in the file."""
    monkeypatch.setattr(download, "SHA256", download.sha256_of(wheel))
    monkeypatch.chdir(tmp_path)
    notebook, scope = json.loads(path.read_text()), {}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 5
    for cell in cells:
        assert cell["outputs"] == []
        lines = "".join(cell["source"]).splitlines()
        for line in (line for line in lines if line.startswith("!")):
            words = shlex.split(line[1:])
            assert words[0] == "dmrec"
            with pytest.raises(SystemExit) as stopped:
                main(words[1:])
            assert not stopped.value.code, line
        code = "\n".join(line for line in lines if not line.startswith("!"))
        exec(compile(code, path.name, "exec"), scope)
    assert (tmp_path / "items.npy").exists()


def test_promises_name_tests_that_there_are():
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    named = re.findall(r"`((?:test|check)_\w+)`", (ROOT / "docs/promises.md").read_text())
    assert len(named) > 40
    assert [name for name in named if f"def {name}(" not in sources] == []


def test_the_backbone_of_its_page_trains_with_language_by_the_command_line(tiny_folder, tmp_path):
    page = (ROOT / "docs/adding-a-backbone.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(code.splitlines()) < 60
    (tmp_path / "tiny_vae.py").write_text(code)
    yaml = page.split("$ cat tiny.yaml\n")[1].split("$ ")[0]
    (tmp_path / "tiny.yaml").write_text(yaml + "training: {epochs: 9, learning_rate: 0.02, batch_size: 40}\n")
    command = [sys.executable, "tiny_vae.py", "train", "--config", "tiny.yaml", "--data", str(tiny_folder)]
    done = subprocess.run([*command, "--no-baselines"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    name = open_dataset(tiny_folder).name
    result = json.loads((tmp_path / "runs" / name / "tiny-vae-m/seed-0/result.json").read_text())
    assert result["test"]["recall@10"] > 0.25  # popularity: 0.175
    # grids run in other processes, which have to know the model too
    lines = "".join(f"    {line}\n" for line in (tmp_path / "tiny.yaml").read_text().splitlines() if line[:4] != "name")
    (tmp_path / "plan.yaml").write_text(f"datasets: [{tiny_folder}]\nmodels:\n  tiny-vae-m:\n{lines}")
    command = [sys.executable, "tiny_vae.py", "experiment", "plan.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "experiments/plan" / name / "tiny-vae-m/seed-0"
    assert json.loads((folder / "result.json").read_text())["test"] == result["test"]


def test_the_readme_fits_a_screen_and_names_the_two_commands():
    text = READABLE["README.md"].read_text()
    assert len(text.splitlines()) <= 80
    for word in ("demo", "test"):
        assert f"make {word}" in text
        assert re.search(rf"^{word}:", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_lines_of_prose_fit(path):
    """120 characters, but for tables, links and what is generated."""
    if path.name not in ("command-line.md", "configuration.md"):
        long = [line for line in path.read_text().splitlines() if len(line) > 128 and line[:1] != "|"]
        assert not long
