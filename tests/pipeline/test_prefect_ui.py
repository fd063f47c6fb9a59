"""A person at the browser: real Chromium, the real servers of `fluxline up`, nothing but clicks and typing.

The four tests share one `fluxline up` over a copy of a finished run, so the model has a version when the first begins.
"""

import json
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import copytree
from typing import Any

import httpx
import psutil
import pytest

from tests.kit import wait_until
from tests.pipeline.conftest import Command

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # MLflow, SQLAlchemy and Prefect warn of their own deprecations
]

MODEL = "fluxline-smoke"
PATIENCE = 900.0
"""Seconds that anything may take on a machine with other work; on quiet cores nothing takes sixty."""
CLICK_SECONDS = 120
"""And a page to show what was asked of it."""
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class Up:
    """`fluxline up` as a person runs it, with the eyes of its two programming interfaces."""

    def __init__(self, command: Command):
        self.home = command.home
        self.process = command.start("up")
        place = self.home / "servers.json"
        wait_until(lambda: place.is_file() or self.process.poll() is not None, "servers", seconds=PATIENCE)
        assert self.process.poll() is None, self.process.communicate()
        found = json.loads(place.read_text())
        self.prefect, self.mlflow = f"{found['prefect_url']}/v2", found["mlflow_url"]
        self.api = httpx.Client(base_url=f"{found['prefect_url']}/api/", timeout=60)
        wait_until(
            lambda: self.deployment("approve").get("status") == "READY", "deployments", seconds=PATIENCE
        )

    def deployment(self, name: str) -> dict[str, Any]:
        reply = self.api.get(f"deployments/name/{name}/{name}")
        return reply.json() if reply.status_code == 200 else {}

    def runs(self, name: str) -> list[dict[str, Any]]:
        """The runs of a deployment that have begun, newest first."""
        asked = {"deployments": {"id": {"any_": [self.deployment(name)["id"]]}}, "sort": "START_TIME_DESC"}
        return [run for run in self.api.post("flow_runs/filter", json=asked).json() if run["start_time"]]

    def run(self, number: str) -> dict[str, Any]:
        return self.api.get(f"flow_runs/{number}").json()

    def ended(self, number: str) -> str:
        """Wait until a run has ended; return how, by the name of its state."""
        wait_until(lambda: self.run(number)["state_type"] in ENDED, "end of a run", PATIENCE)
        return self.run(number)["state_name"]

    def versions(self, name: str) -> dict[str, list[str]]:
        """The versions of a registered model with their aliases."""
        ask = f"{self.mlflow}/api/2.0/mlflow"
        params = {"filter": f"name='{name}'"}
        found = httpx.get(f"{ask}/model-versions/search", params=params, timeout=60).json()
        model = httpx.get(f"{ask}/registered-models/get", params={"name": name}, timeout=60).json()
        given = model.get("registered_model", {}).get("aliases", [])  # a search does not tell them
        return {
            each["version"]: [alias["alias"] for alias in given if alias["version"] == each["version"]]
            for each in found.get("model_versions", [])
        }

    def stop(self) -> tuple[int, str, str, list[psutil.Process]]:
        """Ctrl-C; return exit code, what it said, and which processes are left."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=300)
        self.api.close()
        return self.process.returncode, out, err, psutil.wait_procs(family, timeout=30)[1]


@pytest.fixture(scope="module")
def up(finished, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    home = tmp_path_factory.mktemp("up") / "home"
    copytree(finished[0].home, home)
    running = Up(Command(home, {}))
    yield running
    code, out, err, left = running.stop()
    assert (code, err, left) == (0, "", [])
    assert "All stopped." in out


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=str(chromium), args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """Open a page that asks this machine only; where its test fails, its last look lies in a picture."""
    shown = browser.new_page(viewport={"width": 1400, "height": 900})
    shown.set_default_timeout(CLICK_SECONDS * 1000)
    shown.route(re.compile(r"^https?://(?!127\.0\.0\.1)"), lambda asked: asked.abort())

    @contextmanager
    def opened() -> Iterator[Any]:
        try:
            yield shown
        except BaseException:
            picture = tmp_path / "page.png"
            with suppress(Exception):  # a page that is gone must not hide what went wrong
                shown.screenshot(path=picture, timeout=30_000)
                print(f"{shown.url} as it was: {picture}")
            raise

    yield opened
    shown.close()


def open_form(page: Any, up: Up, name: str) -> None:
    """Go from the list of deployments to the form of one."""
    page.goto(f"{up.prefect}/deployments")
    page.get_by_role("link", name="approve", exact=True).first.wait_for()  # typed earlier, words are lost
    page.get_by_placeholder("Search deployments").press_sequentially(name)
    page.wait_for_url(re.compile(f"flowOrDeploymentName={name}"))
    page.get_by_role("link", name=name, exact=True).first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    page.get_by_text("Enforce Parameter Schema").wait_for()


def field(page: Any, name: str) -> Any:
    """A field of the form by its parameter's name."""
    return page.get_by_label(f"{name} (Optional)", exact=True)


