"""Tables of figures, from the results of benchmarks and experiments; `generate.py` puts them into the pages.

`TABLES` says what a line ``<!-- KIND .. -->`` of a page stands for.
"""

from __future__ import annotations

import json
import re
import statistics
import typing
from pathlib import Path

from dmrec.experiment.report.paper import METRICS, published_figures

RESULTS = Path(__file__).parents[1] / "benchmarks/results"


def quality(folder: str, dataset: str, *metrics: str) -> str:
    """Means of the test figures over seeds, with deviations where there are several; the paper's where it has them."""
    columns = metrics or METRICS
    lines = (RESULTS / "experiments" / folder / "rows.jsonl").read_text().splitlines()
    runs: dict[str, list[dict[str, typing.Any]]] = {}
    for row in map(json.loads, lines):
        if row["dataset"] == dataset and row["state"] == "finished":
            runs.setdefault(row["model"], []).append(row)
    table = [f"| model | seeds | {' | '.join(columns)} | best epoch |", f"| --- |{' ---: |' * (len(columns) + 2)}"]
    for model, of_model in runs.items():
        cells = [_mean([row["test"][metric] for row in of_model]) for metric in columns]
        epochs = ", ".join(str(row["best_epoch"]) for row in of_model if "best_epoch" in row) or "-"
        table.append(f"| {model} | {len(of_model)} | {' | '.join(cells)} | {epochs} |")
        if not metrics and (paper := published_figures(dataset, model, None)):
            cells = [f"{paper[metric]:.4f}" for metric in columns]
            table.append(f"| {model}, in the paper | 10 | {' | '.join(cells)} | - |")
    return "\n".join(table) + "\n"


def baselines(dataset: str) -> str:
    """Models with published settings, best by recall@20 first: figures, and the time that they take alone."""
    lines = (RESULTS / f"experiments/baselines-{dataset}/rows.jsonl").read_text().splitlines()
    times = {row["model"]: row for row in json.loads((RESULTS / f"time-to-best-{dataset}.json").read_text())["rows"]}
    runs: dict[str, list[dict[str, typing.Any]]] = {}
    for row in map(json.loads, lines):
        if row["state"] == "finished":
            runs.setdefault(row["model"], []).append(row)
    names = ("recall@20", "ndcg@20", "best epoch", "s of an epoch", "s to the best one")
    table = [f"| model | seeds | {' | '.join(names)} |", f"| --- |{' ---: |' * (len(names) + 1)}"]
    for model, of_model in sorted(
        runs.items(), key=lambda item: -statistics.mean(r["test"]["recall@20"] for r in item[1])
    ):
        time = times.get(model, {})
        cells = [_mean([row["test"][metric] for row in of_model]) for metric in names[:2]]
        cells.append(", ".join(str(row["best_epoch"]) for row in of_model if "best_epoch" in row) or "-")
        cells += [str(time.get("epoch", "-")), str(time.get("to_best", time.get("seconds", "-")))]
        table.append(f"| {model} | {len(of_model)} | {' | '.join(cells)} |")
    return "\n".join(table) + "\n"


def tokenizers(of: str) -> str:
    """Use of codes by tokenizer."""
    table = ["| codes | used | perplexity | in collisions before | after | seconds |", f"| --- |{' ---: |' * 5}"]
    for row in json.loads((RESULTS / f"tokenizers-{of}.json").read_text())["rows"]:
        used, perplexity = (" / ".join(f"{value:.0f}" for value in row[name]) for name in ("used", "perplexity"))
        left = row["items in collisions"]
        before, seconds = row.get("in collisions before", left), row.get("seconds", "-")
        name = f"{row['codes']} (given)" if row.get("given") else row["codes"]
        table.append(f"| {name} | {used} | {perplexity} | {before} | {left} | {seconds} |")
    return "\n".join(table) + "\n"


def blocks(*of: str) -> str:
    """A training step of TIGER in parts by length."""
    found = [json.loads((RESULTS / f"blocks-{name}.json").read_text()) for name in of]
    names = [f"{each['dataset']}, {each['size']}" for each in found]
    table = [f"| parts | {' | '.join(f'padding: {n} | seconds of an epoch' for n in names)} |"]
    table.append(f"| ---: |{' ---: |' * (2 * len(names))}")
    for rows in zip(*(each["rows"] for each in found), strict=True):
        cells = [f"{row['padding']:.0%} | {row['seconds of an epoch']}" for row in rows]
        table.append(f"| {rows[0]['parts']} | {' | '.join(cells)} |")
    return "\n".join(table) + "\n"


