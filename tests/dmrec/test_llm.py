"""What servers of language models refuse, and how they are asked: keys, limits, formats, costs."""

import gzip
import re
import sys
import time
import traceback
from collections import Counter
from types import SimpleNamespace

import pytest
from dmrec.cli.main import main
from dmrec.data.dataset import open_dataset
from dmrec.data.entities import iterate_entities
from dmrec.errors import DmrecError
from dmrec.language.openai_client import RequestError, seconds_to_wait
from dmrec.language.profiles.chat import ChatClient
from dmrec.language.profiles.llm_writer import LlmWriter
from dmrec.language.profiles.prompts import read_prompts
from dmrec.language.profiles.rate_limiter import Limits
from dmrec.language.profiles.requests import Sampling, iterate_requests
from fake_llm import FakeLlm
from profiled_shop import KEY, make_shop, rows_of, run, total, write, writer_for


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def shop(tmp_path):
    return make_shop(tmp_path / "shop")


def test_what_a_filter_refuses_failed_at_once(shop):
    with FakeLlm(decide=lambda p, r: "content_filter" if "Title-7-" in str(r["messages"]) else None) as server:
        counts = write(shop, writer_for(server, shop), name="p")
        calls = Counter(call.prompt for call in server.calls)
    assert rows_of(shop, "p")["items"][7] == {"id": "i7", "text": "", "failed": "content_filter"}
    assert set(calls.values()) == {1}
    assert counts["items"] == {"done": 19, "failed": 1, "not asked": 0, "empty": 0}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_refuses_us_ends_the_run(shop, status, capsys):
    with FakeLlm(decide=lambda p, r: str(status)) as server:
        with pytest.raises(DmrecError, match=f"{status}: {status} for Bearer") as raised:
            write(shop, writer_for(server, shop, Limits(concurrency=2)))
        assert len(server.calls) <= (4 * 2 if status == 403 else 2)  # a 403 may be about a prompt: others are waiting
        assert "*** " in str(raised.value) or "***)" in str(raised.value)
        assert KEY not in "".join(traceback.format_exception(raised.value))
        command = ["profile", shop.folder, "--writer", "llm", "--model", "m", "--base-url", server.url, "--debug"]
        with pytest.raises(DmrecError) as raised:
            main([str(each) for each in command])
    printed = capsys.readouterr()
    assert KEY not in printed.out + printed.err + "".join(traceback.format_exception(raised.value))
    assert {call.key for call in server.calls} == {f"Bearer {KEY}"}
    assert shop.profile_names == []


def test_a_gateway_that_forbids_single_prompts_does_not_end_the_run(shop):
    forbidden = ("Title-7-", "Title-9-")
    with FakeLlm(decide=lambda p, r: "403" if _item_of(r) in forbidden else None) as server:
        writer = writer_for(server, shop, Limits(concurrency=1))
        counts = write(shop, writer, name="p")
        assert counts["items"] == {"done": 18, "failed": 2, "not asked": 0, "empty": 0}
        assert rows_of(shop, "p")["items"][7]["failed"].startswith("403: 403 for Bearer ***")
        assert writer.meter.errors == {"403": 2}
        assert total(write(shop, writer_for(server, shop), name="p"), "done") == 48
    several = [f"Title-{i}-" for i in range(7, 12)]
    with FakeLlm(decide=lambda p, r: "403" if _item_of(r) in several else None) as server:
        writer = writer_for(server, shop, Limits(concurrency=1), cache=shop.folder / "other.sqlite")
        with pytest.raises(DmrecError, match="refuses requests for the model 'some/model' .403: "):
            write(shop, writer, name="p")
        assert 12 <= len(server.calls) < 20


def _item_of(request):
    """The title that a prompt is about; something else for a user's."""
    found = re.match('Title: "?(Title-[0-9]+-)', request["messages"][1]["content"])
    return found and found[1]


def test_what_is_for_this_machine_passes_no_proxy(shop, monkeypatch):
    with FakeLlm() as proxy, FakeLlm() as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        assert total(write(shop, writer_for(server, shop)), "done") == 50
        assert (len(server.calls), len(proxy.calls)) == (50, 0)


