"""`fluxline serve` as a user runs it: a real process on this machine, a tiny model of random weights."""

import base64
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest

from benchmarks.serving import ask, flood, resident
from flows.ports import free_port
from flows.serving_app import MOST_BYTES
from fluxmodel.recipe import read_recipe
from tasks.drawing import Drawing
from tasks.generate import draw
from tasks.home import open_home
from tests.kit import ROOT, write_model

PROMPT = "a red circle"
AT_ONCE = 200


@dataclass
class Served:
    """A running server."""

    port: int
    model: Path
    process: subprocess.Popen[str]
    told: str

    def generate(self, **values):
        reply = ask(self.port, "/generate", {"prompt": PROMPT, **values})
        return reply.status, json.loads(reply.body)

    def get(self, path: str) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        with closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flows.cli", "serve", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start_serving(model: Path, *arguments: str) -> Served:
    process = start(str(model), *arguments)
    assert process.stdout is not None
    told = ""
    while "Ctrl-C" not in told:
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        told += line
    port = re.search(r"http://127\.0\.0\.1:(\d+)", told)
    assert port, told
    return Served(int(port[1]), model, process, told)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    model = write_model(tmp_path_factory.mktemp("serve") / "model")
    served = start_serving(model, "--port", str(free_port(8500)))
    yield served
    served.process.send_signal(signal.SIGINT)  # Ctrl-C
    out, err = served.process.communicate(timeout=60)
    assert (served.process.returncode, err) == (0, "")
    assert "Stopped; drew" in out


def test_two_hundred_at_once_and_none_is_lost(server):
    replies = flood(
        server.port, "/generate", [{"prompt": PROMPT, "seed": i} for i in range(AT_ONCE)], AT_ONCE
    )
    assert [reply.status for reply in replies] == [200] * AT_ONCE
    answers = [json.loads(reply.body) for reply in replies]
    assert [answer["images"][0]["seed"] for answer in answers] == list(
        range(AT_ONCE)
    )  # nobody gets another's
    alone = [server.generate(seed=i)[1]["images"] for i in range(0, AT_ONCE, 40)]
    assert [answers[i]["images"] for i in range(0, AT_ONCE, 40)] == alone  # whatever the crowd


def test_the_bytes_are_those_of_generate(server, tmp_path):
    for count, variant, steps, guidance in ((1, "", 1, 1.0), (1, "base", 2, 3.0), (3, "", 4, 1.0)):
        how = {"variant": variant, "num_steps": steps, "guidance": guidance, "num_images": count}
        settings = Drawing(model=str(server.model), variant=variant, steps=steps, guidance=guidance, seed=7)
        drawn = draw(open_home(), [PROMPT] * count, settings, tmp_path / f"{variant}{count}")
        status, answer = server.generate(seed=7, **how)
        assert status == 200
        served = [base64.b64decode(image["png"]) for image in answer["images"]]
        assert served == [Path(image.path).read_bytes() for image in drawn]


def test_a_png_comes_as_it_is_where_it_is_asked_for(server):
    _, answer = server.generate()
    png = ask(server.port, "/generate", {"prompt": PROMPT}, {"Accept": "image/png"})
    assert (png.status, png.body) == (200, base64.b64decode(answer["images"][0]["png"]))


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 422, "prompt"),
        ({"prompt": " "}, 422, "prompt"),
        ({"prompt": "x" * 1001}, 422, "prompt"),
        ({"prompt": "a", "num_steps": 51}, 422, "num_steps"),
        ({"prompt": "a", "num_images": 0}, 422, "num_images"),
        ({"prompt": "a", "guidance": "much"}, 422, "guidance"),
        ('{"prompt": "a", "guidance": NaN}', 422, "guidance"),
        ({"prompt": "a", "seed": -1}, 422, "seed"),
        ({"prompt": "a", "width": 4096}, 422, "width"),
        ({"prompt": "a", "height": 9}, 422, "height"),
        ({"prompt": "a", "variant": "turbo"}, 422, "variant"),
        ({"prompt": "a", "lora": "../other"}, 422, "lora"),
        ({"prompt": "a", "model": "nobody@3"}, 422, "model"),
        ({"prompt": "a", "negative_prompt": "b"}, 422, "negative_prompt"),
        ([{"prompt": "a"}], 422, ""),
        ("{", 400, ""),
        (b"\xff\xfe", 400, ""),
        ("[" * MOST_BYTES, 400, ""),
        ('{"prompt": "a", "seed": ' + "9" * 5000 + "}", 400, ""),
        ("", 422, ""),
        ("x" * (MOST_BYTES + 1), 413, ""),
    ],
)
def test_a_bad_request_is_told_its_field(server, body, status, field):
    reply = ask(server.port, "/generate", body)
    assert reply.status == status, reply.body
    error = json.loads(reply.body)["error"]
    assert error["field"] == field
    assert error["message"]
    assert b"Traceback" not in reply.body


