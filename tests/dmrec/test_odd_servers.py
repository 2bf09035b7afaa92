"""Servers that answer in ways of their own: what they mean is understood, or said in their words."""

import base64
import json
import struct
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import tiny
from dmrec.cli.main import main
from dmrec.data.dataset import open_dataset
from dmrec.errors import DmrecError
from dmrec.language.encoders.openai import OpenAIEncoder
from dmrec.language.openai_client import RequestError
from dmrec.language.profiles.chat import ChatClient


@contextmanager
def server(answer):
    """A server whose ``answer(request)`` is a status and a body: an object, or pieces of text with pauses between."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(request)
            status, body = answer(request)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            pieces = body if isinstance(body, list) else [json.dumps(body)]
            self.send_header("Content-Length", str(sum(map(len, pieces))))
            self.end_headers()
            try:
                for piece in pieces:
                    self.wfile.write(piece.encode())
                    time.sleep(0.02 if len(pieces) > 1 else 0)
            except OSError:
                pass

        def log_message(self, *_):
            """Nothing on the screen."""

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{found.server_address[1]}/v1", asked
    finally:
        found.shutdown()
        thread.join()
        found.server_close()


def vector(text):
    return [1.0, len(text), 0.0, 2.0]


def rows(texts, **changed):
    return [{"object": "embedding", "index": i, "embedding": vector(t), **changed} for i, t in enumerate(texts)]


def encoder(url, **options):
    return OpenAIEncoder("m", base_url=url, key_variable="", backoff=0.0, **{"attempts": 2, **options})


def unit(texts):
    found = np.array([vector(text) for text in texts])
    return found / np.linalg.norm(found, axis=1, keepdims=True)


TEXTS = ["a", "bc", "def"]


def in_base64(request):
    data = [
        {"index": i, "embedding": base64.b64encode(struct.pack("<4f", *vector(text))).decode()}
        for i, text in enumerate(request["input"])
    ]
    return 200, {"data": data}


@pytest.mark.parametrize(
    "answer",
    [
        lambda request: (200, {"data": rows(request["input"])[::-1]}),
        lambda request: (200, {"data": [{"embedding": row["embedding"]} for row in rows(request["input"])]}),
        lambda request: (200, {"data": rows(request["input"], index=None)}),
        in_base64,
    ],
    ids=["in disorder", "no index", "index null", "base64"],
)
def test_vectors_in_any_form(answer):
    with server(answer) as (url, _):
        np.testing.assert_allclose(encoder(url).encode(TEXTS), unit(TEXTS), rtol=1e-6)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda request: (200, {"error": "no model is loaded"}), "no model is loaded"),
        (lambda request: (200, {"error": {"message": "warming up"}}), "warming up"),
        (lambda request: (200, {"data": rows(request["input"])[1:]}), "a vector for each of 3 texts"),
        (lambda request: (200, {"data": rows(request["input"], index=0)}), "a vector for each of 3 texts"),
        (lambda request: (200, {"data": [{"index": None}, {}, {"index": 1}]}), "a vector for each of 3 texts"),
        (lambda request: (200, {"data": rows(request["input"], embedding=[0.0] * 4)}), "zeros for the text 'a'"),
        (
            lambda request: (200, {"data": rows(request["input"], embedding=[float("nan")] * 4)}),
            "NaN or infinity for the text 'a'",
        ),
        (lambda request: (200, {"data": rows(request["input"], embedding="?!")}), "a vector for each of 3 texts"),
        (lambda request: (404, {"error": "not found, pull it first"}), "not found, pull it first"),
        (lambda request: (422, {"detail": [{"loc": ["body", "input"], "msg": "too long"}]}), "body.input: too long"),
        (lambda request: (503, {"error": {"message": "all slots are busy"}}), "all slots are busy"),
    ],
)
def test_what_is_not_a_vector_for_each_text_is_said(answer, message):
    with server(answer) as (url, _), pytest.raises(DmrecError, match=message):
        encoder(url).encode(TEXTS)


@pytest.mark.parametrize("bad", [0, 5, 62, 63])
def test_a_text_that_the_server_fails_at_is_named(bad):
    texts = [f"text {n:02d}" for n in range(64)]

    def answer(request):
        failed = texts[bad] in request["input"]
        return (500, {"error": {"message": "cannot encode NaN"}}) if failed else (200, {"data": rows(request["input"])})

    with server(answer) as (url, asked):
        with pytest.raises(DmrecError, match=rf"fails at the text '{texts[bad]}..' of 7 .* .500: cannot encode"):
            encoder(url).encode(texts)
        assert len(asked) <= 2 + 12


def test_a_server_that_fails_at_all_texts_is_not_blamed_on_one():
    with server(lambda request: (500, {"error": {"message": "out of memory"}})) as (url, asked):
        with pytest.raises(DmrecError, match="did not return vectors .500: out of memory"):
            encoder(url).encode([f"text {n}" for n in range(64)])
        assert len(asked) <= 2 + 8


def test_a_response_that_drips_is_given_up():
    def answer(request):
        text = json.dumps({"data": rows(request["input"])})
        return 200, [*" " * 60, text]

    with server(answer) as (url, _):
        started = time.monotonic()
        with pytest.raises(DmrecError, match="did not return vectors .timed out"):
            encoder(url, attempts=1, timeout=0.3).encode(TEXTS)
        assert time.monotonic() - started < 3
        np.testing.assert_allclose(encoder(url, timeout=60.0).encode(TEXTS[:1]), unit(TEXTS[:1]), rtol=1e-6)


def completion(text):
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return 200, {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


def chat(url, **parameters):
    return ChatClient("m", url, "", 5.0, parameters, "none")


def test_the_limit_of_an_answer_goes_by_the_name_that_the_server_knows():
    def answer(request):
        if "max_tokens" in request:
            return 400, {"error": {"message": "'max_tokens' is not supported. Use 'max_completion_tokens' instead."}}
        return completion('{"profile": "fond of tea"}')

    with server(answer) as (url, asked):
        client = chat(url, max_tokens=70, temperature=0.5)
        assert [client.complete("write", text).text for text in "ab"] == ["fond of tea"] * 2
        client.close()
    assert [request.get("max_completion_tokens") for request in asked] == [None, 70, 70], "it is remembered"
    assert asked[-1]["temperature"] == 0.5


def test_another_refusal_is_not_tried_again():
    with server(lambda request: (400, {"error": {"message": "max_tokens is too large"}})) as (url, asked):
        client = chat(url, max_tokens=70)
        with pytest.raises(RequestError, match="max_tokens is too large") as refused:
            client.complete("write", "a")
        client.close()
    assert refused.value.rejected
    assert len(asked) == 1


def test_a_model_that_wrote_no_json_is_asked_again():
    def answer(_):
        error = {"message": "Failed to generate JSON.", "code": "json_validate_failed", "failed_generation": "{"}
        return 400, {"error": error}

    with server(answer) as (url, _):
        client = chat(url)
        with pytest.raises(RequestError, match="malformed: Failed to generate JSON") as failed:
            client.complete("write", "a")
        client.close()
    assert failed.value.retryable
    assert not failed.value.rejected


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code or 0


def test_missing_texts_are_said_where_they_matter(tmp_path, capsys):
    dataset = tiny.make(tmp_path / "d")
    folder = dataset.folder
    (tmp_path / "bare.csv").write_text("user,item\n" + "".join(f"u{n % 7},i{n % 11}\n" for n in range(77)))
    assert run("data", "import", tmp_path / "bare.csv", "--out", tmp_path / "bare", "--k-core", 1) == 0
    assert run("embed", tmp_path / "bare") == 1
    assert f"write them first: dmrec profile {tmp_path / 'bare'}" in capsys.readouterr().err
    texts = {
        side: [{"id": str(n), "text": f"likes {tiny.KINDS[n % 4]}" if n % 4 else ""} for n in range(count)]
        for side, count in (("items", dataset.n_items), ("users", dataset.n_users))
    }
    dataset.add_profiles("partial", texts, {})
    capsys.readouterr()
    assert run("embed", folder, "--profiles", "partial", "--width", 1) == 0
    said = capsys.readouterr().err
    assert "12 items and 30 users had no text, and their vectors are zeros; complete the profiles 'partial'" in said
    small = ["--set", "training.epochs=1", "--set", "model.hidden=4", "--set", "model.latent=4"]
    command = ["train", "dmrec-m", "--no-baselines", "--data", folder, "--out", tmp_path / "r", *small]
    assert run(*command, "--set", "language.vectors=tfidf-svd-partial") == 0
    assert "vectors 'tfidf-svd-partial': 12 items and 30 users had no text" in capsys.readouterr().err
    assert open_dataset(folder).without_text("tfidf-svd") == ""
