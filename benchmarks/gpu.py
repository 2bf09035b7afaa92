"""All checks of a GPU in one go, into one JSON file: ``make gpu``. docs/gpu-checklist.md says what the results mean.

A step that fails or hangs is recorded, and the next one runs. Exit status: 0 if all passed, 1 if not, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from dmrec.recipes import RECIPES

from . import on_device
from .events import notes

ROOT = Path(__file__).parents[1]
TRAINED = [name for name, make in RECIPES.items() if make()["model"]["kind"] not in ("popularity", "ease")]
EPOCHS = 6


class Report:
    """The JSON file: written after every step, so that a crash of the machine loses one step at most."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = {"machine": machine(), "steps": []}

    def step(self, name: str, run: Callable[[], dict[str, Any]]) -> None:
        """Runs a step and records what it returns, or why it failed."""
        started = time.time()
        print(f"{name} ..", flush=True)
        try:
            found = run()
        except Exception as error:
            found = {"ok": False, "error": f"{type(error).__name__}: {error}"[:2000]}
        found = {"step": name, "seconds": round(time.time() - started, 1), "gpu": notes(), **found}
        self.content["steps"].append(found)
        self.path.write_text(json.dumps(self.content, indent=1) + "\n")
        print(f"{name}: {'passed' if found['ok'] else 'FAILED'} after {found['seconds']} s", flush=True)

    @property
    def passed(self) -> bool:
        """Whether every step passed."""
        return all(step["ok"] for step in self.content["steps"])


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    about = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gpu": notes(),
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        about |= {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_gb": round(properties.total_memory / 1e9, 1),
            "devices": torch.cuda.device_count(),
        }
    return about


def command(*arguments: str, timeout: float = 7200) -> subprocess.CompletedProcess[str]:
    """Runs Python; its output is kept."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
    )


def doctor() -> dict[str, Any]:
    """Every operator has a kernel that runs on this GPU."""
    done = command("-m", "dmrec", "doctor", "--json")
    found = json.loads(done.stdout)
    paths = {op: each["cuda"] for op, each in found["operators"].items()}
    return {
        "ok": all(path["path"] == "native" for path in paths.values()),
        "operators": paths,
        "gpu_name": found["gpu"],
    }


def tests(*arguments: str) -> dict[str, Any]:
    """``pytest -m cuda``: how many passed, and the names and last lines of those that failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        done = command("-m", "pytest", "-q", "-m", "cuda", f"--junitxml={report}", "tests/gpu", *arguments)
        if not report.exists():
            return {"ok": False, "error": (done.stdout + done.stderr)[-2000:]}
        cases = list(ET.parse(report).iter("testcase"))
    outcomes: dict[str, list[dict[str, str]]] = {"failure": [], "error": [], "skipped": []}
    for case in cases:
        for kind, found in outcomes.items():
            for each in case.iter(kind):
                name = f"{case.get('classname')}::{case.get('name')}"
                found.append({"test": name, "message": (each.get("message") or "")[-400:]})
    failed = outcomes["failure"] + outcomes["error"]
    passed = len(cases) - len(failed) - len(outcomes["skipped"])
    reasons = sorted({each["message"] for each in outcomes["skipped"]})
    return {
        "ok": done.returncode == 0 and passed > 0,
        "passed": passed,
        "failed": failed,
        "skipped": len(outcomes["skipped"]),
        "reasons": reasons,
    }


def benchmarks() -> dict[str, Any]:
    """``python -m benchmarks --device cuda``."""
    done = command("-m", "benchmarks", "--device", "cuda")
    if done.returncode != 0:
        return {"ok": False, "error": (done.stdout + done.stderr)[-2000:]}
    found = json.loads(on_device.RESULT.read_text())
    return {"ok": not any("error" in row for row in found["rows"]), **found}


def training(device: str, recipes: list[str], users: int = 20_000, items: int = 20_000) -> dict[str, Any]:
    """Every trained recipe for some epochs on a synthetic catalogue, in both precisions: seconds of an epoch."""
    rows, ok = [], True
    with tempfile.TemporaryDirectory() as folder:
        data = ["data", "synthetic", "--users", str(users), "--items", str(items), "--out", f"{folder}/data"]
        done = command("-m", "dmrec", *data)
        if done.returncode != 0:
            return {"ok": False, "error": done.stderr[-2000:]}
        for name in recipes:
            for precision in ("float32", "bf16"):
                out = Path(folder) / precision
                run = ["train", name, "--no-baselines", "--data", f"{folder}/data", "--out", str(out)]
                run += ["--device", device, "--precision", precision, "--set", f"training.epochs={EPOCHS}"]
                done = command("-m", "dmrec", *run)
                row: dict[str, Any] = {"model": name, "precision": precision}
                if done.returncode != 0:
                    rows.append({**row, "error": done.stderr[-1000:]})
                    ok = False
                    continue
                result = json.loads(next(out.glob(f"*/{name}/seed-0/result.json")).read_text())
                kept = ("seconds_per_epoch", "phases", "seconds", "test", "environment")
                rows.append({**row, **{key: result[key] for key in kept}})
    return {"ok": ok, "epochs": EPOCHS, "users": users, "items": items, "rows": rows}


def main() -> int:
    """Runs every step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        why = "finds no GPU" if torch.version.cuda else "is a build without CUDA"
        print(f"make gpu needs a GPU: torch {torch.__version__} {why}", file=sys.stderr)
        return 2
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
    report = Report(chosen.out)
    report.step("doctor", doctor)
    report.step("tests", tests)
    report.step("benchmarks", benchmarks)
    report.step("training", lambda: training("cuda", TRAINED))
    print(f"{chosen.out}: {'all steps passed' if report.passed else 'a step failed'}")
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