def test_the_page_and_what_it_needs_come_from_here_alone(server):
    status, page = server.get("/")
    assert status == 200
    assert not re.findall(rb"""(?:src|href)=["']?(?:https?:)?//""", page)
    (model,) = json.loads(server.get("/models")[1])
    assert model["default_variant"] == "rectified"
    assert model["variants"] == {
        "rectified": {"num_steps": 1, "guidance": 1.0},
        "base": {"num_steps": 3, "guidance": 2.0},
    }
    health = json.loads(server.get("/health")[1])
    assert (health["status"], health["waiting"], health["models"]) == ("ok", 0, [str(server.model)])
    assert server.get("/nothing")[0] == 404


def test_nobody_is_drawn_for_who_has_left(server):
    drawn = json.loads(server.get("/health")[1])["drawn"]
    with ThreadPoolExecutor(1) as client:
        slow = client.submit(server.generate, variant="base", num_steps=50, num_images=16)
        while not json.loads(server.get("/health")[1])["waiting"]:
            assert not slow.done()
        body = json.dumps({"prompt": PROMPT}).encode()
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", server.port)) as leaving:
                head = f"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
                leaving.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
                while json.loads(server.get("/health")[1])["waiting"] < 2 and not slow.done():
                    time.sleep(0.01)
        assert slow.result()[0] == 200
    while json.loads(server.get("/health")[1])["waiting"]:
        time.sleep(0.01)
    assert json.loads(server.get("/health")[1])["drawn"] == drawn + 1


@pytest.mark.slow
def test_too_many_are_turned_away_and_a_stop_loses_nobody(server):
    """A second server, with room for two: its port is taken, it turns away the third, and SIGTERM waits for two."""
    small = start_serving(server.model, "--port", str(server.port), "--queue", "2")
    assert f"(port {server.port} was taken)" in small.told
    slow = {"prompt": PROMPT, "variant": "base", "num_steps": 50, "num_images": 16}
    with ThreadPoolExecutor(8) as clients:
        asked = [clients.submit(ask, small.port, "/generate", slow) for _ in range(8)]
        refused = [each.result() for each, _ in zip(as_completed(asked), range(6), strict=False)]
        small.process.send_signal(signal.SIGTERM)
        served = [each.result() for each in asked if each.result() not in refused]
    out, err = small.process.communicate(timeout=60)
    assert ([r.status for r in refused], [r.status for r in served]) == ([503] * 6, [200] * 2)
    assert int(refused[0].headers["retry-after"]) >= 1
    said = json.loads(refused[0].body)["error"]["message"]
    assert re.fullmatch(r"2 requests are waiting; ask again in \d+ s", said)
    assert (small.process.returncode, err) == (0, "")
    assert re.fullmatch(r"Stopping; serves (1 request|2 requests) first.\nStopped; drew 2 requests.\n", out)


@pytest.mark.slow
def test_a_model_that_cannot_be_read_is_one_sentence(server, tmp_path):
    damaged = shutil.copytree(server.model, tmp_path / "damaged")
    (damaged / "transformer_base" / "model.safetensors").write_bytes(b"nothing")
    process = start(str(damaged))
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    assert re.fullmatch(r"fluxline: weights .*transformer_base/model\.safetensors: cannot be read .*\n", err)


