"""WordLlama's static token vectors: a text's vector is the mean of the vectors of its tokens. Fast and offline.

The loader of the package looks for its tokenizer on the network, so the two files in the package are read directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DmrecError
from .base import TextEncoder, l2_normalize
from .registry import register_encoder

TABLE = "weights/l2_supercat_256.safetensors"
TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"
MAX_TOKENS = 512  # a longer text is cut


@register_encoder
class WordLlama(TextEncoder):
    """Vectors of 256 dimensions; the order of the words in a text has no influence on them."""

    family = "wordllama"

    @cached_property
    def _loaded(self) -> tuple[Any, np.ndarray]:
        """Tokenizer and table (tokens, 256)."""
        found = find_spec("wordllama")
        if found is None or not found.submodule_search_locations:
            raise DmrecError("the encoder wordllama needs a package: pip install 'dmrec[text]'")
        folder = Path(found.submodule_search_locations[0])
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        tokenizer.no_padding()
        tokenizer.enable_truncation(MAX_TOKENS)
        return tokenizer, load_file(folder / TABLE)["embedding.weight"]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(len(texts), 256) float32 unit vectors; a text without a known token gives zeros."""
        tokenizer, table = self._loaded
        vectors = np.zeros((len(texts), table.shape[1]), dtype=np.float32)
        for row, tokens in enumerate(tokenizer.encode_batch(list(texts), add_special_tokens=False)):
            if tokens.ids:
                vectors[row] = table[tokens.ids].astype(np.float32).mean(axis=0)
        return l2_normalize(vectors)