def search(of: str) -> str:
    """Exact search and beams on a trained model."""
    found = json.loads((RESULTS / f"search-{of}.json").read_text())
    names = list(found["rows"][0])
    table = [f"| {' | '.join(names)} |", f"| --- |{' ---: |' * (len(names) - 1)}"]
    table += [f"| {' | '.join(str(row[name]) for name in names)} |" for row in found["rows"]]
    return "\n".join(table) + "\n"


def cold(of: str, part: str) -> str:
    """Cold users by what is known of them; or cold items, among all and among themselves."""
    rows = json.loads((RESULTS / f"cold-{of}.json").read_text())[f"cold {part}"]
    if part == "users":
        table = ["| model | ranked by | recall@20 | ndcg@20 |", "| --- | --- | ---: | ---: |"]
        table += [f"| {r['model']} | {r['by']} | {r['recall@20']:.4f} | {r['ndcg@20']:.4f} |" for r in rows]
    else:
        names = [name for name in rows[-1] if isinstance(rows[-1][name], dict)]
        table = [f"| model | cold items among all | {' | '.join(names)} |", f"| --- |{' ---: |' * (len(names) + 1)}"]
        for row in rows:
            cells = [f"{row[name]['recall@20']:.4f}" if name in row else "-" for name in names]
            table.append(f"| {row['model']} | {row['recall@20']:.4f} | {' | '.join(cells)} |")
    return "\n".join(table) + "\n"


def ensembles(of: str, *over: str) -> str:
    """Ensembles, and how much they are above some models over users."""
    rows = json.loads((RESULTS / f"ensembles-{of}.json").read_text())["ensembles"]
    names = [f"{metric} - {model}" for model in over for metric in ("recall@20", "ndcg@20")]
    table = [f"| ensemble | weights | {' | '.join((*METRICS, *names))} |"]
    table.append(f"| --- | --- |{' ---: |' * (len(METRICS) + len(names))}")
    for row in rows:
        weights = [f"{statistics.mean(each):.2f}" for each in zip(*row["weights"], strict=True)]
        spread = row.get("deviation", {})
        cells = [f"{row['test'][metric]:.4f}" + (f" ± {spread[metric]:.4f}" if spread else "") for metric in METRICS]
        for model in over:
            for metric in ("recall@20", "ndcg@20"):
                test = row["over"][model][metric]
                alike = test["p"] is None  # for every user
                cells.append("the same" if alike else f"{test['difference']:+.4f}, p {p_value(test['p'])}")
        table.append(f"| {row['ensemble'].replace('+', ' + ')} | {', '.join(weights)} | {' | '.join(cells)} |")
    return "\n".join(table) + "\n"


def p_value(p: float) -> str:
    """As in a report."""
    return "< .0001" if p < 1e-4 else f"{p:.4f}".removeprefix("0")


def words(of: str) -> str:
    """What profiles change, by the share of the model in the ranking."""
    rows = json.loads((RESULTS / f"words-{of}.json").read_text())["rows"]
    names = list(rows[0])
    table = [f"| {' | '.join(names)} |", f"| --- |{' ---: |' * (len(names) - 1)}"]
    table += [f"| {' | '.join(str(row[name]) for name in names)} |" for row in rows]
    return "\n".join(table) + "\n"


def weekly(of: str) -> str:
    """A training from random weights and one from last week's model."""
    found = json.loads((RESULTS / f"weekly-{of}.json").read_text())
    goals = ("until 99 % of it", "until the best of fresh")
    table = ["| weights | epochs to 99 % of the fresh best | seconds | epochs to the fresh best | seconds |"]
    table[0] += " recall@20 | ndcg@20 |"
    table.append(f"| --- |{' ---: |' * 6}")
    for name in ("fresh", "from last week"):
        row = found[name]
        reached = [row[goal] or {"epoch": "-", "seconds": "-"} for goal in goals]
        cells = [str(each[key]) for each in reached for key in ("epoch", "seconds")]
        cells += [f"{row['test'][metric]:.4f}" for metric in ("recall@20", "ndcg@20")]
        table.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(table) + "\n"


def item_text() -> str:
    """What rows from texts cost."""
    rows = json.loads((RESULTS / "item-text.json").read_text())["rows"]
    names = ("items", "hidden", "map", "seconds of a step", "ratio", "peak GB")
    table = [f"| {' | '.join(names)} |", "| ---: | ---: | --- | ---: | ---: | ---: |"]
    for row in rows:
        cells = (f"{row['items']:,}", *(row[name] for name in names[1:]))
        table.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(table) + "\n"


def embedding() -> str:
    """Speed and memory of the encoders."""
    rows = json.loads((RESULTS / "embedding.json").read_text())
    table = ["| encoder | width | texts a second | peak MB | of these before |", "| --- | ---: | ---: | ---: | ---: |"]
    for r in rows:
        cells = (r["family"], r["width"], f"{r['texts_per_second']:.0f}", r["peak_mb"], r["peak_mb_before"])
        table.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(table) + "\n"


