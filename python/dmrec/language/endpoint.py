"""One call of an OpenAI-compatible server, and what its faults mean. The key is in the environment and nowhere else."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..data.entities import clean
from ..errors import DmrecError
from .profiles import LONGEST

OPENAI = "https://api.openai.com/v1"
PASSING = (408, 409, 425, 429)
LONGEST_WAIT = 300.0
SCHEMA = {
    "type": "object",
    "properties": {"profile": {"type": "string"}},
    "required": ["profile"],
    "additionalProperties": False,
}
FORMATS: dict[str, dict[str, Any]] = {
    "json_schema": {"type": "json_schema", "json_schema": {"name": "profile", "strict": True, "schema": SCHEMA}},
    "json_object": {"type": "json_object"},
    "none": {},
}


class FaultError(Exception):
    """A call without a usable answer: ``kind`` in a word; ``again``: whether another attempt may have one.

    ``after``: seconds that the server asks to wait; ``refused``: the server did not like the request itself;
    ``tokens``: taken nevertheless, none where unknown.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        again: bool = True,
        after: float = 0.0,
        refused: bool = False,
        tokens: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(f"{kind}: {message}" if message else kind)
        self.kind, self.again, self.after, self.refused, self.tokens = kind, again, after, refused, tokens


class Profile(BaseModel):
    """What a model must answer."""

    model_config = ConfigDict(strict=True, extra="forbid")

    profile: str = Field(min_length=1, max_length=LONGEST)


@dataclass(frozen=True)
class Reply:
    """A usable answer and the tokens it took, where the server says."""

    text: str
    tokens: tuple[int, int] | None


class Endpoint:
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
        import openai

        self.model, self.base_url, self.key_variable, self.answer_format = model, base_url, key_variable, answer_format
        self._key = read_key(base_url, key_variable)
        self._parameters = {
            **parameters,
            **({"response_format": FORMATS[answer_format]} if FORMATS[answer_format] else {}),
        }
        self._openai = openai
        self._client = openai.OpenAI(api_key=self._key or "none", base_url=base_url, timeout=timeout, max_retries=0)

    def ask(self, instructions: str, text: str) -> Reply:
        """One call.

        Raises:
            FaultError: this prompt has no answer, or not yet.
            DmrecError: no prompt will have one.
        """
        messages = [{"role": "system", "content": instructions}, {"role": "user", "content": text}]
        try:
            completion: Any = self._client.chat.completions.create(
                model=self.model,
                messages=messages,  # type: ignore[arg-type]
                extra_body=self._parameters,
            )
        except self._openai.APIStatusError as error:
            raise self._of_status(error) from None
        except self._openai.APITimeoutError:
            raise FaultError("timed out", "") from None
        except (self._openai.APIError, ValueError) as error:
            connected = not isinstance(error, self._openai.APIConnectionError)
            raise FaultError("malformed" if connected else "no connection", self.safe(error)) from None
        return self._read(completion)

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _read(self, completion: Any) -> Reply:
        try:
            (choice,) = completion.choices
            usage = completion.usage
            tokens = (int(usage.prompt_tokens), int(usage.completion_tokens)) if usage else None
            reason, content, refusal = choice.finish_reason, choice.message.content, choice.message.refusal
        except (AttributeError, TypeError, ValueError):
            raise FaultError("malformed", "no completion in the server's answer") from None
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
            profile = clean(self._scrubbed(Profile.model_validate_json(text).profile), LONGEST)
        except ValidationError as error:
            raise FaultError("malformed", str(error.errors()[0]["msg"]), tokens=tokens) from None
        if not profile:
            raise FaultError("malformed", "the profile is blank", tokens=tokens)
        return Reply(profile, tokens)

    def _of_status(self, error: Any) -> Exception:
        status, body = int(error.status_code), error.body if isinstance(error.body, dict) else {}
        message, code = self.safe(body.get("message") or error.message), body.get("code")
        if code == "content_filter":
            return FaultError("content_filter", message, again=False)
        if code != "insufficient_quota" and (status in PASSING or status >= 500):
            after = seconds_to_wait(error.response.headers.get("retry-after"))
            if after > LONGEST_WAIT:
                return FaultError(str(status), f"the server asks to wait {after:.0f} s: {message}", again=False)
            return FaultError(str(status), message, after=after)
        if status in (400, 413, 422):
            return FaultError(str(status), message, again=False, refused=True)
        kept = f"the key in {self.key_variable}" if self._key else f"no key: {self.key_variable or 'none'} is not set"
        return DmrecError(
            f"{self.base_url} refuses requests for the model '{self.model}' ({status}: {message}); {kept}. "
            "Look at --model, --base-url and --key-variable; what was answered is kept"
        )

    def safe(self, text: object) -> str:
        """What a server says, fit to be shown."""
        return clean(self._scrubbed(str(text)), 300)

    def _scrubbed(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def read_key(base_url: str, variable: str) -> str:
    """The key in the environment, if there is one. It goes to servers over https and to this machine, nowhere else."""
    key = os.environ.get(variable, "").strip() if variable else ""
    if not key and base_url == OPENAI:
        raise DmrecError(f"{OPENAI} wants a key: set the environment variable {variable or 'OPENAI_API_KEY'}")
    if not (key.isascii() and key.isprintable()):
        raise DmrecError(f"the value of {variable} is no key: it has characters that no key has")
    if key and urlsplit(base_url).scheme != "https" and not _is_local(urlsplit(base_url).hostname or ""):
        raise DmrecError(
            f"the key in {variable} would go to {base_url} unencrypted; use https, or send none: --key-variable ''"
        )
    return key


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def check_url(base_url: str) -> str:
    """``base_url`` if it is the address of a server and nothing else."""
    try:
        parts = urlsplit(base_url)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        sound, parts = False, urlsplit("")
    if not sound:
        raise DmrecError(f"--base-url takes an address like http://localhost:8080/v1, got '{clean(base_url, 100)}'")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise DmrecError("--base-url takes no user, password or query: keys are read from --key-variable alone")
    return base_url.rstrip("/")


def seconds_to_wait(header: str | None) -> float:
    """``Retry-After``: seconds or a date; 0 without one."""
    try:
        return max(0.0, float(header)) if header else 0.0
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(str(header)).timestamp() - time.time())
    except ValueError:
        return 0.0
