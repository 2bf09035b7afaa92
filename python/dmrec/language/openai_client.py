"""A client for OpenAI-compatible servers: how one is reached, what its errors mean, how often a request is repeated.

The key is read from the environment and is never written, logged or shown.
"""

from __future__ import annotations

import importlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from ..data.entities import clean
from ..errors import DmrecError

OPENAI = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"
RETRYABLE_STATUS = (408, 409, 425, 429)
MAX_RETRY_AFTER = 300.0  # seconds
MIN_KEY_LENGTH = 16  # characters; a shorter key is a dummy for a local server


class RequestError(Exception):
    """A request without a usable response.

    Attributes:
        kind: the cause in a word or two, such as "429", "timed out" or "malformed".
        retryable: whether another attempt may succeed.
        retry_after: seconds that the server asks to wait before it.
        rejected: whether the server rejects the request itself, rather than failing to serve it.
        tokens: tokens of prompt and response that were consumed nevertheless, None where not known.
    """

    def __init__(
        self,
        kind: str,
        message: str = "",
        *,
        retryable: bool = True,
        retry_after: float = 0.0,
        rejected: bool = False,
        tokens: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(f"{kind}: {message}" if message else kind)
        self.kind, self.retryable, self.retry_after = kind, retryable, retry_after
        self.rejected, self.tokens = rejected, tokens


class ForbiddenError(DmrecError):
    """Status 403: the key lacks a permission, or a gateway blocks this one request, as ``request_error`` says."""

    def __init__(self, message: str, request_error: RequestError) -> None:
        super().__init__(message)
        self.request_error = request_error


class OpenAIClient:
    """A model on a server.

    Args:
        model: the model's name on the server.
        base_url: address of the server, checked by `check_url`.
        key_variable: environment variable with the key; "" sends no key.
        timeout: seconds that a request may take.

    Raises:
        DmrecError: a package is missing, or the key must not be sent to this address.
    """

    def __init__(self, model: str, base_url: str, key_variable: str, timeout: float) -> None:
        try:
            import openai
            import tenacity  # noqa: F401
        except ImportError:
            raise DmrecError("requests to a server need packages: pip install 'dmrec[llm]'") from None
        self.model, self.base_url, self.key_variable = model, base_url, key_variable
        self._key = read_key(base_url, key_variable)
        self._openai = openai
        # requests to this machine must not leave it through a proxy that the environment names
        client = openai.DefaultHttpxClient(trust_env=not is_local(base_url), transport=deadline_transport(timeout))
        self._client = openai.OpenAI(
            api_key=self._key or "none", base_url=base_url, timeout=timeout, max_retries=0, http_client=client
        )

    def call(self, request: Callable[[Any], Any]) -> Any:
        """The result of ``request``, which is called with the client of the package openai.

        Raises:
            RequestError: this request does not have a response, or not yet.
            DmrecError: no request will have one, as the key or the model is not accepted.
        """
        try:
            return request(self._client)
        except self._openai.APIStatusError as error:
            raise self._error_of_status(error) from None
        except self._openai.APITimeoutError:
            raise RequestError("timed out") from None
        except (self._openai.APIError, ValueError) as error:
            connected = not isinstance(error, self._openai.APIConnectionError)
            raise RequestError("malformed" if connected else "no connection", self.redact(error)) from None

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _error_of_status(self, error: Any) -> Exception:
        status, body = int(error.status_code), error.body if isinstance(error.body, dict) else {}
        message, code = self.redact(words_of(error.body) or error.message), body.get("code")
        if code == "json_validate_failed":  # the model wrote no JSON: asked again, it may
            return RequestError("malformed", message, tokens=(0, 0))
        if code == "content_filter":
            return RequestError("content_filter", message, retryable=False)
        if code != "insufficient_quota" and (status in RETRYABLE_STATUS or status >= 500):
            wait = seconds_to_wait(error.response.headers.get("retry-after"))
            if wait > MAX_RETRY_AFTER:
                return RequestError(str(status), f"the server asks to wait {wait:.0f} s: {message}", retryable=False)
            return RequestError(str(status), message, retry_after=wait)
        if status in (400, 413, 422):
            return RequestError(str(status), message, retryable=False, rejected=True)
        refusal = (
            f"{self.base_url} refuses requests for the model '{self.model}' ({status}: {message}); {self._key_sent()}. "
            "Check --model, --base-url and --key-variable; the responses so far are kept"
        )
        if status == 403 and code != "insufficient_quota":
            return ForbiddenError(refusal, RequestError("403", message, retryable=False))
        return DmrecError(refusal)

    def _key_sent(self) -> str:
        """Which key the server got, for messages."""
        if self._key:
            return f"it was sent the key in {self.key_variable}"
        return f"{self.key_variable} is not set, so no key was sent" if self.key_variable else "no key was sent"

    def redact(self, text: object) -> str:
        """A message of a server, fit to be shown: one line without the key, at most 300 characters."""
        return clean(str(text).replace(self._key, "***") if self.key_is_secret else text, 300)

    def contains_key(self, text: str) -> bool:
        """Whether a response gives the key away."""
        return self.key_is_secret and self._key in text

    @property
    def key_is_secret(self) -> bool:
        """False for dummies such as ``none`` or ``test``, which are words that any response may hold."""
        return len(self._key) >= MIN_KEY_LENGTH


def deadline_transport(seconds: float) -> Any:
    """A transport that gives up a response which is not whole after ``seconds``, however steadily it drips.

    The timeouts of httpx, or of what openai uses in its place, are for single reads.
    """
    import openai

    httpx: Any = importlib.import_module(openai.DefaultHttpxClient.__bases__[0].__module__.partition(".")[0])

    class Stream(httpx.SyncByteStream):  # type: ignore[misc]
        def __init__(self, stream: Any, request: Any, deadline: float) -> None:
            self.stream, self.request, self.deadline = stream, request, deadline

        def __iter__(self) -> Iterator[bytes]:
            for part in self.stream:
                if time.monotonic() > self.deadline:
                    raise httpx.ReadTimeout(f"no whole response in {seconds:g} s", request=self.request)
                yield part

        def close(self) -> None:
            self.stream.close()

    class Transport(httpx.HTTPTransport):  # type: ignore[misc]
        def handle_request(self, request: Any) -> Any:
            deadline = time.monotonic() + seconds
            response = super().handle_request(request)
            response.stream = Stream(response.stream, request, deadline)
            return response

    return Transport()


def words_of(answer: Any) -> str:
    """What a server says of an error, in any of the forms that servers have; "" if it says nothing."""
    if isinstance(answer, str):
        text = answer.strip()
        page = text[:15].lower().startswith(("<!doctype", "<html"))
        return "the answer is a web page: look at --base-url" if page else text
    if isinstance(answer, list):
        return "; ".join(filter(None, map(words_of, answer)))
    fields = answer if isinstance(answer, dict) else getattr(answer, "model_extra", None) or vars_of(answer)
    place = ".".join(map(str, fields.get("loc", ()))) if isinstance(fields.get("loc"), list | tuple) else ""
    for name in ("message", "msg", "error", "detail"):
        if name in fields and fields[name] and (words := words_of(fields[name])):
            return f"{place}: {words}" if place else words
    return ""


def vars_of(answer: Any) -> dict[str, Any]:
    """The attributes of an object, none for plain values."""
    return dict(vars(answer)) if hasattr(answer, "__dict__") else {}


def model_slug(model: str) -> str:
    """A model's name without the characters that a file name cannot hold."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-._")[:64]


def retrying(attempts: int, backoff: float, stopped: threading.Event) -> Any:
    """A function that calls another one, again after each `RequestError` that is retryable.

    Args:
        attempts: number of calls before the error is raised.
        backoff: seconds before the second call; they double each time, up to a minute, at random, and what the server
            asks to wait is added.
        stopped: ends the attempts once it is set.
    """
    from tenacity import (
        Retrying,
        retry_if_exception,
        sleep_using_event,
        stop_after_attempt,
        stop_when_event_set,
        wait_random_exponential,
    )

    wait = wait_random_exponential(multiplier=backoff, max=60)
    return Retrying(
        stop=stop_after_attempt(attempts) | stop_when_event_set(stopped),
        wait=lambda state: wait(state) + getattr(state.outcome and state.outcome.exception(), "retry_after", 0.0),
        retry=retry_if_exception(lambda error: isinstance(error, RequestError) and error.retryable),
        sleep=sleep_using_event(stopped),
        reraise=True,
    )


def read_key(base_url: str, variable: str) -> str:
    """The key in an environment variable, "" where it is not set.

    Raises:
        DmrecError: OpenAI's own server needs a key that is not set, the value is not a key, or it would be sent
            unencrypted to another machine.
    """
    key = os.environ.get(variable, "").strip() if variable else ""
    if not key and base_url == OPENAI:
        raise DmrecError(f"{OPENAI} needs a key: set the environment variable {variable or OPENAI_KEY}")
    if not (key.isascii() and key.isprintable()):
        raise DmrecError(f"the value of {variable} is not a key: it has characters that a key cannot have")
    if key and urlsplit(base_url).scheme != "https" and not is_local(base_url):
        raise DmrecError(
            f"the key in {variable} would be sent to {base_url} unencrypted; use https, or do not send a key "
            "(--key-variable '')"
        )
    return key


def is_local(base_url: str) -> bool:
    """Whether the server runs on this machine."""
    try:
        host = urlsplit(base_url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def check_url(base_url: str) -> str:
    """``base_url`` without a slash at its end, if it is the address of a server and nothing else.

    Raises:
        DmrecError: it is not an http or https address, or holds a user, a query or a fragment.
    """
    try:
        parts = urlsplit(base_url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid, parts = False, urlsplit("")
    if not valid:
        shown = clean(base_url, 100)
        raise DmrecError(f"the server needs an address like http://localhost:8080/v1 (--base-url), got '{shown}'")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise DmrecError(
            "the server's address (--base-url) must not hold a user, a password, a query or a fragment; a key is read "
            "from an environment variable (--key-variable)"
        )
    return base_url.rstrip("/")


def seconds_to_wait(header: str | None) -> float:
    """Seconds in the header ``Retry-After``, which holds seconds or a date; 0 without one."""
    try:
        return max(0.0, float(header)) if header else 0.0
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(str(header)).timestamp() - time.time())
    except ValueError:
        return 0.0