def phases(*recipes: str) -> str:
    """Seconds of an epoch by phase, and evaluation as a share of training."""
    rows = [row for recipe in recipes for row in json.loads((RESULTS / f"epoch-{recipe}.json").read_text())]
    names = list(rows[0]["phases"])
    table = [f"| model | products in | {' | '.join(names)} | share |", f"| --- | --- |{' ---: |' * (len(names) + 1)}"]
    for row in rows:
        training = sum(seconds for name, seconds in row["phases"].items() if name != "evaluation")
        cells = [f"{seconds:.3f}" for seconds in row["phases"].values()]
        share = f"{row['phases']['evaluation'] / training:.0%}"
        table.append(f"| {row['model']} | {row['precision']} | {' | '.join(cells)} | {share} |")
    return "\n".join(table) + "\n"


def kinds(*recipes: str) -> str:
    """Seconds of an epoch and two rankings by kind of operator, with the floor, in bf16."""
    runs = [json.loads((RESULTS / f"epoch-{recipe}.json").read_text())[1] for recipe in recipes]
    table = [f"| | {' | floor | '.join(recipes)} | floor |", f"| --- |{' ---: |' * (2 * len(recipes))}"]
    for kind in runs[0]["kinds"]:
        cells = []
        for run in runs:
            floor = run["kinds"][kind]["floor"]
            cells += [f"{run['kinds'][kind]['seconds']:.3f}", "-" if floor is None else f"{floor:.3f}"]
        table.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(table) + "\n"


def three_lines() -> str:
    """The example of python.md and the same in implicit."""
    found = json.loads((RESULTS / "three-lines.json").read_text())
    table = ["| model | recall@10 | recall@20 | ndcg@10 | ndcg@20 |", f"| --- |{' ---: |' * 4}"]
    for row in found["rows"]:
        name = f"{row['model']} {found['implicit']}" if row["model"].startswith("implicit") else row["model"]
        cells = [f"{row[metric]:.4f}" for metric in METRICS]
        table.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(table) + "\n"


SPEED = {  # kind: what the group's name is like, with its parts that name a row; and the contenders
    "mean": (r"(matching_loss \w+), mean forward\+backward, \w+ (.*)", ["eager", "compile", "floor"]),
    "rows": (r"(\w+|matching_loss \w+) forward\+backward, (?:batch|large|odd) (.*)", ["eager", "compile", "floor"]),
    "forward": (r"(gaussian_kl) forward, (.*)", ["eager"]),
    "sparse": (r"csr_aggregate (.*)", ["embedding_bag", "torch CSR", "torch CSR, out=", "scipy", "floor"]),
    "ranking": (
        r"rank_topk, (\(.*)",
        ["ours, float32", "ours, bf16", "product", "product + topk", "faiss", "implicit", "floor"],
    ),
    "few": (r"rank_topk, prepared, (.*)", ["product + topk", "faiss", "floor"]),
    "softmax": (
        r"multinomial_nll forward\+backward, (.*)",
        ["ours, bf16", "dense", "dense, compiled", "linear_cross_entropy", "floor"],
    ),
    "step": (r"training step of DMRec-M, (.*)", ["ours, bf16", "reference", "dense", "dense, bf16"]),
}


def speed(kind: str) -> str:
    """How many times ours the contenders take, by processor."""
    pattern, contenders = SPEED[kind]
    table = [f"| | processor | {' | '.join(contenders)} |", f"| --- | --- |{' ---: |' * len(contenders)}"]
    measured: dict[tuple[str, str], dict[str, float]] = {}
    for path in sorted(RESULTS.glob("ops-*.json")):
        found = json.loads(path.read_text())
        for row in found["rows"]:
            if match := re.fullmatch(pattern, row["group"]):
                key = ", ".join(match.groups()), found["machine"]["processor"]
                measured.setdefault(key, {})[row["contender"]] = row["times_ours"]
    for workload in dict.fromkeys(workload for workload, _ in measured):
        for (of, processor), times in measured.items():
            if of == workload:
                cells = [f"{times[name]:.2f}" if name in times else "-" for name in contenders]
                table.append(f"| {workload} | {processor} | {' | '.join(cells)} |")
    return "\n".join(table) + "\n"