@pytest.mark.slow
def test_memory_is_flat_over_a_thousand_requests(server):
    def some(count: int) -> None:
        flood(server.port, "/generate", [{"prompt": PROMPT, "seed": i} for i in range(count)], 50)

    some(200)  # caches and pools grow to their size
    before = resident(server.process)
    some(1000)
    assert (
        resident(server.process) - before < 8
    )  # MiB; a leak of one 16x16 PNG and its base64 a request were 2


def test_the_documents_commands_work(server, tmp_path):
    text = (ROOT / "docs" / "serving.md").read_text().replace(":8100", f":{server.port}")
    (program,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    assert [read_recipe(tmp_path / f"circle-{seed}.png").seed for seed in (7, 8)] == [7, 8]
    if shutil.which("curl"):
        (command,) = re.findall(r"^curl [^`]*?circle\.png$", text, re.MULTILINE)
        subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
        assert read_recipe(tmp_path / "circle.png").prompt == "a red circle"


@pytest.fixture
def page(server, chromium):
    """Open the page at a width; whatever it asks for elsewhere, or complains about, fails the test."""
    from playwright.sync_api import sync_playwright

    here, faults = f"http://127.0.0.1:{server.port}/", []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(chromium), args=["--no-sandbox"])

        def elsewhere(url: str) -> list[str]:
            return [] if url.startswith((here, "data:")) else [url]

        def open_page(width: int):
            shown = browser.new_page(viewport={"width": width, "height": 900})
            shown.on("pageerror", lambda error: faults.append(str(error)))
            shown.on("request", lambda asked: faults.extend(elsewhere(asked.url)))
            shown.goto(here)
            shown.wait_for_selector("#model-b option", state="attached")
            return shown

        yield open_page
        browser.close()
    assert faults == []


def drawn(page, side: str) -> list[str]:
    """Wait until a side is done; return its images' alternative texts."""
    page.wait_for_selector(f"#frame-{side}[aria-busy=false]")
    return [image.get_attribute("alt") for image in page.query_selector_all(f"#frame-{side} img")]


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_draws_two_sides_with_the_keyboard_alone(server, page, tmp_path, width):
    shown = page(width)
    shown.keyboard.type("a red circle")  # the prompt has the focus
    shown.keyboard.press("Enter")
    assert drawn(shown, "a") == drawn(shown, "b") == ["a red circle, seed 0"]
    assert shown.inner_text("#told-a").startswith("1 step · guidance 1 · seed")
    assert shown.inner_text("#told-b").startswith("3 steps · guidance 2 · seed")
    shown.focus("#steps-a")
    shown.keyboard.press("ArrowRight")
    shown.wait_for_selector("#told-a:has-text('2 steps')")
    shown.focus("[name=images][value='1']")
    shown.keyboard.press("ArrowRight")
    shown.wait_for_selector("#frame-b a:nth-child(4)")
    assert drawn(shown, "a") == [f"a red circle, seed {seed}" for seed in range(4)]
    with shown.expect_download() as saved:
        shown.click("#frame-a a >> nth=2")
    saved.value.save_as(tmp_path / "saved.png")
    recipe = read_recipe(tmp_path / "saved.png")
    assert (saved.value.suggested_filename, recipe.seed, recipe.num_steps) == ("a-red-circle-2.png", 2, 2)
    assert shown.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.slow
def test_the_page_says_what_is_wrong_where_it_is_wrong(server, page):
    shown = page(1280)
    shown.fill("#prompt", " ")
    shown.fill("#seed", "-3")
    shown.click("#draw")
    shown.wait_for_selector("#error:has-text('Prompt: it is blank; say what to draw')")
    assert shown.get_attribute("#prompt", "aria-invalid") == "true"
    shown.fill("#prompt", "a dog")
    shown.click("#draw")
    shown.wait_for_selector("#error:has-text('Seed: Input should be greater than or equal to 0')")
    assert shown.get_attribute("#prompt", "aria-invalid") is None
    shown.fill("#seed", "3")
    shown.click("#draw")
    assert drawn(shown, "a") == ["a dog, seed 3"]
    assert shown.is_hidden("#error")
