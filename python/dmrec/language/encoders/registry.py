"""The one place where a text encoder is chosen: by its family, or from the manifest of a dataset."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ...data.dataset import MANIFEST, Dataset, check_name
from ...errors import DmrecError, did_you_mean
from ...files import sha256_of
from .base import TextEncoder

MODEL_FOLDER = "sentence-transformers"
"""Family of the encoder that is used if a folder is named in place of a family; its argument is ``folder``."""

ENCODERS: dict[str, type[TextEncoder]] = {}
"""All registered encoders by family."""

AnyEncoder = TypeVar("AnyEncoder", bound=TextEncoder)


def register_encoder(encoder: type[AnyEncoder]) -> type[AnyEncoder]:
    """Registers a subclass of `TextEncoder` under its ``family``; used as a decorator of the class.

    `make_encoder` and ``dmrec embed --encoder`` know it from then on. A class that was registered under the same family
    before is replaced.
    """
    ENCODERS[encoder.family] = encoder
    return encoder


def make_encoder(family: str, **options: Any) -> TextEncoder:
    """The encoder of a family with the given arguments of its constructor.

    Args:
        family: a key of `ENCODERS`, or the path of a folder with a sentence-transformers model.
        options: arguments of the encoder's constructor.

    Raises:
        DmrecError: the family is unknown, or an option is missing or not one of the encoder's.
    """
    if family not in ENCODERS and Path(family).is_dir():
        family, options = MODEL_FOLDER, {"folder": family, **options}
    if family not in ENCODERS:
        raise DmrecError(f"there is no encoder '{family}', nor a folder of that name{did_you_mean(family, ENCODERS)}")
    parameters = inspect.signature(ENCODERS[family]).parameters
    for name in options:
        if name not in parameters:
            known = did_you_mean(name, parameters) if parameters else "; it has no options"
            raise DmrecError(f"the encoder {family} has no option '{name}'{known}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in options:
            raise DmrecError(f"the encoder {family} needs the option '{name}'")
    return ENCODERS[family](**options)


def encoder_of(
    dataset: Dataset,
    vectors: str,
    given: TextEncoder | None,
    key_variable: str | None,
    loaded: dict[str, TextEncoder],
) -> TextEncoder:
    """The encoder that made vectors of a dataset, or ``given`` where they were imported.

    ``loaded``: encoders that are loaded already, by name of vectors; one that is loaded is added.

    Raises:
        DmrecError: an encoder is given for vectors whose encoder is known; or as `load_encoder`.
    """
    if given is not None:
        if dataset.manifest["vectors"][vectors]["made"].get("encoder"):
            raise DmrecError(
                f"the encoder of the vectors '{vectors}' is known, and another one cannot be used: leave out --encoder"
            )
        return given
    if vectors not in loaded:
        loaded[vectors] = load_encoder(dataset, vectors, key_variable)
    return loaded[vectors]


def load_encoder(dataset: Dataset, vectors: str, key_variable: str | None = None) -> TextEncoder:
    """The encoder that made vectors of a dataset, to place other texts in their space.

    Args:
        dataset: an opened dataset.
        vectors: the name of the vectors in it.
        key_variable: the environment variable with the key for the server that made the vectors; "" sends no key. A
            dataset may come from anybody, so what its manifest names is used for OpenAI's own server and for servers
            on this machine alone.

    Raises:
        DmrecError: the vectors were imported, their encoder is not registered, its learned state is damaged, or the
            manifest names a server and a key that are not allowed without ``key_variable``.
    """
    recorded = dataset.manifest["vectors"][vectors]["made"].get("encoder")
    if not isinstance(recorded, dict):
        raise DmrecError(
            f"the vectors '{vectors}' of {dataset.folder} were imported, so their encoder is not known: if it was "
            "minilm, wordllama or a folder of a sentence-transformers model, name it (--encoder)"
        )
    family = str(recorded.get("family"))
    if family not in ENCODERS:
        raise DmrecError(
            f"the vectors '{vectors}' were made by the encoder '{family}', which is not registered: "
            "import the module that registers it"
        )
    options = {key: value for key, value in recorded.items() if key not in ("family", "state")}
    encoder = make_encoder(family, **ENCODERS[family].options_from_manifest(options, key_variable))
    if (path := state_of_encoder(dataset, vectors)) is not None:
        with np.load(path, allow_pickle=False) as state:
            encoder.load_state_dict(dict(state))
    return encoder


def state_of_encoder(dataset: Dataset, vectors: str) -> Path | None:
    """The file with what the encoder of vectors has learned; None where it has learned nothing, or is not known.

    Raises:
        DmrecError: the file is missing or damaged.
    """
    recorded = dataset.manifest["vectors"][vectors]["made"].get("encoder")
    if not isinstance(recorded, dict) or "state" not in recorded:
        return None
    path = dataset.folder / f"encoder.{check_name(vectors)}.npz"
    if not path.exists() or sha256_of(path) != recorded["state"]:
        raise DmrecError(f"{path} is missing or differs from its checksum in {MANIFEST}; run dmrec embed again")
    return path