def test_the_key_is_kept_nowhere(shop, capsys):
    decide = iter(["500", "429", "400", f'{{"profile": "look: {KEY}"}}', *[None] * 200])
    with FakeLlm(decide=lambda p, r: next(decide)) as server:
        command = ["profile", shop.folder, "--writer", "llm", "--model", "m", "--base-url", server.url]
        assert run(*command, "--concurrency", "1") == 1
        assert sum(KEY in call.met for call in server.calls) == 1
        assert all(call.key == f"Bearer {KEY}" for call in server.calls)
    printed = capsys.readouterr()
    assert "400: 400 for Bearer ***" in printed.err
    assert "1 profile missing; the same command requests only these" in printed.err
    assert KEY not in printed.out + printed.err
    texts = list(open_dataset(shop.folder).texts("items", "m"))
    assert sum("profile" in text for text in texts) == shop.n_items - 1
    files = [path for path in shop.folder.rglob("*") if path.is_file()]
    assert shop.folder / "answers.sqlite" in files
    for path in files:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        assert KEY.encode() not in content, path


@pytest.mark.parametrize("key", ["x", "none", "ollama"])
def test_short_keys_do_not_change_answers(shop, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with FakeLlm(decide=lambda p, r: '{"profile": "expert, as none of ollama"}') as server:
        write(shop, writer_for(server, shop), name="p")
    assert set(shop.texts("users", "p")) == {"expert, as none of ollama"}


def test_requests_that_are_refused(shop):
    with FakeLlm(decide=lambda p, r: "400") as server:
        with pytest.raises(
            DmrecError, match="rejects every request .* --answer-format json_object_schema, json_object or none"
        ):
            write(shop, writer_for(server, shop))
        assert len(server.calls) < 40
    with FakeLlm(decide=lambda p, r: "400" if "Title-7-" in str(r["messages"][1]["content"])[:20] else None) as server:
        counts = write(shop, writer_for(server, shop))
    assert counts["items"] == {"done": 19, "failed": 1, "not asked": 0, "empty": 0}
    assert max(Counter(call.prompt for call in server.calls).values()) == 1


def test_a_server_that_is_not_there_ends_the_run(shop):
    with FakeLlm() as server:
        pass
    writer = writer_for(server, shop, Limits(attempts=2, backoff=0.001, concurrency=1))
    with pytest.raises(
        DmrecError, match=r"cannot be reached \(no connection: .*\); check that the server runs, and --base-url"
    ):
        write(shop, writer)
    assert writer.meter.calls <= 2 * 6
    assert writer.meter.input_tokens == writer.meter.output_tokens == 0
    assert shop.profile_names == []


def test_answers_are_asked_for_as_the_server_can(shop):
    with FakeLlm(decide=lambda p, r: 'Surely: ```json\n{"profile": "good\\u0007 enough"}\n```') as server:
        for form, kind in (
            ("json_schema", "json_schema"),
            ("json_object_schema", "json_object"),
            ("json_object", "json_object"),
            ("none", None),
        ):
            limits = Limits(attempts=1, backoff=0.001)
            counts = write(shop, writer_for(server, shop, limits, answer_format=form, temperature=0.5), name=form)
            request = server.calls[-1].request
            assert request.get("response_format", {}).get("type") == kind
            assert (request["model"], request["temperature"], request["max_tokens"]) == ("some/model", 0.5, 800)
            assert "max_completion_tokens" not in request
            assert total(counts, "done") == 50
            assert set(shop.texts("users", form)) == {"good enough"}


def _completion(content, reason="stop", **more):
    message = SimpleNamespace(content=content, refusal=None)
    choice = SimpleNamespace(finish_reason=reason, message=message)
    return SimpleNamespace(choices=[choice], usage=SimpleNamespace(prompt_tokens=3, completion_tokens=2), **more)


OBJECT = '{"profile": "a {nice} one"}'


@pytest.mark.parametrize(
    "completion",
    [
        _completion(OBJECT),
        _completion(f"```json\n{OBJECT}\n```"),
        _completion(f'<think>maybe {{"profile": "no"}}</think>\n{OBJECT}'),
        _completion(f"Here it is: {OBJECT} I hope that {{helps}}."),
        _completion('{"reasoning": "x", "profile": "a {nice} one", "n": 1}'),
        _completion('[{"other": 1}, {"profile": "a {nice} one"}]'),
        _completion([{"type": "text", "text": OBJECT[:9]}, {"type": "text", "text": OBJECT[9:]}]),
        *(_completion(OBJECT, reason) for reason in ("STOP", "eos", "end_turn", None, "tool_calls")),
    ],
)
def test_a_whole_profile_is_found_in_an_answer(completion):
    client = ChatClient("m", "http://localhost:1/v1", "", 1.0, {}, "json_schema")
    assert client._read(completion).text == "a {nice} one"


@pytest.mark.parametrize(
    ("completion", "kind", "message"),
    [
        (_completion(OBJECT, "length"), "truncated", "--answer-tokens"),
        (_completion(OBJECT, "MAX_TOKENS"), "truncated", "--answer-tokens"),
        (_completion(OBJECT, "SAFETY"), "content_filter", "content_filter"),
        (_completion('{"profil": "x"}'), "malformed", "no profile in the answer: {.profil"),
        (_completion('{"profile": 3}'), "malformed", "no profile in the answer"),
        (_completion(None), "malformed", "no profile in the answer"),
        (SimpleNamespace(choices=None, error={"message": "overloaded"}), "malformed", "overloaded"),
        (SimpleNamespace(choices=[], error="no such model"), "malformed", "no such model"),
        ("<!DOCTYPE html><html>", "malformed", "a web page: look at --base-url"),
        (
            SimpleNamespace(detail=[{"loc": ["body", "x"], "msg": "not permitted"}]),
            "malformed",
            "body.x: not permitted",
        ),
        (SimpleNamespace(), "malformed", "the response does not hold a completion"),
    ],
)
def test_what_is_not_a_profile_says_what_it_is(completion, kind, message):
    client = ChatClient("m", "http://localhost:1/v1", "", 1.0, {}, "none")
    with pytest.raises(RequestError, match=message) as raised:
        client._read(completion)
    assert raised.value.kind == kind


def test_a_server_without_a_profile_in_any_answer_ends_the_run(shop):
    with FakeLlm(decide=lambda p, r: "I would rather not.") as server:
        writer = writer_for(server, shop, Limits(attempts=2, backoff=0.001))
        with pytest.raises(DmrecError, match="gives no profile in any answer .malformed: no profile in"):
            write(shop, writer)
        assert len(server.calls) < 2 * 50


def test_openai_gets_the_limit_by_the_name_that_it_knows(tmp_path):
    assert LlmWriter("m", tmp_path / "a.sqlite").parameters == {"max_completion_tokens": 800}


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 100, "completion_tokens": None, "total_tokens": 100}])
def test_answers_without_counted_tokens_are_answers(shop, usage):
    with FakeLlm() as server:
        server.usage = usage
        writer = writer_for(server, shop)
        assert total(write(shop, writer), "done") == len(server.calls) == 50
    assert writer.meter.input_tokens > 50 * 100


