"""All families of encoders by name, and how one is made again from what a dataset's manifest says."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from ...data.dataset import MANIFEST, Dataset, check_name
from ...errors import DmrecError, did_you_mean
from ...files import sha256_of
from ..openai_client import OPENAI, is_local
from .base import TextEncoder
from .openai import EmbeddingsEndpoint
from .sentence_transformers import MiniLm, SentenceTransformers
from .tfidf import TfidfSvd
from .wordllama import WordLlama

ENCODERS: dict[str, Callable[..., TextEncoder]] = {
    each.family: each for each in (TfidfSvd, MiniLm, WordLlama, SentenceTransformers, EmbeddingsEndpoint)
}
"""By family."""

OPTIONS = {family: set(inspect.signature(make).parameters) for family, make in ENCODERS.items()}
"""What each can be told."""


def make_encoder(family: str, **options: Any) -> TextEncoder:
    """The encoder of this family with these options."""
    if family not in ENCODERS:
        raise DmrecError(f"no encoder is called '{family}'{did_you_mean(family, ENCODERS)}")
    missing = [
        name.replace("_", "-")
        for name, option in inspect.signature(ENCODERS[family]).parameters.items()
        if option.default is option.empty and name not in options
    ]
    if missing:
        raise DmrecError(f"the encoder {family} needs {' and '.join(f'--{name}' for name in missing)}")
    return ENCODERS[family](**options)


def encoder_of(dataset: Dataset, name: str, key_variable: str | None = None) -> TextEncoder:
    """The encoder that made the vectors called ``name``, to place other texts in their space.

    A dataset may be anybody's: it does not decide which key a server gets, but for OpenAI's own and servers of this
    machine; ``key_variable`` does.
    """
    made = dataset.manifest["vectors"][name]["made"].get("encoder")
    if not isinstance(made, dict):
        raise DmrecError(
            f"the vectors '{name}' of {dataset.folder} were imported, and what made them is not known: "
            "name it, if it was one of minilm, wordllama or a folder of a sentence-transformers model (--encoder)"
        )
    options = {key: value for key, value in made.items() if key != "state"}
    if options["family"] == EmbeddingsEndpoint.family:
        variable, server = options.get("key_variable", "OPENAI_API_KEY"), options.get("base_url", OPENAI)
        usual = is_local(server) or (server, variable) == (OPENAI, "OPENAI_API_KEY")
        if key_variable is None and not usual and os.environ.get(str(variable)):
            raise DmrecError(
                f"the vectors '{name}' come from {server}: if it may have the key in {variable}, say so "
                f"(--key-variable {variable}); --key-variable '' sends none"
            )
        options["key_variable"] = variable if key_variable is None else key_variable
    encoder = make_encoder(**options)
    if "state" in made:
        path = dataset.folder / f"encoder.{check_name(name)}.npz"
        if not path.exists() or sha256_of(path) != made["state"]:
            raise DmrecError(f"{path} is missing, or differs from its checksum in {MANIFEST}; run dmrec embed again")
        with np.load(path, allow_pickle=False) as state:
            encoder.restore(dict(state))
    return encoder
