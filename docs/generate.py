"""Writes what follows from the code and from results: command-line.md, configuration.md, tables of figures.md (see
`result_tables`).

Run it as ``make docs``.
"""

from __future__ import annotations

import re
import types
import typing
from pathlib import Path

import typer
import typer.cli
import yaml
from dmrec.cli.main import app
from dmrec.config import Config
from dmrec.models.base import MODELS, ModelConfig
from dmrec.options import LARGEST_SEED
from dmrec.recipes import RECIPES
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from result_tables import TABLES

DOCS = Path(__file__).parent
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
CONFIGURATION = """# Configuration

A run is described by a configuration: a recipe, whose options a YAML file (`--config`) and then single options
(`--set training.epochs=300`, values are YAML) replace. The run's folder holds all of it in `config.yaml`, which repeats
the run if it is given as `--config` without a recipe. An unknown key is an error that names the nearest known key.

    dmrec train dmrec-m --data data/ml-100k --config my.yaml --set matching.beta=0.3

"""


def command_line() -> str:
    """Typer's own page of all commands, options and examples."""
    click_app = typer.main.get_command(app)
    with click_app.make_context("dmrec", [], resilient_parsing=True) as context:
        page = typer.cli.get_docs_for_click(obj=click_app, ctx=context, name="dmrec")
    return page.replace("# `dmrec`", "# Command line", 1).rstrip() + "\n"


def configuration() -> str:
    """A table of keys for each section, and what each recipe sets."""
    parts = [CONFIGURATION.rstrip(), *_section(Config, "")]
    parts.append("## Recipes\n\nOptions that a recipe does not name have their defaults.")
    for name, make in RECIPES.items():
        values = yaml.safe_dump(make(), sort_keys=False).rstrip()
        parts.append(f"`{name}`: {make.__doc__}\n\n```yaml\n{values}\n```")
    return "\n\n".join(parts) + "\n"


def _section(section: type[BaseModel], prefix: str) -> list[str]:
    """The section's own keys as a table, then its sections."""
    rows, below = [], []
    for name, field in section.model_fields.items():
        sections = sections_of(field)
        for each in sections:
            of_kind = f", `kind: {each.model_fields['kind'].default}`" if "kind" in each.model_fields else ""
            title = f"## `{prefix}{name}`{of_kind}\n\n{(each.__doc__ or '').strip()}"
            inner = _section(each, f"{prefix}{name}.")
            below += [f"{title}\n\n{inner[0]}" if inner[0] else title, *inner[1:]]
        if not sections and name != "kind":
            rows.append(f"| `{prefix}{name}` | {_type(field)} | {_default(field)} | {field.description or ''} |")
    table = "\n".join(["| key | value | default | |", "| --- | --- | --- | --- |", *rows]) if rows else ""
    return [table, *below]


def sections_of(field: FieldInfo) -> list[type[BaseModel]]:
    """The sections that a value may be: of a model, all kinds."""
    parts = [part for each in alternatives(field.annotation) for part in (typing.get_args(each) or [each])]  # of lists
    found = [each for each in parts if isinstance(each, type) and issubclass(each, BaseModel)]
    return list(MODELS.values()) if ModelConfig in found else found


def alternatives(annotation: typing.Any) -> list[typing.Any]:
    """The alternatives of a type."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return [each for part in typing.get_args(annotation) for each in alternatives(part)]
    return (
        alternatives(typing.get_args(annotation)[0])
        if typing.get_origin(annotation) is typing.Annotated
        else [annotation]
    )


def _type(field: FieldInfo) -> str:
    names = []
    for each in alternatives(field.annotation):
        if typing.get_origin(each) is typing.Literal:
            names += [f"`{value}`" for value in typing.get_args(each)]
        elif typing.get_origin(each) is tuple:
            inner = alternatives(typing.get_args(each)[0])[0]
            listed = {"str": "list of words", "float": "list of numbers", "int": "list of whole numbers"}
            names.append(listed[inner.__name__])
        elif each is not type(None):
            named = {
                "str": "text",
                "int": "whole number",
                "float": "number",
                "bool": "`true` or `false`",
                "Path": "path",
            }
            names.append(named[each.__name__])
    for limit in field.metadata:
        names += [
            f"{sign} {getattr(limit, word):g}"
            for word, sign in SIGNS.items()
            if hasattr(limit, word) and getattr(limit, word) != LARGEST_SEED
        ]
    return ", ".join(names)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    return "-" if value is None else f"`{yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}`"


def figures(name: str = "figures.md") -> str:
    """A page as it is, with each table under a line ``<!-- KIND .. -->`` made again from the results."""
    page = (DOCS / name).read_text()
    return re.sub(
        r"<!-- (\w+)(.*?) -->\n\n(?:\|.*\n)*\n?",
        lambda found: f"<!-- {found[1]}{found[2]} -->\n\n{TABLES[found[1]](*found[2].split())}\n",
        page,
    )


PAGES = {
    "command-line.md": command_line,
    "configuration.md": configuration,
    "figures.md": figures,
    "python.md": lambda: figures("python.md"),
    "sequential.md": lambda: figures("sequential.md"),
    "new-items.md": lambda: figures("new-items.md"),
    "ensembles.md": lambda: figures("ensembles.md"),
}

if __name__ == "__main__":
    for name, make in PAGES.items():
        (DOCS / name).write_text(make())