def test_servers_are_given_the_time_they_ask_for(shop):
    asked = {}

    def decide(prompt, request):
        asked.setdefault(prompt, []).append(time.monotonic())
        text = request["messages"][1]["content"]
        return None if len(asked[prompt]) > 1 else "429, Retry-After 0.4" if "Title-3-" in text[:20] else None

    with FakeLlm(decide=decide) as server:
        assert total(write(shop, writer_for(server, shop)), "done") == 50
    (twice,) = [times for times in asked.values() if len(times) == 2]
    assert twice[1] - twice[0] >= 0.4
    with FakeLlm(decide=lambda p, r: "429, Retry-After 3600") as server:
        counts = write(shop, writer_for(server, shop, cache=shop.folder / "other.sqlite"), name="p")
    assert len(server.calls) == 50
    assert total(counts, "failed") == 50
    assert "asks to wait 3600 s" in rows_of(shop, "p")["users"][0]["failed"]
    assert seconds_to_wait("2.5") == 2.5
    assert seconds_to_wait(None) == seconds_to_wait("soon") == seconds_to_wait("-1") == 0
    assert 8 < seconds_to_wait(time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 10))) <= 10


def test_no_more_requests_a_minute_than_allowed(tmp_path):
    dataset = make_shop(tmp_path / "d", 1, 9)
    with FakeLlm() as server:
        started = time.monotonic()
        counts = write(dataset, writer_for(server, dataset, Limits(requests_per_minute=1200)))
        assert time.monotonic() - started >= 9 * 60 / 1200
    assert total(counts, "done") == len(server.calls) == 10


