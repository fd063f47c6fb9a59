"""An endpoint that misbehaves in every way: each image's error stays its own, what may pass is asked again."""

import time
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from fluxmodel.data import chat_endpoint
from fluxmodel.data.caption_writers import CaptionFailure
from fluxmodel.data.chat_endpoint import KEY, parse_address
from fluxmodel.data.endpoint_writer import EndpointWriter, endpoint_revision
from fluxmodel.encoders.captioner import Written
from fluxmodel.errors import InputError
from tests.fluxmodel.data.chat_stub import ChatStub, brightness, completion

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
IDS = [str(number) for number in range(len(IMAGES))]
BAD = 2


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(chat_endpoint, "_FIRST_PAUSE", 0.001)
    monkeypatch.delenv(KEY, raising=False)


def written(behave, more="&attempts=3", models=("tiny",), **given) -> tuple[list[Any], ChatStub]:
    """Caption the images by a stub; return the results and the stub."""
    with ChatStub(behave, models) as stub, closing(EndpointWriter(stub.address + more, **given)) as writer:
        return writer.write(IMAGES, IDS), stub


def bad_image(reply, until=99):
    """A stub that answers so about one image, until the nth question, and well about the others."""
    return lambda image, nth: (
        reply if np.array_equal(image, IMAGES[BAD]) and nth < until else completion(brightness(image))
    )


TRANSIENT = [
    ({"status": 429, "body": {"error": "slow down"}}, "http_429"),
    ({"status": 500, "body": b"<html>oops</html>"}, "http_500"),
    ({"status": 503, "headers": {"Retry-After": "0"}}, "http_503"),
    ({"body": b'{"choices": [{"mess'}, "malformed_json"),
    ({"body": b'{"choices": []}', "length": 99}, "unreachable"),
    ({"body": b""}, "malformed_json"),
    ({"reset": True}, "unreachable"),
    ({"sleep": 1.0}, "timeout"),
    ({"body": b"x" * 50, "drip": 0.05}, "timeout"),
]


@pytest.mark.parametrize(("reply", "reason"), TRANSIENT)
def test_what_lasts_fails_that_image_alone_after_its_attempts(reply, reason):
    results, stub = written(bad_image(reply), "&attempts=2&seconds=0.3")
    failure = results.pop(BAD)
    assert isinstance(failure, CaptionFailure)
    assert failure.reason == reason
    assert [r.text for r in results] == [brightness(i) for n, i in enumerate(IMAGES) if n != BAD]
    assert sorted(stub.asked.values()) == [1, 1, 1, 1, 1, 2]


@pytest.mark.parametrize("reply", [reply for reply, _ in TRANSIENT[:7]])
def test_what_passes_is_asked_again_and_leaves_no_trace(reply):
    results, stub = written(bad_image(reply, until=3))
    assert [r.text for r in results] == [brightness(image) for image in IMAGES]
    assert sorted(stub.asked.values()) == [1, 1, 1, 1, 1, 3]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "choices"),
        ([], "valid dictionary"),
        ({"choices": []}, "choices"),
        ({"choices": [{"message": {"content": 7}}]}, "content"),
        ({"choices": [{"text": "an old completion"}]}, "message"),
        ({"error": {"message": "overloaded"}}, "choices"),
        (completion("a", logprobs={"content": [{"logprob": float("nan")}]})["body"], "logprob"),
    ],
)
def test_an_answer_of_another_shape_is_refused_at_once_and_says_where(body, said):
    results, stub = written(bad_image({"body": body}))
    assert results[BAD].reason == "wrong_schema"
    assert said in results[BAD].detail
    assert set(stub.asked.values()) == {1}


def test_a_request_that_the_server_finds_wrong_is_not_repeated():
    results, stub = written(bad_image({"status": 400, "body": {"error": "image too small"}}))
    assert results[BAD] == CaptionFailure("http_400", 'status 400: {"error": "image too small"}')
    assert set(stub.asked.values()) == {1}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (completion("A cat. ", "stop"), Written("A cat.", None, 7, "end")),
        (completion("A cat on a", "length"), Written("A cat on a", None, 7, "length")),
        (completion("A cat.", None), Written("A cat.", None, 7, "unknown")),
        (completion(None), Written("", None, 7, "end")),
        (completion("", "content_filter"), Written("", None, 7, "refused")),
        (completion(None, message={"content": None, "refusal": "No."}), Written("No.", None, 7, "refused")),
        (completion("a \ud800 b\x00\x1b[31m c"), Written("a b [31m c", None, 7, "end")),
        (
            completion("a cat", logprobs={"content": [{"token": "a", "logprob": -1}, {"logprob": -2.0}]}),
            Written("a cat", -1.5, 7, "end"),
        ),
    ],
)
def test_what_an_answer_says_is_read(reply, expected):
    results, _ = written(lambda image, nth: reply)
    assert set(results) == {expected}


def test_no_more_requests_at_once_than_allowed_and_as_many():
    def slow(image, nth):
        return {"sleep": 0.05, **completion("a")}

    assert written(slow, "&concurrency=2")[1].most_at_once == 2
    assert written(slow, "&concurrency=1")[1].most_at_once == 1


def test_a_server_without_log_probabilities_is_asked_without_them():
    with ChatStub(lambda image, nth: completion("a cat.")) as stub:
        plain = stub.reply

        def picky(body):
            if "logprobs" in body:
                return {"status": 400, "body": {"error": "logprobs is not supported"}}
            return plain(body)

        stub.reply = picky  # type: ignore[method-assign]
        with closing(EndpointWriter(stub.address + "&concurrency=1")) as writer:
            assert {r.text for r in writer.write(IMAGES, IDS)} == {"a cat."}  # type: ignore[union-attr]
    assert ["logprobs" in body for body in stub.bodies] == [True] + [False] * len(IMAGES)


