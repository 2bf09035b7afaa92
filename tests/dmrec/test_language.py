"""TF-IDF with truncated SVD."""

import numpy as np
import pytest
from dmrec.errors import DmrecError
from dmrec.language.encoder import embed_dataset
from dmrec.language.tfidf import TfidfSvd

TEXTS = ["red apple fruit", "green apple fruit", "fast red car", "slow green car", "apple car", ""]


def test_vectors_are_unit_and_follow_shared_words():
    vectors = TfidfSvd(3).encode(TEXTS)
    assert vectors.shape == (6, 3)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors[:5], axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(vectors[5], 0)
    alike = vectors @ vectors.T
    assert alike[0, 1] > alike[0, 3]
    assert alike[2, 3] > alike[1, 2]


def test_full_width_keeps_the_cosines():
    """At full rank the SVD is a rotation: cosines are those of the TF-IDF rows."""
    texts = [text for text in TEXTS if text]
    words = ["apple", "car", "fruit", "green", "red"]
    counts = np.array([[text.split().count(word) for word in words] for text in texts], dtype=float)
    weighted = counts * np.log(len(texts) / (counts > 0).sum(0))
    weighted /= np.linalg.norm(weighted, axis=1, keepdims=True)
    vectors = TfidfSvd(4).encode(texts)
    exact = weighted @ weighted.T
    assert np.linalg.matrix_rank(weighted) <= 4
    np.testing.assert_allclose(vectors @ vectors.T, exact, atol=1e-6)


def test_the_same_texts_give_the_same_bits():
    np.testing.assert_array_equal(TfidfSvd(3).encode(TEXTS), TfidfSvd(3).encode(TEXTS))


def test_too_little_text():
    with pytest.raises(DmrecError, match="TF-IDF needs more text: 2 texts share 0 words"):
        TfidfSvd(3).encode(["one", "two"])


def test_any_encoder_fits(dataset, monkeypatch):
    class Lengths:
        name = "lengths"

        def describe(self):
            return {"encoder": "length of the text"}

        def encode(self, texts):
            return np.array([[len(text), 1.0] for text in texts])

    stored = {}
    monkeypatch.setattr(type(dataset), "add_vectors", lambda self, *args: stored.update(args=args))
    assert embed_dataset(dataset, Lengths()) == "lengths"
    name, items, users, made = stored["args"]
    assert (name, items.shape, users.shape) == ("lengths", (48, 2), (120, 2))
    assert made["encoder"] == "length of the text"
