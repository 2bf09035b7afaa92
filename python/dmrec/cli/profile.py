"""``dmrec profile``: short texts of items and users, by templates or by a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from ..data.dataset import Dataset, check_name, open_dataset
from ..errors import DmrecError, counted
from ..language.openai_client import OPENAI, OPENAI_KEY
from ..language.profiles.llm_writer import Estimate, LlmWriter
from ..language.profiles.prompts import Prompt, read_prompts, write_prompts
from ..language.profiles.rate_limiter import Limits, Prices, UsageMeter
from ..language.profiles.requests import Sampling, iterate_requests
from ..language.profiles.write import write_profiles
from ..language.profiles.writer import TemplateWriter, Writer
from ..options import LARGEST_SEED
from .console import errors, output, print_table

SHOWN = 5  # missing profiles whose reasons are printed
FOR_LLM = (
    "model",
    "base_url",
    "key_variable",
    "answer_format",
    "answer_tokens",
    "temperature",
    "cache",
    "attempts",
    "timeout",
    "concurrency",
    "requests_per_minute",
    "max_calls",
    "max_tokens",
    "input_price",
    "output_price",
    "dry_run",
)


def _write_prompts(folder: Path | None) -> None:
    if folder is not None:
        for path in write_prompts(folder):
            output.print(str(path))
        raise typer.Exit


def profile(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Dataset folder.")],
    writer: Annotated[str, typer.Option(help="template or llm.")] = "template",
    name: Annotated[
        str | None, typer.Option(help="Name of the profiles. Default: template, or the model's.", show_default=False)
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="Training interactions of a user in a prompt, at most.")] = 8,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the sample.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace profiles that have more texts.")] = False,
    prompts: Annotated[Path | None, typer.Option(help="Folder of edited prompts.", show_default=False)] = None,
    write_prompts: Annotated[
        Path | None,
        typer.Option(
            callback=_write_prompts, is_eager=True, help="Write the prompts into this folder to be edited, then stop."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model on the server.", show_default=False)] = None,
    base_url: Annotated[str, typer.Option(help="Address of any OpenAI-compatible server.")] = OPENAI,
    key_variable: Annotated[str, typer.Option(help="Environment variable with the key; '' sends no key.")] = OPENAI_KEY,
    answer_format: Annotated[
        str,
        typer.Option(
            help="How JSON is requested, as the server supports it: json_schema, json_object_schema (llama.cpp), "
            "json_object or none."
        ),
    ] = "json_schema",
    answer_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer, at most.")] = 800,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="Sampling temperature. Default: the server's.", show_default=False)
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="File of all answers. Default: FOLDER/answers.sqlite.", show_default=False)
    ] = None,
    attempts: Annotated[int, typer.Option(min=1, help="Calls for one prompt, at most.")] = 6,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds that a call may take.")] = 60.0,
    concurrency: Annotated[int, typer.Option(min=1, help="Calls at the same time.")] = 4,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Calls that begin within a minute, at most.", show_default=False)
    ] = None,
    max_calls: Annotated[
        int | None, typer.Option(min=0, help="Budget of calls in this run.", show_default=False)
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=0, help="Budget of tokens in this run.", show_default=False)
    ] = None,
    input_price: Annotated[float, typer.Option(min=0, help="Price of a million tokens of prompts.")] = 0.0,
    output_price: Annotated[float, typer.Option(min=0, help="Price of a million tokens of answers.")] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the calls that would be made and their cost.")] = (
        False
    ),
) -> None:
    """Write a short text about every item and about every user's training interactions, to be turned into vectors.

    template: the data in a sentence; needs no language model. llm: a language model behind any OpenAI-compatible
    server. Its answers are kept: the same command continues where it stopped and repeats what failed. The key is read
    from the environment.

    Examples:

    - `dmrec profile data/ml-100k`
    - `dmrec profile data/shop --writer llm --model gpt-4o-mini --dry-run --input-price 0.15 --output-price 0.6`
    - `dmrec profile data/shop --writer llm --model qwen3 --base-url http://localhost:8080/v1`
    - `dmrec profile data/shop --write-prompts prompts`, then `--prompts prompts`
    """
    del write_prompts
    texts, sampling, prices = read_prompts(writer, prompts), Sampling(sample, seed), Prices(input_price, output_price)
    if writer == "template":
        _refuse_unused(context)
        _run(open_dataset(folder), TemplateWriter(), texts, sampling, name, force)
        return
    if not model:
        raise DmrecError("choose the language model by its name on the server: --model")
    llm = LlmWriter(
        model,
        cache or folder / "answers.sqlite",
        base_url=base_url,
        key_variable=key_variable,
        answer_format=answer_format,
        answer_tokens=answer_tokens,
        temperature=temperature,
        limits=Limits(attempts, timeout, concurrency, requests_per_minute, max_calls, max_tokens),
        notify=lambda message: errors.print(message),
    )
    check_name(name or llm.name)
    dataset = open_dataset(folder)
    if dry_run:
        _print_estimate(llm.estimate(iterate_requests(dataset, texts, sampling)), prices)
        return
    try:
        _run(dataset, llm, texts, sampling, name, force)
    except KeyboardInterrupt:
        errors.print("stopped; all answers are kept; run the same command again to continue")
        raise typer.Exit(130) from None
    finally:
        if llm.meter.calls:
            _print_usage(llm.meter, prices)


def _run(
    dataset: Dataset, writer: Writer, prompts: dict[str, Prompt], sampling: Sampling, name: str | None, force: bool
) -> None:
    """Writes and stores the profiles, and prints their counts and what is missing."""
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("profiles", total=dataset.n_items + dataset.n_users)
        written = write_profiles(
            dataset, writer, prompts, sampling, name=name, force=force, progress=lambda outcome: bar.advance(task)
        )
    rows = [[side, *counts.values()] for side, counts in written.counts.items()]
    print_table(f"{dataset.name}: profiles '{written.name}'", ["", *written.counts["items"]], rows)
    missing = written.missing
    for outcome in missing[:SHOWN]:
        identity = getattr(dataset, outcome.side)[outcome.row].id
        errors.print(f"{outcome.side[:-1]} {identity}: {outcome.reason}")
    if len(missing) > SHOWN:
        errors.print(f".. and {len(missing) - SHOWN} more")
    if missing:
        raise DmrecError(f"{counted(len(missing), 'profile')} missing; the same command requests only these")


def _print_estimate(found: Estimate, prices: Prices) -> None:
    output.print(
        f"{found.prompts} prompts, {found.answered} answered already, {found.calls} different ones to send\n"
        f"about {found.input_tokens} tokens of prompts (4 bytes a token), at most {found.output_tokens} of answers "
        f"(--answer-tokens)\ncost at most {_cost(found, prices)}, without repeated attempts",
    )


def _print_usage(meter: UsageMeter, prices: Prices) -> None:
    failed = ", ".join(f"{count} {kind}" for kind, count in sorted(meter.errors.items()))
    errors.print(
        f"{meter.calls} calls ({failed or 'no errors'}), {meter.input_tokens} tokens of prompts, {meter.output_tokens} "
        f"of answers, cost {_cost(meter, prices)}",
    )


def _cost(tokens: Estimate | UsageMeter, prices: Prices) -> str:
    cost = prices.cost(tokens.input_tokens, tokens.output_tokens)
    return "unknown (--input-price, --output-price)" if cost is None else f"about {cost:.2f}"


def _refuse_unused(context: typer.Context) -> None:
    """Raises an error for an option of language models that was given to another writer."""
    for name in FOR_LLM:
        given = context.get_parameter_source(name)
        if given is not None and given.name == "COMMANDLINE":
            raise DmrecError(f"--{name.replace('_', '-')} is for language models: add --writer llm, or leave it out")
