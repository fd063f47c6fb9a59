"""An endpoint that misbehaves in every way: each image's error stays its own, what may pass is asked again."""

import gzip
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
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
        (completion("a", logprobs={"content": [{"logprob": -1e308}]})["body"], "logprob"),
        *(
            ({**completion("a")["body"], "usage": {"completion_tokens": tokens}}, "usage.completion_tokens")
            for tokens in (2**31, -1, True, 7.0, 10**400)
        ),
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
        (completion("No.", "content_filter"), Written("No.", None, 7, "refused")),
        (completion(None), CaptionFailure("empty", "the answer holds no text (finish_reason stop)")),
        (completion(" \x00\n"), CaptionFailure("empty", "the answer holds no text (finish_reason stop)")),
        (
            completion("", "content_filter"),
            CaptionFailure("empty", "the answer holds no text (finish_reason content_filter)"),
        ),
        (
            completion("", "length"),
            CaptionFailure(
                "empty",
                "the answer holds no text (finish_reason length); raise max_tokens in the address",
            ),
        ),
        (completion(None, message={"refusal": "N\ud800o."}), Written("N o.", None, 7, "refused")),
        (
            {"body": b'{"choices": [{"message": {"content": "a\xed\xa0\x80b"}}]}'},
            Written("a b", None, None, "unknown"),
        ),
        (completion("a", "\ud800"), Written("a", None, 7, "unknown")),
        (completion("x" * 9000), Written("x" * 8192, None, 7, "length")),
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
    assert 7 < pauses[0] <= 7.5
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
        ("http://host/v1?secret", "host/v1: is no address"),
        ("http://host/v1?sk-secret=1", "a parameter is unknown"),
        ("http://me:secret?@host/v1", "is no address"),
        ("http://host/v1?model=a&seconds=inf", "seconds: Input should be less than or equal to 86400"),
        ("http://host/v1?model=a&seconds=1e300", "seconds: Input should be less than or equal to 86400"),
        ("http://host/v1?model=a&seconds=nan", "seconds: Input should be"),
        ("http://a..b/v1", "http://a..b/v1: is no address"),
        (f"http://{'a' * 64}.org/v1", "is no address"),
        ("http://host/\udcff", "is no address"),
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


# What a server must not be able to do


@contextmanager
def raw_server(*pieces: bytes, endless: bool = False) -> Iterator[str]:
    """A server that sends pieces, a hundredth of a second apart, whatever it is asked; the last one for ever."""
    listener, ended = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def answer() -> None:
        try:
            connection, _ = listener.accept()
            with connection:
                for piece in pieces:
                    connection.sendall(piece)
                while endless and not ended.wait(0.01):
                    connection.sendall(pieces[-1])
                ended.wait()
        except OSError:  # whoever asked has gone
            return

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1?model=tiny&attempts=1"
    finally:
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        (OK, b"X-More: 1\r\n"),
        (b"HTTP/1.1 100 Continue\r\n\r\n",),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5;", b"a"),
        (OK + b"Content-Length: 999999\r\n\r\n", b" "),
    ],
)
def test_the_time_limit_holds_however_slowly_a_server_drips(pieces):
    with (
        raw_server(*pieces, endless=True) as address,
        closing(chat_endpoint.ChatEndpoint(parse_address(address + "&seconds=0.2"))) as endpoint,
        pytest.raises(chat_endpoint.CallError, match=r"no whole answer in 0\.2 s"),
    ):
        endpoint.chat("tiny", "?", "data:")


def test_what_interrupts_the_writing_cuts_off_what_is_under_way():
    """Without it a writer would wait for its requests, an hour here."""
    waits = threading.Event()

    def behave(image, nth):
        waits.set()
        return {"body": b" " * 10**6, "drip": 0.05}

    with ChatStub(behave) as stub, closing(EndpointWriter(stub.address + "&seconds=3600")) as writer:
        main = threading.main_thread().ident or 0
        interrupt = threading.Thread(target=lambda: waits.wait() and signal.pthread_kill(main, signal.SIGINT))
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            writer.write(IMAGES, IDS)
        interrupt.join()