def choose(page: Any, name: str, value: str) -> None:
    """Choose from a closed set."""
    page.get_by_role("button", name=f"Select {name}", exact=True).click()
    page.get_by_role("option", name=value, exact=True).click()


def submit(page: Any) -> str:
    """Press Submit and go to the run; return its id."""
    page.get_by_role("button", name="Submit", exact=True).click()
    page.get_by_role("button", name="View run").click()
    page.wait_for_url(re.compile("/runs/flow-run/"))
    found = re.search(r"/flow-run/([0-9a-f-]{36})", page.url)
    assert found
    return found[1]


def test_a_run_from_the_form_registers_the_next_version_and_mlflow_compares_them(up, page):
    with page() as shown:
        before = up.versions(MODEL)
        open_form(shown, up, "retrain")
        choose(shown, "preset", "smoke")
        field(shown, "train_steps").fill("-5")
        shown.get_by_role("button", name="Submit", exact=True).click()
        refused = field(shown, "train_steps").evaluate("field => field.validationMessage")
        assert "greater than or equal to 0" in refused
        assert not [run for run in up.runs("retrain") if run["parameters"].get("train_steps") == -5]
        for name, value in {"seed": "1", "train_steps": "30"}.items():
            field(shown, name).fill(value)
        number = submit(shown)
        shown.get_by_role("tab", name="Task Runs").wait_for()
        assert up.ended(number) == "Completed"
        run = up.run(number)
        assert (run["parameters"]["train_steps"], run["parameters"]["preset"]) == (30, "smoke")
        shown.get_by_text(run["name"]).first.wait_for()  # it is named after what it does
        shown.get_by_text("Completed", exact=True).first.wait_for()
        after = up.versions(MODEL)
        old, new = max(before, key=int), max(after, key=int)
        assert (len(after), int(new)) == (len(before) + 1, int(old) + 1)
        assert "challenger" in after[new]
        shown.goto(f"{up.mlflow}/#/models/{MODEL}")
        for version in (old, new):
            link = shown.get_by_role("link", name=f"Version {version}", exact=True)
            shown.get_by_role("row").filter(has=link).get_by_role("checkbox").check()
        shown.get_by_role("button", name="Compare", exact=True).click()
        shown.get_by_role("heading", name="Comparing 2 Versions").wait_for()
        steps = shown.get_by_role("row").filter(has_text="train.steps")
        assert steps.get_by_role("cell").all_inner_texts()[-1] == "30"
        link = shown.get_by_role("link", name=re.compile(r"^contrast\W*$"))
        measured = shown.get_by_role("row").filter(has=link).first.get_by_role("cell").all_inner_texts()
        assert len({float(text) for text in measured}) == 2


