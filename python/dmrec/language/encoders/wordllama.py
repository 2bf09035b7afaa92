"""WordLlama's static word vectors: a text is the mean of its pieces' vectors. Fast, offline, no network to run.

The package's own loader looks for its tokenizer on the network, so the two files in it are read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DmrecError
from .base import TextEncoder, unit

TABLE = "weights/l2_supercat_256.safetensors"
TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"
LONGEST = 512  # pieces of a text


class WordLlama(TextEncoder):
    """256 dimensions; the order of words does not matter to it."""

    family = "wordllama"

    def options(self) -> dict[str, Any]:
        """There are none."""
        return {}

    @cached_property
    def _loaded(self) -> tuple[Any, np.ndarray]:
        """Tokenizer and table (pieces, 256)."""
        found = find_spec("wordllama")
        if found is None or not found.submodule_search_locations:
            raise DmrecError("the encoder wordllama needs a package: pip install 'dmrec[text]'")
        folder = Path(found.submodule_search_locations[0])
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        tokenizer.no_padding()
        tokenizer.enable_truncation(LONGEST)
        return tokenizer, load_file(folder / TABLE)["embedding.weight"]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(len(texts), 256) float32 unit vectors."""
        tokenizer, table = self._loaded
        vectors = np.zeros((len(texts), table.shape[1]), dtype=np.float32)
        for row, pieces in enumerate(tokenizer.encode_batch(list(texts), add_special_tokens=False)):
            if pieces.ids:
                vectors[row] = table[pieces.ids].astype(np.float32).mean(axis=0)
        return unit(vectors)
