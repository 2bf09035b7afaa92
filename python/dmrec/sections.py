"""The base of everything that is configured."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Immutable; no keys but the declared ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)
