"""What a user does first, with the installed package alone: ``python smoke.py VERSION`` in an empty folder."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import dmrec

import dmrec_ext

EXTRAS = ("matplotlib", "pyarrow", "tensorboard", "optuna", "sentence_transformers", "openai")
SMALL = "--set training.epochs=2 --set model.hidden=16 --set model.latent=8"
USERS = 200


def main() -> None:
    """All of it."""
    is_what_the_wheel_holds(sys.argv[1])
    assert sys.argv[1] in run("doctor")
    run(f"data synthetic --users {USERS} --items 100 --out data")
    run(f"train mult-vae --data data --out runs {SMALL}")
    assert 0 < json.loads(run("evaluate runs/synthetic-100/mult-vae --metric recall@20 --json"))["recall@20"] <= 1
    run("recommend runs/synthetic-100/mult-vae -k 5 --out top.jsonl")
    assert len(Path("top.jsonl").read_text().splitlines()) == 5 * USERS

    run("train mult-vae --data data --out plotted --plot x.png", refused="pip install 'dmrec[plot]'")
    assert not Path("plotted").exists(), "refused only after training"
    run(
        "train mult-vae --data data --out board --set training.tensorboard=true",
        refused="pip install 'dmrec[tensorboard]'",
    )
    run("recommend runs/synthetic-100/mult-vae --out top.parquet", refused="pip install 'dmrec[parquet]'")

    write_a_shop()
    run("data import shop.csv --items items.csv --out shop")
    run("profile shop")  # by prompts that the wheel holds
    run("embed shop --profiles template --width 4")
    run(f"train dmrec-m --data shop --out sold {SMALL}")
    assert "10 recommendations" in run("recommend sold/shop/dmrec-m --profile green --like sku3")
    run("embed shop --profiles template --encoder minilm", refused="pip install 'dmrec[text]'")
    run("profile shop --writer llm --model m --base-url http://localhost:1", refused="pip install 'dmrec[llm]'")


def is_what_the_wheel_holds(version: str) -> None:
    """Its version, from here and no other folder, all operators native, nothing that is optional."""
    installed = importlib.metadata.version("dmrec")
    assert installed == version, f"installed is {installed}, the wheel says {version}"
    for package in (dmrec, dmrec_ext):
        assert Path(package.__file__).is_relative_to(sys.prefix), f"{package.__file__} is not of this environment"
    for module in EXTRAS:
        assert importlib.util.find_spec(module) is None, f"{module} was installed, nobody asked for it"
    for operator in dmrec_ext.OPERATORS:
        path = dmrec_ext.native_path(operator, "cpu")
        print(f"{operator}: {path.detail}")
        assert path.native, f"{operator} is not native: {path.detail}"


def write_a_shop() -> None:
    """Twenty users of thirty things in three colours."""
    colours = ("green", "red", "blue")
    lines = [f"u{u},sku{i}" for u in range(20) for i in range(30) if (u + i) % 3 == 0 or (u * i) % 7 == 1]
    Path("shop.csv").write_text("\n".join(["user,item", *lines]))
    things = [f"sku{i},Thing {i},{colours[i % 3]} paint" for i in range(30)]
    Path("items.csv").write_text("\n".join(["item_id,title,description", *things]))


def run(command: str, refused: str | None = None) -> str:
    """What a command prints; with ``refused``, its error of one line, which must hold that."""
    done = subprocess.run([Path(sys.executable).with_name("dmrec"), *command.split()], capture_output=True, text=True)
    printed = done.stdout + done.stderr
    print(f"dmrec {command}: exit code {done.returncode}", flush=True)
    assert done.returncode == (0 if refused is None else 1), printed
    if refused is not None:
        assert printed.startswith("error: "), printed
        assert refused in printed, printed
        assert len(printed.splitlines()) == 1, printed
    return done.stdout


if __name__ == "__main__":
    main()
