"""A language model that writes profiles: one request to an OpenAI-compatible server, and how its response is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...data.entities import clean
from ..openai_client import OpenAIClient, RequestError
from .writer import MAX_PROFILE

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
"""The ``response_format`` of a request by the name that ``answer_format`` takes."""


class Profile(BaseModel):
    """The JSON object that a model must answer with."""

    model_config = ConfigDict(strict=True, extra="forbid")

    profile: str = Field(min_length=1)


@dataclass(frozen=True)
class Reply:
    """A profile, and the tokens of prompt and response as the server counted them, None where it did not."""

    text: str
    tokens: tuple[int, int] | None


class ChatClient(OpenAIClient):
    """An `OpenAIClient` for chat completions.

    Args:
        parameters: sent with every request, such as ``max_tokens`` and ``temperature``.
        answer_format: a key of `FORMATS`.
    """

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
        response_format = {"response_format": FORMATS[answer_format]} if FORMATS[answer_format] else {}
        self._parameters = {**parameters, **response_format}

    def complete(self, instructions: str, text: str) -> Reply:
        """One request: the instructions as system message, the text as user message.

        Raises:
            RequestError: this prompt does not have a usable response, or not yet.
            DmrecError: no prompt will have one.
        """
        messages = [{"role": "system", "content": instructions}, {"role": "user", "content": text}]
        request = {"model": self.model, "messages": messages, "extra_body": self._parameters}
        return self._read(self.call(lambda client: client.chat.completions.create(**request)))

    def _read(self, completion: Any) -> Reply:
        try:
            (choice,) = completion.choices
            reason, content, refusal = choice.finish_reason, choice.message.content, choice.message.refusal
        except (AttributeError, TypeError, ValueError):
            raise RequestError("malformed", "the response does not hold a completion") from None
        tokens = _tokens(completion)
        if reason == "content_filter" or refusal:
            raise RequestError("content_filter", self.redact(refusal or ""), retryable=False, tokens=tokens)
        if reason == "length":
            raise RequestError("truncated", "the answer is longer than its limit (--answer-tokens)", tokens=tokens)
        if reason != "stop":
            raise RequestError("malformed", f"finish_reason {self.redact(reason)}", tokens=tokens)
        text = str(content)
        if self.answer_format == "none":
            text = text[max(text.find("{"), 0) : text.rfind("}") + 1]
        try:
            profile = Profile.model_validate_json(text).profile
        except ValidationError as error:
            raise RequestError("malformed", str(error.errors()[0]["msg"]), tokens=tokens) from None
        if self.contains_key(profile):
            raise RequestError("malformed", "the answer contains the key", tokens=tokens)
        profile = clean(profile, MAX_PROFILE)
        if not profile:
            raise RequestError("malformed", "the profile is blank", tokens=tokens)
        return Reply(profile, tokens)


def _tokens(completion: Any) -> tuple[int, int] | None:
    """Tokens of prompt and response as the server counted them, None where it did not count both."""
    try:
        return int(completion.usage.prompt_tokens), int(completion.usage.completion_tokens)
    except (AttributeError, TypeError, ValueError):
        return None
