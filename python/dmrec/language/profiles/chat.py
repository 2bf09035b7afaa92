"""A language model that writes profiles: one request to an OpenAI-compatible server, and how its response is read."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ...data.entities import clean
from ..openai_client import OpenAIClient, RequestError, words_of
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
CUT_OFF = ("length", "max_tokens", "max_length")
FILTERED = ("content_filter", "safety", "blocklist", "prohibited_content")
"""Reasons for the end of an answer that make it useless, in lower case. Servers have many words for the usual end."""
NO_TOKENS = (0, 0)  # an error costs none
JSON = json.JSONDecoder()


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
        parameters = self._parameters
        try:
            return self._read(self._create(messages, parameters))
        except RequestError as error:
            if not (error.rejected and "max_tokens" in parameters and "max_completion_tokens" in str(error)):
                raise
        # the server has another name for the limit, and says so
        renamed = {name.replace("max_tokens", "max_completion_tokens"): value for name, value in parameters.items()}
        reply = self._read(self._create(messages, renamed))
        self._parameters = renamed
        return reply

    def _create(self, messages: list[dict[str, str]], parameters: dict[str, Any]) -> Any:
        request: dict[str, Any] = {"model": self.model, "messages": messages, "extra_body": parameters}
        return self.call(lambda client: client.chat.completions.create(**request))

    def _read(self, completion: Any) -> Reply:
        try:
            (choice,) = completion.choices
            reason, content, refusal = choice.finish_reason, choice.message.content, choice.message.refusal
        except (AttributeError, TypeError, ValueError):
            words = self.redact(words_of(completion)) or "the response does not hold a completion"
            raise RequestError("malformed", words, tokens=NO_TOKENS) from None
        tokens, reason = _tokens(completion), str(reason or "").lower()
        if reason in FILTERED or refusal:
            raise RequestError("content_filter", self.redact(refusal or ""), retryable=False, tokens=tokens)
        if reason in CUT_OFF:
            raise RequestError("truncated", "the answer is longer than its limit (--answer-tokens)", tokens=tokens)
        text = _text_of(content)
        profile = profile_in(text)
        if profile is None:
            raise RequestError("malformed", f"no profile in the answer: {self.redact(text[:120])}", tokens=tokens)
        if self.contains_key(profile):
            raise RequestError("malformed", "the answer contains the key", tokens=tokens)
        profile = clean(profile, MAX_PROFILE)
        if not profile:
            raise RequestError("malformed", "the profile is blank", tokens=tokens)
        return Reply(profile, tokens)


def profile_in(answer: str) -> str | None:
    """The profile of the first JSON object in an answer that has one, whatever is around it: a Markdown fence, words,
    or what the model thought (``<think>..</think>``) before.
    """
    answer = answer.rpartition("</think>")[2]
    for start in (found.start() for found in re.finditer("{", answer)):
        with suppress(ValueError, RecursionError):
            found, _ = JSON.raw_decode(answer, start)
            if isinstance(found, dict) and isinstance(found.get("profile"), str):
                return str(found["profile"])
    return None


def _text_of(content: Any) -> str:
    """The text of a message, whose content may be a list of parts."""
    if isinstance(content, list):
        parts = [part.get("text", "") if isinstance(part, dict) else getattr(part, "text", "") for part in content]
        return "".join(map(str, parts))
    return str(content or "")


def _tokens(completion: Any) -> tuple[int, int] | None:
    """Tokens of prompt and response as the server counted them, None where it did not count both."""
    try:
        return int(completion.usage.prompt_tokens), int(completion.usage.completion_tokens)
    except (AttributeError, TypeError, ValueError):
        return None
