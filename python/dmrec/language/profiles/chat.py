"""A language model that writes profiles: one call of an OpenAI-compatible server, and what is read from its answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...data.entities import clean
from ..openai_client import FaultError, Server
from .write import LONGEST

SCHEMA = {
    "type": "object",
    "properties": {"profile": {"type": "string"}},
    "required": ["profile"],
    "additionalProperties": False,
}
FORMATS: dict[str, dict[str, Any]] = {
    "json_schema": {"type": "json_schema", "json_schema": {"name": "profile", "strict": True, "schema": SCHEMA}},
    "json_object_schema": {"type": "json_object", "schema": SCHEMA},  # llama.cpp's
    "json_object": {"type": "json_object"},
    "none": {},
}


class Profile(BaseModel):
    """What a model must answer."""

    model_config = ConfigDict(strict=True, extra="forbid")

    profile: str = Field(min_length=1)


@dataclass(frozen=True)
class Reply:
    """A usable answer and the tokens it took, where the server says."""

    text: str
    tokens: tuple[int, int] | None


class Endpoint(Server):
    """A server, a model, and how it is asked."""

    def __init__(
        self,
        model: str,
        base_url: str,
        key_variable: str,
        timeout: float,
        parameters: dict[str, Any],
        answer_format: str,
    ) -> None:
        super().__init__(model, base_url, key_variable, timeout)
        self.answer_format = answer_format
        asked = {"response_format": FORMATS[answer_format]} if FORMATS[answer_format] else {}
        self._parameters = {**parameters, **asked}

    def ask(self, instructions: str, text: str) -> Reply:
        """One call.

        Raises:
            FaultError: this prompt has no answer, or not yet.
            DmrecError: no prompt will have one.
        """
        messages = [{"role": "system", "content": instructions}, {"role": "user", "content": text}]
        asked = {"model": self.model, "messages": messages, "extra_body": self._parameters}
        return self._read(self.call(lambda client: client.chat.completions.create(**asked)))

    def _read(self, completion: Any) -> Reply:
        try:
            (choice,) = completion.choices
            reason, content, refusal = choice.finish_reason, choice.message.content, choice.message.refusal
        except (AttributeError, TypeError, ValueError):
            raise FaultError("malformed", "no completion in the server's answer") from None
        tokens = _tokens(completion)
        if reason == "content_filter" or refusal:
            raise FaultError("content_filter", self.safe(refusal or ""), again=False, tokens=tokens)
        if reason == "length":
            raise FaultError("truncated", "the answer needs more than --answer-tokens", tokens=tokens)
        if reason != "stop":
            raise FaultError("malformed", f"finish_reason {self.safe(reason)}", tokens=tokens)
        text = str(content)
        if self.answer_format == "none":
            text = text[max(text.find("{"), 0) : text.rfind("}") + 1]
        try:
            profile = Profile.model_validate_json(text).profile
        except ValidationError as error:
            raise FaultError("malformed", str(error.errors()[0]["msg"]), tokens=tokens) from None
        if self._secret and self._key in profile:
            raise FaultError("malformed", "the answer has the key in it", tokens=tokens)
        profile = clean(profile, LONGEST)
        if not profile:
            raise FaultError("malformed", "the profile is blank", tokens=tokens)
        return Reply(profile, tokens)


def _tokens(completion: Any) -> tuple[int, int] | None:
    """What the server counted, None where it did not count both."""
    try:
        return int(completion.usage.prompt_tokens), int(completion.usage.completion_tokens)
    except (AttributeError, TypeError, ValueError):
        return None
