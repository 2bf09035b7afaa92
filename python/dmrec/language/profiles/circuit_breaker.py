"""Ends a run whose server will not answer any prompt, before all of them are tried."""

from __future__ import annotations

from ...errors import DmrecError
from ..openai_client import ForbiddenError, RequestError
from .rate_limiter import BudgetExceededError
from .worker_pool import Result

THRESHOLD = 5  # results of the same kind that are taken for the server's state


class CircuitBreaker:
    """Sees the results of all prompts and tells errors of single prompts from those of the server.

    A 403 before the first answer, or five of them without an answer in between, is the server's; so are rejections,
    failed connections, or answers without a profile for the first five prompts.
    """

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.answered = False
        """Whether the server has understood a prompt: it answered one, or filtered its content."""
        self._reached = False
        self._forbidden = self._rejected = self._unreachable = self._malformed = 0
        self._first_rejection: RequestError | None = None

    def check(self, result: Result) -> str | RequestError | BudgetExceededError:
        """The result of a prompt, if it concerns that prompt alone.

        Raises:
            DmrecError: the server will not answer any prompt.
        """
        if isinstance(result, ForbiddenError) and self.answered and self._forbidden < THRESHOLD - 1:
            self._forbidden += 1
            result = result.request_error
        elif isinstance(result, str):
            self._forbidden = 0
        if isinstance(result, DmrecError):
            raise result
        if isinstance(result, RequestError) and result.rejected:
            self._rejected += 1
            self._first_rejection = self._first_rejection or result
            if self._rejected >= THRESHOLD:
                self.check_rejections()
        if isinstance(result, RequestError) and result.kind == "no connection":
            self._unreachable += 1
            if self._unreachable >= THRESHOLD and not self._reached:
                raise DmrecError(
                    f"{self.base_url} cannot be reached ({result}); check that the server runs, and --base-url"
                )
        else:
            self._reached = True
        if isinstance(result, RequestError) and result.kind in ("malformed", "truncated") and not self.answered:
            self._malformed += 1
            if self._malformed >= THRESHOLD:
                raise DmrecError(
                    f"{self.base_url} gives no profile in any answer ({result}): try another --answer-format, more "
                    "--answer-tokens or another --model, and look at --base-url"
                )
        self.answered = self.answered or isinstance(result, str) or getattr(result, "kind", "") == "content_filter"
        return result

    def check_rejections(self) -> None:
        """Called after the last result.

        Raises:
            DmrecError: the server rejected prompts and did not answer a single one.
        """
        if self._first_rejection is not None and not self.answered:
            raise DmrecError(
                f"{self.base_url} rejects every request ({self._first_rejection}): it may not know an option; try "
                "--answer-format json_object_schema, json_object or none, and check --model"
            )
