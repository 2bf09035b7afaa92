"""A server on this machine that speaks OpenAI's protocol and fails when told to. It logs every call that it sees."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

FAULTS = (
    "429",
    "429, Retry-After 0",
    "429, Retry-After 0.05",
    "500",
    "hang",
    "close",
    "length",
    "not JSON",
    "other shape",
    "no completion",
)


class Call(NamedTuple):
    """What came: a checksum of the messages, the request; and what it met: a fault, or "answered"."""

    prompt: str
    request: dict[str, Any]
    key: str
    met: str


class FakeLlm(ThreadingHTTPServer):
    """Answers every prompt with its checksum; a ``share`` of the calls meets a fault, drawn by ``seed``.

    ``decide`` names the fault of a call by its prompt instead, None for an answer, "slow 3" for one after 3 seconds.
    """

    daemon_threads = False
    request_queue_size = 128

    def __init__(
        self, share: float = 0.0, seed: int = 0, decide: Callable[[str, dict[str, Any]], str | None] | None = None
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.calls: list[Call] = []
        self.usage: dict[str, int | None] | None = {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "total_tokens": 120,
        }
        self.lock = threading.Lock()
        self.released = threading.Event()
        self._random = random.Random(seed)
        self._decide = decide or (
            lambda prompt, request: self._random.choice(FAULTS) if self._random.random() < share else None
        )
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> FakeLlm:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.released.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may go away."""

    def decide(self, prompt: str, request: dict[str, Any]) -> str | None:
        with self.lock:
            return self._decide(prompt, request)

    def note(self, call: Call) -> None:
        with self.lock:
            self.calls.append(call)

    @property
    def answered(self) -> list[str]:
        """Prompts of the calls that were answered, one for each call."""
        return [call.prompt for call in self.calls if call.met == "answered"]


class _Handler(BaseHTTPRequestHandler):
    server: FakeLlm

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = checksum(request["messages"] if "messages" in request else request["input"])
        met = self.server.decide(prompt, request) or "answered"
        if met.startswith("slow "):
            self.server.released.wait(float(met[5:]))
            met = "answered"
        self.server.note(Call(prompt, request, self.headers.get("Authorization", ""), met))
        text, reason = json.dumps({"profile": f"profile {prompt}"}), "stop"
        if met == "close":
            self.close_connection = True
        elif met == "hang":
            self.server.released.wait(60)
        elif met[:3].isdigit():
            status, _, wait = met.partition(", Retry-After ")
            message = f"{status} for {self.headers.get('Authorization', '')}"
            self._send(int(status), {"error": {"message": message}}, {"Retry-After": wait} if wait else {})
        elif met == "no completion":
            self._send(200, {"choices": [], "data": []}, {})
        elif "input" in request:
            self._send(200, {"object": "list", "model": request["model"], "data": embedded(request["input"], met)}, {})
        else:
            if met == "length":
                text, reason = text[:10], "length"
            elif met == "content_filter":
                text, reason = "", "content_filter"
            elif met == "not JSON":
                text = text[:-3]
            elif met == "other shape":
                text = json.dumps({"summary": 3})
            elif met != "answered":
                text = met
            choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text}}
            head = {"id": "1", "object": "chat.completion", "created": 0, "model": request["model"]}
            self._send(200, {**head, "choices": [choice], "usage": self.server.usage}, {})

    def _send(self, status: int, body: dict[str, Any], headers: dict[str, str]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing on the screen."""


def embedded(texts: list[str], met: str) -> list[dict[str, Any]]:
    """A vector of 8 numbers for each text, by its checksum, in disorder; fewer or others where there is a fault."""
    digests = [hashlib.sha256(text.encode()).digest()[:8] for text in texts]
    rows = [{"object": "embedding", "index": i, "embedding": [b / 255 for b in d]} for i, d in enumerate(digests)][::-1]
    if met == "length":
        return rows[1:]
    if met == "not JSON":
        return [{**row, "index": 0} for row in rows]
    if met == "other shape":
        return [{**row, "embedding": row["embedding"][: 2 + row["index"] % 2]} for row in rows]
    return rows


def checksum(asked: list[Any]) -> str:
    """Of what a model is asked: messages or texts."""
    contents = [each["content"] if isinstance(each, dict) else each for each in asked]
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:20]
