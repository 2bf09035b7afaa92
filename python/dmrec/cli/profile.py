"""``dmrec profile``: short texts of items and users, by templates or by a language model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import rich.progress
import typer

from ..data.dataset import Dataset, check_name, open_dataset
from ..errors import DmrecError, did_you_mean
from ..language.profiles.prompts import ENDINGS, read_prompts, write_prompts
from ..language.profiles.write import Outcome, Sampling, TemplateWriter, Writer, iterate_requests, write_profiles
from .console import errors, output, print_table

if TYPE_CHECKING:
    from ..language.profiles.llm_writer import LlmWriter
    from ..language.profiles.prompts import Prompt

SHOWN = 5
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
            output.print(str(path), highlight=False, markup=False)
        raise typer.Exit


def profile(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Dataset folder.")],
    writer: Annotated[str, typer.Option(help="template or llm.")] = "template",
    name: Annotated[str | None, typer.Option(help="Default: template, or the model.", show_default=False)] = None,
    sample: Annotated[int, typer.Option(min=1, help="Training interactions of a user in a prompt, at most.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace profiles that have more texts.")] = False,
    prompts: Annotated[Path | None, typer.Option(help="Folder of edited prompts.", show_default=False)] = None,
    write_prompts: Annotated[
        Path | None,
        typer.Option(
            callback=_write_prompts, is_eager=True, help="Write the prompts into this folder to be edited, then stop."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="As the server calls it.", show_default=False)] = None,
    base_url: Annotated[str, typer.Option(help="Any OpenAI-compatible server.")] = "https://api.openai.com/v1",
    key_variable: Annotated[
        str, typer.Option(help="Environment variable with the key; '' sends none.")
    ] = "OPENAI_API_KEY",
    answer_format: Annotated[
        str, typer.Option(help="json_schema, json_object_schema (llama.cpp), json_object or none, as the server can.")
    ] = "json_schema",
    answer_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer, at most.")] = 800,
    temperature: Annotated[float | None, typer.Option(min=0, help="Default: the server's.", show_default=False)] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Answers. Default: FOLDER/answers.sqlite.", show_default=False)
    ] = None,
    attempts: Annotated[int, typer.Option(min=1, help="For each prompt.")] = 6,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds a call may take.")] = 60.0,
    concurrency: Annotated[int, typer.Option(min=1, help="Calls at the same time.")] = 4,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="At most.", show_default=False)] = None,
    max_calls: Annotated[int | None, typer.Option(min=0, help="Budget of this run.", show_default=False)] = None,
    max_tokens: Annotated[int | None, typer.Option(min=0, help="Budget of this run.", show_default=False)] = None,
    input_price: Annotated[float, typer.Option(min=0, help="Of a million tokens of prompts.")] = 0.0,
    output_price: Annotated[float, typer.Option(min=0, help="Of a million tokens of answers.")] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be asked and its cost.")] = False,
) -> None:
    """Write a short text of every item and of every user's training interactions, to be turned into vectors.

    template: the data in a sentence; needs no language model. llm: a language model behind any OpenAI-compatible
    server. Its answers are kept: the same command goes on where it was stopped, and tries again what failed. The key is
    read from the environment.

    Examples:

    - `dmrec profile data/ml-100k`
    - `dmrec profile data/shop --writer llm --model gpt-4o-mini --dry-run --input-price 0.15 --output-price 0.6`
    - `dmrec profile data/shop --writer llm --model qwen3 --base-url http://localhost:8080/v1`
    - `dmrec profile data/shop --write-prompts prompts`, then `--prompts prompts`
    """
    del write_prompts
    if writer not in ENDINGS:
        raise DmrecError(f"no writer is called '{writer}'{did_you_mean(writer, ENDINGS)}")
    wording, sampling = read_prompts(writer, prompts), Sampling(sample, seed)
    if writer == "template":
        _refuse_unused(context)
        _run(open_dataset(folder), TemplateWriter(), wording, sampling, name, force)
        return
    from ..language.profiles.chat import FORMATS
    from ..language.profiles.llm_writer import LlmWriter
    from ..language.profiles.rate_limiter import Limits

    if not model:
        raise DmrecError("name the language model: --model, as its server calls it")
    if answer_format not in FORMATS:
        raise DmrecError(f"--answer-format '{answer_format}' is not known{did_you_mean(answer_format, FORMATS)}")
    llm = LlmWriter(
        model,
        cache or folder / "answers.sqlite",
        base_url=base_url,
        key_variable=key_variable,
        answer_format=answer_format,
        answer_tokens=answer_tokens,
        temperature=temperature,
        limits=Limits(attempts, timeout, concurrency, requests_per_minute, max_calls, max_tokens),
        tell=lambda message: errors.print(message, highlight=False, markup=False),
    )
    check_name(name or llm.name)
    dataset = open_dataset(folder)
    if dry_run:
        _estimate(dataset, llm, wording, sampling, input_price, output_price)
        return
    try:
        _run(dataset, llm, wording, sampling, name, force)
    except KeyboardInterrupt:
        errors.print("stopped; what was answered is kept, the same command goes on", highlight=False)
        raise typer.Exit(130) from None
    finally:
        if llm.meter.calls:
            _bill(llm, input_price, output_price)


def _run(
    dataset: Dataset, writer: Writer, prompts: dict[str, Prompt], sampling: Sampling, name: str | None, force: bool
) -> None:
    """Writes and stores the profiles, says what became of them."""
    missing: list[Outcome] = []
    bar = rich.progress.Progress(console=errors, transient=True, disable=not errors.is_terminal)
    with bar:
        task = bar.add_task("profiles", total=dataset.n_items + dataset.n_users)

        def watch(outcome: Outcome) -> None:
            bar.advance(task)
            if outcome.reason:
                missing.append(outcome)

        made = write_profiles(dataset, writer, prompts, sampling, name=name, force=force, watch=watch)
    rows = [[side, *counts.values()] for side, counts in made["counts"].items()]
    columns = ["", *made["counts"]["items"]]
    print_table(f"{dataset.name}: profiles '{name or writer.name}'", columns, rows)
    if missing:
        missing.sort(key=lambda outcome: not outcome.asked)
        for outcome in missing[:SHOWN]:
            identity = getattr(dataset, outcome.side)[outcome.row].id
            errors.print(f"{outcome.side[:-1]} {identity}: {outcome.reason}", highlight=False, markup=False)
        if len(missing) > SHOWN:
            errors.print(f".. and {len(missing) - SHOWN} more", highlight=False)
        raise DmrecError(f"{len(missing)} profiles are missing; the same command asks for these alone")


def _estimate(
    dataset: Dataset,
    llm: LlmWriter,
    prompts: dict[str, Prompt],
    sampling: Sampling,
    input_price: float,
    output_price: float,
) -> None:
    found = llm.estimate(iterate_requests(dataset, prompts, sampling))
    output.print(
        f"{found.prompts} prompts, {found.answered} answered already, {found.calls} different ones to ask\n"
        f"about {found.input_tokens} tokens of prompts (4 bytes a token), at most {found.output_tokens} of answers "
        f"(--answer-tokens)\ncost at most {_cost(found, input_price, output_price)}, repeated attempts aside",
        highlight=False,
    )


def _bill(llm: LlmWriter, input_price: float, output_price: float) -> None:
    meter = llm.meter
    faults = ", ".join(f"{count} {kind}" for kind, count in sorted(meter.faults.items()))
    errors.print(
        f"{meter.calls} calls ({faults or 'no faults'}), {meter.input_tokens} tokens of prompts, {meter.output_tokens} "
        f"of answers, cost {_cost(meter, input_price, output_price)}",
        highlight=False,
    )


def _cost(tokens: Any, input_price: float, output_price: float) -> str:
    if not input_price and not output_price:
        return "unknown (--input-price, --output-price)"
    return f"about {(tokens.input_tokens * input_price + tokens.output_tokens * output_price) / 1e6:.2f}"


def _refuse_unused(context: typer.Context) -> None:
    """Options that were given and would do nothing."""
    for name in FOR_LLM:
        given = context.get_parameter_source(name)
        if given is not None and given.name == "COMMANDLINE":
            raise DmrecError(f"--{name.replace('_', '-')} is for language models: add --writer llm, or leave it out")
