"""An OpenAI-compatible server: how it is reached, what its faults mean, how often it is asked again.

The key is in the environment and nowhere else.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from ..data.entities import clean
from ..errors import DmrecError

OPENAI = "https://api.openai.com/v1"
PASSING = (408, 409, 425, 429)
LONGEST_WAIT = 300.0
SHORTEST_KEY = 16  # characters; what is shorter is a dummy for a local server


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


class ForbiddenError(DmrecError):
    """A 403: the key is not allowed to ask, or a gateway does not let this prompt pass, which is ``fault``."""

    def __init__(self, message: str, fault: FaultError) -> None:
        super().__init__(message)
        self.fault = fault


class Server:
    """A server and a model."""

    def __init__(self, model: str, base_url: str, key_variable: str, timeout: float) -> None:
        try:
            import openai
            import tenacity  # noqa: F401
        except ImportError:
            raise DmrecError("asking a server needs packages: pip install 'dmrec[llm]'") from None
        self.model, self.base_url, self.key_variable = model, base_url, key_variable
        self._key = read_key(base_url, key_variable)
        self._openai = openai
        # what is for this machine must not leave it by a proxy of the environment's
        client = openai.DefaultHttpxClient(trust_env=False) if is_local(base_url) else None
        self._client = openai.OpenAI(
            api_key=self._key or "none", base_url=base_url, timeout=timeout, max_retries=0, http_client=client
        )

    def call(self, asking: Callable[[Any], Any]) -> Any:
        """What ``asking`` gets of openai's client.

        Raises:
            FaultError: there is no answer, or not yet.
            DmrecError: there will be none to anything.
        """
        try:
            return asking(self._client)
        except self._openai.APIStatusError as error:
            raise self._of_status(error) from None
        except self._openai.APITimeoutError:
            raise FaultError("timed out", "") from None
        except (self._openai.APIError, ValueError) as error:
            connected = not isinstance(error, self._openai.APIConnectionError)
            raise FaultError("malformed" if connected else "no connection", self.safe(error)) from None

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

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
        unset = f"no key: {self.key_variable} is not set" if self.key_variable else "no key is sent: --key-variable ''"
        kept = f"the key in {self.key_variable}" if self._key else unset
        refusal = (
            f"{self.base_url} refuses requests for the model '{self.model}' ({status}: {message}); {kept}. "
            "Look at --model, --base-url and --key-variable; what was answered is kept"
        )
        if status == 403 and code != "insufficient_quota":
            return ForbiddenError(refusal, FaultError("403", message, again=False))
        return DmrecError(refusal)

    def safe(self, text: object) -> str:
        """What a server says, fit to be shown."""
        return clean(self._scrubbed(str(text)), 300)

    def _scrubbed(self, text: str) -> str:
        return text.replace(self._key, "***") if self._secret else text

    @property
    def _secret(self) -> bool:
        """The key is no dummy such as ``none`` or ``test``, which are words of any answer."""
        return len(self._key) >= SHORTEST_KEY


def retrying(attempts: int, backoff: float, stopped: threading.Event) -> Any:
    """Calls again after faults that pass, waiting longer each time, at random, and as long as the server asks."""
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
        wait=lambda state: wait(state) + getattr(state.outcome and state.outcome.exception(), "after", 0.0),
        retry=retry_if_exception(lambda error: isinstance(error, FaultError) and error.again),
        sleep=sleep_using_event(stopped),
        reraise=True,
    )


def read_key(base_url: str, variable: str) -> str:
    """The key in the environment, if there is one. It goes to servers over https and to this machine, nowhere else."""
    key = os.environ.get(variable, "").strip() if variable else ""
    if not key and base_url == OPENAI:
        raise DmrecError(f"{OPENAI} wants a key: set the environment variable {variable or 'OPENAI_API_KEY'}")
    if not (key.isascii() and key.isprintable()):
        raise DmrecError(f"the value of {variable} is no key: it has characters that no key has")
    if key and urlsplit(base_url).scheme != "https" and not is_local(base_url):
        raise DmrecError(
            f"the key in {variable} would go to {base_url} unencrypted; use https, or send none: --key-variable ''"
        )
    return key


def is_local(base_url: str) -> bool:
    """Whether the server runs on this machine."""
    host = urlsplit(base_url).hostname or ""
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