def test_a_dry_run_asks_nothing(shop, capsys):
    prices = ["--input-price", "1", "--output-price", "10"]
    with FakeLlm() as server:
        command = ["profile", shop.folder, "--writer", "llm", "--model", "m", "--base-url", server.url]
        assert run(*command, "--dry-run", *prices) == 0
        assert server.calls == []
        printed = capsys.readouterr().out
        assert "50 prompts, 0 answered already, 50 different ones to send" in printed
        assert "at most 40000 of answers" in printed
        requests = iterate_requests(shop, read_prompts("llm"), Sampling())
        tokens = sum(len(f"{r.prompt.instructions}{r.text}".encode()) // 4 for r in requests)
        assert f"about {tokens} tokens of prompts (4 bytes a token)" in printed
        assert f"cost at most about {(tokens + 400_000) / 1e6:.2f}" in printed
        assert not (shop.folder / "answers.sqlite").exists()
        assert run(*command, "--max-calls", "30") == 1
        assert "20 profiles missing" in capsys.readouterr().err
        assert run(*command, "--dry-run") == 0
        assert "50 prompts, 30 answered already, 20 different ones to send" in capsys.readouterr().out
        assert len(server.calls) == 30
        assert run(*command, *prices) == 0
        assert (
            "20 calls (no errors), 2000 tokens of prompts, 400 of answers, cost about 0.01" in capsys.readouterr().err
        )
    assert open_dataset(shop.folder).profile_names == ["m"]
    made = open_dataset(shop.folder).manifest["profiles"]["m"]["made"]
    assert (made["writer"], made["model"], made["sample"], made["seed"]) == ("llm", "m", 8, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--writer", "gpt"], "there is no writer 'gpt'; known: llm, template"),
        (["--model", "m"], "--model is for language models: add --writer llm, or leave it out"),
        (["--dry-run"], "--dry-run is for language models"),
        (["--writer", "llm"], "choose the language model by its name on the server: --model"),
        (
            ["--writer", "llm", "--model", "m", "--answer-format", "json"],
            "unknown answer format 'json' (--answer-format); known: json_object, ",
        ),
        (
            ["--writer", "llm", "--model", "m", "--base-url", "localhost"],
            "the server needs an address like http://localhost:8080/v1 (--base-url)",
        ),
        (
            ["--writer", "llm", "--model", "m", "--base-url", "http://u:p@localhost"],
            "must not hold a user, a password, a query",
        ),
        (
            ["--writer", "llm", "--model", "m", "--base-url", "http://there.example/v1"],
            "would be sent to http://there.exam",
        ),
        (["--writer", "llm", "--model", "m", "--key-variable", "NO_KEY"], "set the environment variable NO_KEY"),
        (["--prompts", "nowhere"], "item.txt does not exist; write the prompts first"),
    ],
)
def test_what_cannot_be_run_says_why(shop, options, message, capsys):
    assert run("profile", shop.folder, *options) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert len(printed.splitlines()) == 1
    assert KEY not in printed
    assert open_dataset(shop.folder).profile_names == []


def test_without_the_client_it_says_what_to_install(shop, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with FakeLlm() as server, pytest.raises(DmrecError, match=re.escape("pip install 'dmrec[llm]'")):
        write(shop, writer_for(server, shop))


def test_a_cache_that_is_none_is_an_error(shop):
    (shop.folder / "answers.sqlite").write_text("no database" * 100)
    with (
        FakeLlm() as server,
        pytest.raises(DmrecError, match=r"answers.sqlite: file is not a database; choose another"),
    ):
        write(shop, writer_for(server, shop))
    assert server.calls == []


def test_without_a_key_the_message_says_so(shop):
    with (
        FakeLlm(decide=lambda p, r: "401") as server,
        pytest.raises(DmrecError, match="no key was sent"),
    ):
        write(shop, writer_for(server, shop, Limits(concurrency=1), key_variable=""))


def test_local_servers_need_no_key(shop, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with FakeLlm() as server:
        assert run("profile", shop.folder, "--writer", "llm", "--model", "a/b:c", "--base-url", server.url) == 0
    assert {call.key for call in server.calls} == {"Bearer none"}
    assert open_dataset(shop.folder).profile_names == ["a-b-c"]
    assert [e.id for e in iterate_entities(shop.folder / "users.a-b-c.jsonl.gz")] == [e.id for e in shop.users]
