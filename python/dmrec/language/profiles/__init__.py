"""Profiles: short texts about items and users, from templates or from a language model.

`prompts` are filled with data by `requests`; a `writer` turns requests into texts; `write` stores them in a dataset.
The language model's side: `llm_writer` over `worker_pool`, `chat`, `rate_limiter`, `circuit_breaker` and
`response_cache`.
"""
