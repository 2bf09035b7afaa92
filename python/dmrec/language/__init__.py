"""The language side of the recommender: profiles of items and users, and the vectors of texts.

`profiles` writes short texts about items and users, `encoders` turns texts into vectors, `embed` stores the vectors of
a whole dataset. Encoders and profiles do not import each other; `openai_client` lies below both.
"""