def test_a_schedule_makes_two_runs_by_itself(up, page):
    with page() as shown:
        known = {run["id"] for run in up.runs("retrain")}
        shown.goto(f"{up.prefect}/deployments/deployment/{up.deployment('retrain')['id']}")
        shown.get_by_role("button", name="Schedule", exact=True).click()
        dialog = shown.get_by_role("dialog", name="Add Schedule")
        dialog.get_by_label("Value").fill("30")
        dialog.get_by_role("combobox", name="Interval").click()
        shown.get_by_role("option", name="Seconds").click()
        choose(shown, "preset", "smoke")
        for name, value in {"seed": "1", "train_steps": "30"}.items():  # as the run before: all is reused
            dialog.get_by_label(f"{name} (Optional)", exact=True).fill(value)
        dialog.get_by_role("button", name="Save", exact=True).click()
        toggle = shown.get_by_role("switch", name="toggle Every 30 seconds")
        toggle.wait_for()

        def by_themselves() -> list[dict[str, Any]]:
            return [run for run in up.runs("retrain") if run["id"] not in known and run["auto_scheduled"]]

        wait_until(lambda: len(by_themselves()) >= 2, "two runs by themselves", PATIENCE)
        toggle.click()
        assert {up.ended(run["id"]) for run in by_themselves()[-2:]} == {"Completed"}


def test_a_run_is_cancelled_by_its_button_and_saves_its_checkpoint(up, page):
    with page() as shown:
        open_form(shown, up, "retrain")
        choose(shown, "preset", "smoke")
        field(shown, "seed").fill("9")
        field(shown, "train_steps").fill("1000000")
        number = submit(shown)

        def training() -> list[Path]:
            jobs = (up.home / "work").glob("*/job.json")
            long = [job.parent for job in jobs if '"steps": 1000000' in job.read_text()]
            return [work for work in long if (work / "output" / "checkpoints").is_dir()]

        (work,) = wait_until(training, "training", PATIENCE)
        shown.get_by_role("button", name="Open menu").first.click()
        shown.get_by_role("menuitem", name="Cancel", exact=True).click()
        shown.get_by_role("alertdialog").get_by_role("button", name="Cancel Flow Run").click()
        assert up.ended(number) == "Cancelled"
        shown.get_by_text("Cancelled", exact=True).first.wait_for()
        of_it = [
            each
            for each in psutil.process_iter(["cmdline"])
            if str(work) in " ".join(each.info["cmdline"] or [])
        ]
        assert psutil.wait_procs(of_it, timeout=60)[1] == []
        assert list((work / "output" / "checkpoints").iterdir())


def test_a_promotion_is_approved_in_the_browser(up, page):
    with page() as shown:
        open_form(shown, up, "retrain")
        choose(shown, "preset", "smoke")
        for name, value in {"seed": "1", "train_steps": "30", "name": "asked"}.items():
            field(shown, name).fill(value)
        field(shown, "needs_approval").click()
        assert up.ended(submit(shown)) == "Completed"
        assert "champion" not in up.versions("asked")["1"]
        waiting = wait_until(
            lambda: [run["id"] for run in up.runs("approve") if run["state_type"] == "PAUSED"],
            "the question",
            seconds=PATIENCE,
        )
        (number,) = waiting  # the run asked by itself, and once
        shown.goto(f"{up.prefect}/runs/flow-run/{number}")
        shown.get_by_role("button", name="Open menu").first.click()
        shown.get_by_role("menuitem", name="Resume", exact=True).click()
        dialog = shown.get_by_role("dialog", name="Resume Flow Run")
        dialog.get_by_role("switch").first.click()
        dialog.get_by_label(re.compile("^Reason")).fill("it draws circles")
        dialog.get_by_role("button", name="Resume", exact=True).click()
        assert up.ended(number) not in {"Failed", "Crashed"}
        assert "champion" in up.versions("asked")["1"]