def test_retry_after_is_obeyed_and_pauses_are_drawn_within_a_doubling_span(monkeypatch):
    monkeypatch.setattr(chat_endpoint, "_FIRST_PAUSE", 0.5)
    pauses = []
    replies = [{"status": 429, "headers": {"Retry-After": "7"}}, *[{"status": 500}] * 4]
    with ChatStub(lambda image, nth: replies[nth - 1] if nth < 6 else completion("a")) as stub:
        endpoint = chat_endpoint.ChatEndpoint(parse_address(stub.address), pauses.append)
        from fluxmodel.data.endpoint_writer import _data_url

        endpoint.chat("tiny", "?", _data_url(IMAGES[0]))
        endpoint.close()
    assert pauses[0] == 7
    assert all(0 <= pause <= 0.5 * 2**n for n, pause in enumerate(pauses[1:], 1))
    assert len(set(pauses)) == 5


RETRY_AFTER = [
    ("3", 3),
    ("0.5", 0.5),
    ("-1", 0),
    ("1e9", 120),
    ("nan", None),
    ("soon", None),
    ("", None),
    (None, None),
    ("Fri, 01 Jan 2021 00:00:00 GMT", 0),
    ("Fri, 01 Jan 2199 00:00:00 GMT", 120),
]


@pytest.mark.parametrize(("said", "seconds"), RETRY_AFTER)
def test_retry_after_is_read_in_both_its_forms(said, seconds):
    assert chat_endpoint._wait(said) == seconds


# The endpoint as a whole


@pytest.mark.parametrize(
    ("status", "cure"),
    [(401, f"set {KEY}"), (403, f"set {KEY}"), (404, "mend the address"), (302, "mend the")],
)
def test_a_refusal_of_everybody_ends_the_writing_with_one_sentence(status, cure):
    with pytest.raises(InputError, match=cure) as caught:
        written(lambda image, nth: {"status": status, "body": b"no\nentry", "headers": {"Location": "/v2"}})
    assert "\n" not in str(caught.value)


def test_a_server_that_is_not_there_is_said_at_once():
    with ChatStub() as stub:
        address = stub.address
    with pytest.raises(InputError, match=r"no list of models there \(ConnectError.*start the server"):
        EndpointWriter(address)


@pytest.mark.parametrize(
    ("models", "query", "match"),
    [
        (("a", "b"), "", r"which model\? it serves a, b; name one by \?model=NAME"),
        (None, "", r"which model\? it does not list what it serves"),
        (("a", "b"), "?model=c", "does not serve 'c', but a, b"),
    ],
)
def test_the_model_must_be_clear(models, query, match):
    with ChatStub(models=models) as stub, pytest.raises(InputError, match=match):
        EndpointWriter(stub.address.partition("?")[0] + query)


def test_the_only_model_is_taken_and_a_server_that_lists_none_is_believed():
    with ChatStub() as stub, closing(EndpointWriter(stub.address.partition("?")[0])) as writer:
        assert writer.name == "tiny"
    with ChatStub(models=None) as stub, closing(EndpointWriter(stub.address)) as writer:
        assert writer.name == "tiny"


def test_identity_outlives_a_restart_at_another_port_and_knows_the_model():
    revisions = []
    for model in ("tiny", "tiny", "other"):
        with ChatStub(models=("tiny", "other")) as stub:
            revisions.append(endpoint_revision(stub.address.replace("model=tiny", f"model={model}")))
    assert revisions[0] == revisions[1] != revisions[2]


@pytest.mark.parametrize(
    ("address", "match"),
    [
        ("http://me:secret@host/v1?model=a", "host: no user or password"),
        ("http://host/v1?modle=a", "the parameter 'modle' is unknown; there are model, concurrency"),
        ("http://host/v1?api_key=secret", f"'api_key' is unknown.*A key stands in {KEY}"),
        ("http://host/v1?model=a&concurrency=0", "concurrency: Input should be greater than 0"),
        ("http://host/v1?model=a&seconds=soon", "seconds: Input should be a valid number"),
        ("http://host:port/v1", "is no address"),
        ("http://[::1/v1?model=secret", "is no address"),
        ("http:///v1", "no host there"),
        ("http://host/v1?model", "is no address"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_by_name(address, match):
    with pytest.raises(InputError, match=match) as caught:
        parse_address(address)
    assert "secret" not in str(caught.value)


def test_the_key_is_sent_and_never_told(monkeypatch, capfd, caplog):
    caplog.set_level("DEBUG")
    monkeypatch.setenv(KEY, "sk-very-secret")
    echo = {"status": 400, "body": {"error": "Incorrect key sk-very-secret"}}
    results, stub = written(bad_image(echo))
    assert {headers.get("Authorization") for headers in stub.headers} == {"Bearer sk-very-secret"}
    assert "***" in results[BAD].detail
    with pytest.raises(InputError) as caught:
        written(lambda image, nth: {**echo, "status": 401})
    said = [str(results), str(caught.value), caplog.text, *capfd.readouterr()]
    assert "sk-very-secret" not in "".join(said)


def test_a_failure_of_all_ends_without_waiting_for_who_still_tries(monkeypatch):
    monkeypatch.setattr(chat_endpoint, "_FIRST_PAUSE", 60.0)
    monkeypatch.setattr(chat_endpoint, "_LONGEST_PAUSE", 60.0)
    started = time.monotonic()
    with pytest.raises(InputError):
        written(lambda image, nth: {"status": 401 if np.array_equal(image, IMAGES[-1]) else 500})
    assert time.monotonic() - started < 10