def test_after_stop_nothing_is_asked():
    with ChatStub(lambda image, nth: {"status": 500}) as stub:
        endpoint = chat_endpoint.ChatEndpoint(parse_address(stub.address), lambda seconds: endpoint.stop())
        with closing(endpoint), pytest.raises(chat_endpoint.CallError, match="the writing ended"):
            endpoint.chat("tiny", "?", chat_url(IMAGES[0]))
    assert stub.asked.total() == 1


def chat_url(image: np.ndarray) -> str:
    from fluxmodel.data.endpoint_writer import _data_url

    return _data_url(image)


def test_compression_is_not_asked_for_and_not_undone():
    body = gzip.compress(json.dumps(completion("a")["body"]).encode())
    results, stub = written(bad_image({"body": body, "headers": {"Content-Encoding": "gzip"}}))
    assert results[BAD] == CaptionFailure("encoded", "the answer is encoded (gzip), not plain as asked")
    assert {headers["Accept-Encoding"] for headers in stub.headers} == {"identity"}


def test_an_answer_nested_deep_is_that_images_failure():
    results, _ = written(bad_image({"body": b"[" * 100_000 + b"]" * 100_000}))
    assert results[BAD] == CaptionFailure("malformed_json", "the answer is JSON nested too deep")


@pytest.mark.parametrize("status", [501, 505])
def test_a_status_that_lasts_is_not_repeated(status):
    with pytest.raises(InputError, match="mend the address"):
        written(lambda image, nth: {"status": status})


def test_a_status_unheard_of_from_500_on_may_pass():
    results, stub = written(bad_image({"status": 524}, until=2))
    assert [r.text for r in results] == [brightness(image) for image in IMAGES]
    assert sorted(stub.asked.values()) == [1, 1, 1, 1, 1, 2]


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_that_has_no_list_of_models_is_believed(status):
    with ChatStub(models=status) as stub, closing(EndpointWriter(stub.address)) as writer:
        assert writer.name == "tiny"


@pytest.mark.parametrize("key", ["schl\u00fcssel", "sk-\x07secret", "sk-a\nsk-b"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_told(monkeypatch, key):
    monkeypatch.setenv(KEY, key)
    with pytest.raises(InputError, match=f"{KEY}: holds a character that cannot be sent") as caught:
        chat_endpoint.ChatEndpoint(parse_address("http://127.0.0.1:1/v1?model=a"))
    assert key not in str(caught.value)
    assert "sk-" not in repr(caught.value)


def test_a_servers_words_stand_in_a_sentence_without_controls():
    results, _ = written(bad_image({"status": 400, "body": b"no\x1b[31m \x00entry \xe2\x80\xae"}))
    assert results[BAD] == CaptionFailure("http_400", "status 400: no [31m entry")
    for models, said in (
        (("a\x1b[31m", "b\ud800"), r"which model\? it serves a \[31m, b; name one"),
        (("a\ud800",), "its model's name 'a' holds a character that cannot be printed"),
    ):
        with ChatStub(models=models) as stub, pytest.raises(InputError, match=said):
            EndpointWriter(stub.address.partition("?")[0])


def test_megabytes_of_combining_marks_are_cut_before_they_are_put_in_order():
    results, _ = written(bad_image(completion("a" + "\u0301\u0323" * 300_000)))
    assert results[BAD].finish == "length"
    assert len(results[BAD].text) <= 8192


def test_what_was_answered_is_kept_when_another_answer_ends_the_writing():
    """One image is answered well, and while that is on its way another ends everything."""
    kept: list[Any] = []
    last = IMAGES[-1]

    def behave(image, nth):
        return {"status": 401} if np.array_equal(image, last) else completion(brightness(image))

    with ChatStub(behave) as stub, closing(EndpointWriter(f"{stub.address}&concurrency=6")) as writer:
        chat = writer._endpoint.chat
        arrived = threading.Barrier(len(IMAGES))

        def together(*given):
            try:
                return chat(*given)
            finally:
                arrived.wait()

        writer._endpoint.chat = together  # type: ignore[method-assign]
        with pytest.raises(InputError, match="status 401"):
            writer.write(IMAGES, IDS, kept.extend)
    assert sorted(index for index, _ in kept) == list(range(len(IMAGES) - 1))
