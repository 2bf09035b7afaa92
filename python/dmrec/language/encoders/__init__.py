"""Text encoders: each turns texts into vectors of one space. An encoder is one file, imported here to be registered."""

from . import openai, sentence_transformers, tfidf, wordllama
from .base import TextEncoder, l2_normalize
from .registry import ENCODERS, encoder_of, load_encoder, make_encoder, register_encoder

__all__ = [
    "ENCODERS",
    "TextEncoder",
    "encoder_of",
    "l2_normalize",
    "load_encoder",
    "make_encoder",
    "openai",
    "register_encoder",
    "sentence_transformers",
    "tfidf",
    "wordllama",
]
