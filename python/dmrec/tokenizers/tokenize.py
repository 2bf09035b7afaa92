"""From the vectors of a dataset's items to codes that are stored in it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from pydantic import ValidationError

from ..data.dataset import Dataset, check_name
from ..errors import DmrecError, did_you_mean
from ..files import sha256_of
from .base import Fitted, Report, TokenizerOptions
from .collisions import RULES, in_collisions, resolve_collisions
from .features import cooccurrence_vectors
from .health import check_health, health_of
from .rk_means import RkMeansOptions
from .rq_vae import LetterOptions, LetterRqVae, RqVaeOptions

TOKENIZERS: dict[str, type[TokenizerOptions]] = {
    each.model_fields["kind"].default: each for each in (RkMeansOptions, RqVaeOptions, LetterOptions)
}
SVD = "svd"  # vectors of co-occurrence, made here


def make_tokenizer(kind: str, **options: Any) -> TokenizerOptions:
    """The options of a tokenizer.

    Raises:
        DmrecError: the tokenizer or an option is unknown, or a value is out of range.
    """
    if kind not in TOKENIZERS:
        raise DmrecError(f"there is no tokenizer '{kind}'{did_you_mean(kind, TOKENIZERS)}")
    known = TOKENIZERS[kind].model_fields
    if unknown := [name for name in options if name not in known]:
        raise DmrecError(f"{kind} has no option '{unknown[0]}'{did_you_mean(unknown[0], known)}")
    try:
        return TOKENIZERS[kind].model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        raise DmrecError(f"{kind}, {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def tokenize_dataset(
    dataset: Dataset,
    tokenizer: TokenizerOptions,
    *,
    vectors: str | None = None,
    collaborative: str | None = None,
    collisions: str = "reassign",
    name: str | None = None,
    force: bool = False,
    report: Report = lambda figures: None,
) -> dict[str, Any]:
    """Fits a tokenizer to vectors of all items and stores the items' codes in the dataset.

    Args:
        dataset: an opened dataset.
        tokenizer: its options, see `make_tokenizer`.
        vectors: the name of text vectors, or "svd" for vectors of co-occurrence in training histories; default: the
            only text vectors, or else "svd".
        collaborative: the vectors that LETTER follows; default: "svd".
        collisions: what happens to items that share a tuple: one of `RULES`.
        name: of the codes; default: the tokenizer's, followed by that of the vectors.
        force: replace codes of that name.
        report: called with figures while the tokenizer is fitted.

    Returns:
        The name of the codes, and their health (see `health_of`) with the number of items in collisions before the
        rule.

    Raises:
        DmrecError: there are codes of that name, a rule or vectors are unknown, or the tokenizer has collapsed.
    """
    if collisions not in RULES:
        raise DmrecError(f"unknown rule for collisions '{collisions}'{did_you_mean(collisions, RULES)}")
    if vectors is None:
        vectors = SVD if not dataset.vector_names else dataset.vectors().name
    name = check_name(name or f"{tokenizer.kind}-{vectors}")
    check_free_name(dataset, name, force)
    x = _vectors(dataset, vectors, 128)
    follows = None
    if tokenizer.reads_collaborative:
        collaborative = collaborative or SVD
        follows = _vectors(dataset, collaborative, getattr(tokenizer, "latent", 32))
    fitted = tokenizer.fit(x, follows, report)
    codes, residuals = fitted.codes(x)
    check_health(codes, tokenizer.size)
    before = in_collisions(codes)
    codes, size = resolve_collisions(codes, tokenizer.size, collisions, residuals, fitted.codebooks[-1])
    made = {
        "tokenizer": tokenizer.model_dump(mode="json"),
        "vectors": vectors,
        **({"collaborative": collaborative} if follows is not None else {}),
        "collisions": collisions,
        "in_collisions_before": before,
    }
    dataset.add_codes(name, codes, size, made, safetensors.numpy.save(fitted.state))
    return {"name": name, **health_of(codes, size), "in collisions before": before}


class Restored(NamedTuple):
    """A tokenizer that was fitted, with what it was fitted to, and the rule for collisions of its codes."""

    fitted: Fitted
    vectors: np.ndarray  # (N, E) float32
    collisions: str


def restored_tokenizer(dataset: Dataset, name: str) -> Restored:
    """The tokenizer that made the codes ``name``.

    Raises:
        DmrecError: the codes were made elsewhere, or the tokenizer's file is missing or damaged.
    """
    noted = dataset.manifest["codes"][dataset.codes(name).name]["made"]
    if "state" not in noted:
        raise DmrecError(
            f"the codes '{name}' of {dataset.folder} were made elsewhere, and their tokenizer is not there: make codes "
            f"with dmrec tokenize {dataset.folder}"
        )
    path = dataset.folder / f"tokenizer.{name}.safetensors"
    if not path.exists() or sha256_of(path) != noted["state"]:
        raise DmrecError(f"{path} is missing or differs from its checksum: make the codes again (--force)")
    options = make_tokenizer(**noted["tokenizer"])
    fitted = options.restored(safetensors.numpy.load_file(path))
    if isinstance(fitted.tokenizer, LetterRqVae):
        fitted.tokenizer.follow(_vectors(dataset, noted["collaborative"], fitted.codebooks.shape[2]))
    return Restored(fitted, _vectors(dataset, noted["vectors"], 128), noted["collisions"])


def import_codes(
    dataset: Dataset,
    codes: np.ndarray,
    name: str,
    *,
    collisions: str | None = None,
    force: bool = False,
    source: str = "",
) -> dict[str, Any]:
    """Stores codes (N, levels) that were made elsewhere; see `tokenize_dataset`.

    Raises:
        DmrecError: these are not codes of the items, or items share a tuple and ``collisions`` does not say what
            happens to them.
    """
    check_free_name(dataset, check_name(name), force)
    codes = np.asarray(codes)
    size = int(codes.max()) + 1 if codes.size and np.issubdtype(codes.dtype, np.integer) else 1
    size = max(size, 2)
    before = in_collisions(codes) if codes.ndim == 2 else 0
    if before and collisions is None:
        raise DmrecError(
            f"{before} items share all their codes with another; choose what happens to them: --collisions reassign, "
            "token or keep"
        )
    if before and collisions == "sinkhorn":
        raise DmrecError("--collisions sinkhorn needs the vectors that codes were made from: choose reassign or token")
    if before and collisions is not None:
        codes, size = resolve_collisions(codes.astype(np.int64), size, collisions)
    dataset.add_codes(name, codes, size, {"source": source, "collisions": collisions, "in_collisions_before": before})
    return {"name": name, **health_of(np.asarray(codes, dtype=np.int64), size), "in collisions before": before}


def check_free_name(dataset: Dataset, name: str, force: bool) -> None:
    """Raises an error if there are codes of this name that are not to be replaced."""
    if name in dataset.code_names and not force:
        raise DmrecError(
            f"dataset {dataset.name} has codes '{name}', and models may have been trained with them: choose another "
            "name (--name) or replace them (--force)"
        )


def _vectors(dataset: Dataset, name: str, width: int) -> np.ndarray:
    if name == SVD and SVD not in dataset.vector_names:
        return cooccurrence_vectors(dataset, width)
    return np.asarray(dataset.vectors(name).items, dtype=np.float32)
