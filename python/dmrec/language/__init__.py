"""The language side: texts in, vectors out."""