def peers(dataset: str) -> str:
    """Seconds and memory of a Mult-VAE and of what it is compared with, by processor."""
    columns = ["version", "epoch, s", "ranking, s", "recall@20", "epochs to 99 %", "s to 99 %", "peak MiB"]
    keys = ["version", "epoch", "ranking", "recall@20", "epochs_to_99", "seconds_to_99", "peak_mib"]
    table = [f"| | processor | {' | '.join(columns)} |", f"| --- | --- | --- |{' ---: |' * (len(columns) - 1)}"]
    for path in sorted(RESULTS.glob("peers-*.json")):
        found = json.loads(path.read_text())
        for name, row in found["datasets"].get(dataset, {}).items():
            cells = [_short(row.get(key)) for key in keys]
            table.append(f"| {name} | {found['processor']} | {' | '.join(cells)} |")
    return "\n".join(table) + "\n"


SHARDED = {
    "items": "items",
    "ranks": "processes",
    "threads": "threads each",
    "seconds_of_step": "a step, s",
    "step_over_prediction": "over the prediction",
    "peak_gb": "peak, GB",
    "peak_over_prediction": "over the prediction",
    "seconds_of_ranking": "1,000 users ranked, s",
    "ranking_over_product": "over the product",
}


def sharded() -> str:
    """Steps and rankings over several processes, by processor."""
    table = [f"| processor | {' | '.join(SHARDED.values())} |", f"| --- |{' ---: |' * len(SHARDED)}"]
    for path in sorted(RESULTS.glob("sharded-*.json")):
        found = json.loads(path.read_text())
        for row in found.get("steps", []):
            cells = [f"{row['items']:,}", *(_largest(row[key]) for key in list(SHARDED)[1:])]
            table.append(f"| {found['processor']} | {' | '.join(cells)} |")
    return "\n".join(table) + "\n"


def _largest(value: typing.Any) -> str:
    return str(max(value) if isinstance(value, list) else value)


def over_shards() -> str:
    """Operators over shards against one call, by processor."""
    table = ["| processor | operator | one call, ms | over 64 shards |", "| --- | --- | ---: | ---: |"]
    for path in sorted(RESULTS.glob("sharded-*.json")):
        found = json.loads(path.read_text())
        for name, row in found.get("operators", {}).items():
            if isinstance(row, dict):
                ratio = row["shards_over_one_call"]
                table.append(f"| {found['processor']} | {name} | {row['one_call_ms']} | {ratio:.2f} |")
    return "\n".join(table) + "\n"


def ten_million() -> str:
    """Ten million items from a dataset to Parquet files, by processor."""
    table = ["| processor | step | seconds | peak of a process, GB | not mapped from files, together, GB |"]
    table.append("| --- | --- | ---: | ---: | ---: |")
    for path in sorted(RESULTS.glob("ten-million-*.json")):
        found = json.loads(path.read_text())
        users = f"{found['users']:,}"
        steps = [
            (f"training, {users} users, and a validation", found.get("training")),
            (f"a step of {found['users_of_a_step']} users", {"seconds": found["seconds_of_step"]}),
            ("1,000 users ranked", {"seconds": found["seconds_of_ranking_1000"]}),
            (f"20 recommendations for {users} users", found["recommending"]),
        ]
        if limited := found.get("recommending_in_a_control_group"):
            steps.append((f"the same, both processes and their files within {limited['limit_gb']} GB", limited))
        for name, row in steps:
            if row is not None:
                memory = [_largest(row.get(key, "")) for key in ("peak_gb", "not_mapped_together_gb")]
                table.append(f"| {found['processor']} | {name} | {row['seconds']:.3g} | {' | '.join(memory)} |")
    return "\n".join(table) + "\n"


def imports() -> str:
    """Imports that are larger than memory, by processor."""
    table = ["| processor | rows | source, GB | memory | seconds | peak, GB | users | items | interactions |"]
    table.append("| --- |" + " ---: |" * 8)
    for path in sorted(RESULTS.glob("import-*.json")):
        found = json.loads(path.read_text())
        numbers = (found["users"], found["items"], sum(found["interactions"].values()))
        cells = [f"{found['rows']:,}", f"{found['source_mb'] / 1e3:.2g}", found["memory"], f"{found['seconds']:.3g}"]
        cells += [f"{found['peak_mb'] / 1e3:.3g}", *(f"{number:,}" for number in numbers)]
        table.append(f"| {found['processor']} | {' | '.join(cells)} |")
    return "\n".join(table) + "\n"


TABLES = {
    "speed": speed,
    "ten_million": ten_million,
    "imports": imports,
    "sharded": sharded,
    "over_shards": over_shards,
    "peers": peers,
    "three_lines": three_lines,
    "quality": quality,
    "baselines": baselines,
    "cold": cold,
    "ensembles": ensembles,
    "words": words,
    "weekly": weekly,
    "item_text": item_text,
    "search": search,
    "tokenizers": tokenizers,
    "blocks": blocks,
    "embedding": embedding,
    "phases": phases,
    "kinds": kinds,
}


def _short(value: str | float | None) -> str:
    """A figure with three digits, whole numbers and words as they are."""
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _mean(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"
