"""The training child as its launcher sees it: exit codes, one sentence on bad input, stops that lose nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from fluxmodel.encoders.dual_encoder import DualEncoder
from fluxmodel.training.__main__ import build_objective, is_pipe, main, read_job, watch_for_stop, write_final
from fluxmodel.training.checkpoint import CheckpointFolder
from fluxmodel.training.loop import Trained, train
from fluxmodel.training.parallel import World
from fluxmodel.weights import load_mmdit
from tests.fluxmodel.training.tiny_jobs import tiny_job
from tests.kit import ROOT, run_python, wait_until

PATIENCE_SECONDS = 120


def write_job(job, path: Path) -> Path:
    path.write_text(job.model_dump_json())
    return path


@contextmanager
def child(job_file: Path, *, ranks: int = 1):
    """A running child and the pipe whose closing is its parent's death."""
    read_end, write_end = os.pipe()
    command = [sys.executable, "-m", "fluxmodel.training", str(job_file)]
    if ranks > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        command = [sys.executable, *launcher, *command[1:]]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"FLUXLINE_PARENT_PIPE": str(read_end)},
        pass_fds=(read_end,),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    os.close(read_end)
    ends = [write_end]

    def close_pipe():
        os.close(ends.pop())

    try:
        yield process, close_pipe
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        for end in ends:
            os.close(end)


def steps_done(output: Path) -> int:
    try:
        return max(json.loads(line)["step"] for line in (output / "metrics.jsonl").read_text().splitlines())
    except (OSError, ValueError):
        return 0


def finished_in_process(job, root: Path) -> dict[str, bytes]:
    """Run in this process what is left of a job, by the checkpoints in `root`; return the files of final/."""
    root.mkdir(exist_ok=True)
    objective = build_objective(job)
    *_, trained = train(objective, job, CheckpointFolder(root / "checkpoints"), World())
    assert isinstance(trained, Trained)
    write_final(root, objective, job, trained.precision)
    return files(root / "final")


def files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_sigterm_ends_with_75_and_a_checkpoint_that_goes_on_to_the_same_bytes(tmp_path):
    job = tiny_job("flow", tmp_path, steps=120, batch_size=32)
    job_file, output = write_job(job, tmp_path / "job.json"), Path(job.output)
    with child(job_file) as (process, _):
        wait_until(lambda: steps_done(output) >= 3, seconds=PATIENCE_SECONDS)
        process.send_signal(signal.SIGTERM)
        _, complaints = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, complaints) == (75, "")
    assert newest_checkpoint(output) == steps_done(output) < job.steps
    assert finished_in_process(job, output) == finished_in_process(job, tmp_path / "whole")


@pytest.mark.slow
def test_however_it_is_stopped_the_end_has_the_same_bytes(tmp_path):
    """SIGTERM, the end of the parent, kill -9, and then to the end: one run in four lives."""
    job = tiny_job("flow", tmp_path, steps=160, batch_size=48, checkpoint_every=20)
    job_file, output = write_job(job, tmp_path / "job.json"), Path(job.output)

    with child(job_file) as (process, _):
        wait_until(lambda: steps_done(output) >= 10, seconds=PATIENCE_SECONDS)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 75, process.communicate()
    first = steps_done(output)
    assert newest_checkpoint(output) == first

    with child(job_file) as (process, close_pipe):
        wait_until(lambda: steps_done(output) > first, seconds=PATIENCE_SECONDS)
        close_pipe()
        assert process.wait(PATIENCE_SECONDS) == 75, process.communicate()
    second = steps_done(output)
    assert newest_checkpoint(output) == second

    with child(job_file) as (process, _):
        wait_until(lambda: steps_done(output) > second + 25, seconds=PATIENCE_SECONDS)
        process.kill()
        process.wait(PATIENCE_SECONDS)
    assert not (output / "final").exists()
    assert second < newest_checkpoint(output) <= steps_done(output) < job.steps

    done = run_python("-m", "fluxmodel.training", str(job_file), timeout=PATIENCE_SECONDS)
    assert (done.returncode, done.stderr) == (0, "")
    assert files(output / "final") == finished_in_process(job, tmp_path / "whole")


def newest_checkpoint(output: Path) -> int:
    return max(int(p.stem.removeprefix("step-")) for p in (output / "checkpoints").glob("step-*.pt"))


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
    job = tiny_job("flow", tmp_path)
    (Path(job.output) / "final").mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", ["training", str(write_job(job, tmp_path / "job.json"))])
    with signals_restored():
        assert main() == 0
    assert not (Path(job.output) / "metrics.jsonl").exists()


def test_the_seconds_of_a_spool_go_on_from_those_of_earlier_lives(tmp_path, monkeypatch):
    job = tiny_job("flow", tmp_path, steps=4)
    spool = Path(job.output) / "metrics.jsonl"
    spool.parent.mkdir(parents=True, exist_ok=True)
    spool.write_text('{"step": 1, "total": 4, "metrics": {}, "seconds": 100.0}\n')
    monkeypatch.setattr(sys, "argv", ["training", str(write_job(job, tmp_path / "job.json"))])
    with signals_restored():
        assert main() == 0
    seconds = [json.loads(line)["seconds"] for line in spool.read_text().splitlines()]
    assert len(seconds) > 2
    assert seconds == sorted(seconds)
    assert 100 < seconds[-1] < 100 + PATIENCE_SECONDS


@contextmanager
def signals_restored():
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("kind", ["detector", "dual_encoder"])
def test_final_holds_a_network_and_its_card(kind, tmp_path):
    job = tiny_job(kind, tmp_path, data="procedural:shapes?n=64")
    written = finished_in_process(job, tmp_path / "run")
    assert {"config.json", "model.safetensors", "card.json"} <= set(written)
    card = json.loads(written["card.json"])
    assert (card["kind"], card["level"], card["steps"], card["precision"]) == (kind, "demo", 12, "fp32")
    assert all(isinstance(value, float) for value in card["metrics"].values())
    if kind == "dual_encoder":
        assert (
            DualEncoder.from_directory(tmp_path / "run" / "final").text_embeddings(["a red circle"]).ndim == 2
        )


@pytest.mark.slow
def test_two_processes_end_where_one_does(tmp_path):
    """Both ranks stop and go on together; what one process finds differs by rounding only."""
    steps = 60
    job = tiny_job("flow", tmp_path, steps=steps, batch_size=16, world_size=2, checkpoint_every=20)
    job_file, output = write_job(job, tmp_path / "job.json"), Path(job.output)
    with child(job_file, ranks=2) as (process, _):
        wait_until(lambda: steps_done(output) >= 5, seconds=PATIENCE_SECONDS)
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(PATIENCE_SECONDS)
    assert not (output / "final").exists()
    stopped = newest_checkpoint(output)
    assert stopped >= 5
    with child(job_file, ranks=2) as (process, _):
        _, complaints = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, complaints
    assert steps_done(output) == steps

    finished_in_process(job, tmp_path / "alone")
    ours = load_mmdit(output / "final" / "transformer").state_dict()
    alone = load_mmdit(tmp_path / "alone" / "final" / "transformer").state_dict()
    distance = sum((ours[n] - alone[n]).square().sum() for n in ours) ** 0.5
    length = sum(t.square().sum() for t in alone.values()) ** 0.5
    assert distance / length < 1e-3


@pytest.mark.slow
def test_both_ranks_hold_the_same_weights(tmp_path):
    code = """
import os, sys, torch
from torch import distributed
from fluxmodel.training.__main__ import build_objective, read_job
from fluxmodel.training.checkpoint import CheckpointFolder
from fluxmodel.training.loop import Trained, train
from fluxmodel.training.parallel import join_world
job, world = read_job(sys.argv[1]), join_world()
objective = build_objective(job)
list(train(objective, job, CheckpointFolder(job.output), world))
mine = torch.cat([p.detach().flatten() for p in objective.model.parameters()])
both = [torch.empty_like(mine) for _ in range(2)]
distributed.all_gather(both, mine)
assert torch.equal(*both), (both[0] - both[1]).abs().max()
distributed.barrier()
os._exit(0)  # gloo's threads may abort a process that takes itself apart while its peer does
"""
    script = tmp_path / "ranks.py"
    script.write_text(code)
    for precision in ("fp32", "bf16"):
        job = tiny_job("flow", tmp_path / precision, world_size=2, precision=precision)
        job_file = write_job(job, tmp_path / f"{precision}.json")
        done = run_python(
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            str(script),
            str(job_file),
            timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == 0, done.stderr


# Bad jobs


def refused(argv, monkeypatch, capsys) -> str:
    """Return the one sentence the child says, after checking that it ends with 2 and says no more."""
    monkeypatch.setattr(sys, "argv", ["training", *argv])
    with signals_restored():
        assert main() == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    assert said.err.count("\n") == 1
    return said.err


def broken_job(change: dict, tmp_path: Path) -> str:
    fields = json.loads(tiny_job("detector", tmp_path).model_dump_json())
    path = tmp_path / "job.json"
    path.write_text(json.dumps({k: v for k, v in (fields | change).items() if v != "LEFT OUT"}))
    return str(path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kind": "diffusion"}, "kind: Input should be"),
        ({"steps": 0}, "steps: Input should be greater than 0"),
        ({"steps": "LEFT OUT"}, "steps: Field required"),
        ({"batch_size": "many"}, "batch_size: Input should be a valid integer"),
        ({"optimizer": {"learning_rate": -1}}, "optimizer.learning_rate: Input should be greater than 0"),
        ({"optimizer": {"rate": 1}}, "optimizer.rate: Extra inputs are not permitted"),
        ({"precision": "fp16"}, "precision: Input should be"),
        ({"colour": 1}, "colour: Extra inputs are not permitted"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0"),
        ({"data": "procedural:shapes?level=huge"}, 'level "huge" is none of demo, lite, full'),
        ({"model": {"wide": 3}}, "model.wide: Extra inputs are not permitted"),
        ({"objective": {"num_images": 0}}, "objective.num_images: Input should be greater than 0"),
    ],
)
def test_a_bad_job_ends_with_2_and_one_sentence_naming_the_field(
    change, named, tmp_path, monkeypatch, capsys
):
    assert named in refused([broken_job(change, tmp_path)], monkeypatch, capsys)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "cannot be read (No such file"),
        (b"{", "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[]", "object"),
    ],
)
def test_a_file_that_is_no_job_is_named(content, named, tmp_path, monkeypatch, capsys):
    path = tmp_path / "job.json"
    if content is not None:
        path.write_bytes(content)
    said = refused([str(path)], monkeypatch, capsys)
    assert str(path) in said
    assert named in said


@pytest.mark.parametrize("argv", [[], ["a.json", "b.json"]])
def test_wrong_usage_is_told(argv, monkeypatch, capsys):
    assert "usage: python -m fluxmodel.training JOB.json" in refused(argv, monkeypatch, capsys)


def test_a_bad_job_is_refused_by_the_real_child_before_torch_is_loaded(tmp_path):
    started = time.monotonic()
    done = run_python("-X", "importtime", "-m", "fluxmodel.training", broken_job({"steps": 0}, tmp_path))
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert (done.returncode, len(said)) == (2, 1)
    assert " torch\n" not in done.stderr
    assert time.monotonic() - started < PATIENCE_SECONDS


def test_the_end_of_the_parent_asks_for_a_stop(monkeypatch):
    read_end, write_end = os.pipe()
    monkeypatch.setenv("FLUXLINE_PARENT_PIPE", str(read_end))
    with signals_restored():
        stop = watch_for_stop()
    time.sleep(0.05)
    assert not stop.is_set()
    os.close(write_end)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not stop.is_set():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.close(read_end)


def test_signals_may_come_while_one_is_being_handled():
    """With threading.Event in the handler the child waited for itself for ever, and kept its device."""
    code = """if True:
        import signal, sys
        from fluxmodel.training.__main__ import watch_for_stop
        stop, left = watch_for_stop(), [5]

        def strike(frame, event, _):
            if frame.f_code.co_name == "set" and event == "line" and left[0]:
                left[0] -= 1
                signal.raise_signal(signal.SIGTERM)
            return strike

        sys.settrace(strike)
        signal.raise_signal(signal.SIGTERM)
        sys.settrace(None)
        print(stop.is_set(), left[0] < 5)
    """
    assert run_python("-c", code, timeout=PATIENCE_SECONDS).stdout.strip() == "True True"


def test_a_rank_without_the_pipe_goes_on(monkeypatch):
    monkeypatch.setenv("FLUXLINE_PARENT_PIPE", "10000")
    with signals_restored():
        stop = watch_for_stop()
    time.sleep(0.05)
    assert not stop.is_set()


def test_a_number_that_is_no_pipe_is_not_read(tmp_path):
    read_end, write_end = os.pipe()
    try:
        assert is_pipe(read_end)
    finally:
        os.close(read_end)
        os.close(write_end)
    with (tmp_path / "file").open("w") as file:
        assert not is_pipe(file.fileno())
    assert not is_pipe(10_000)


def test_a_job_survives_its_file(tmp_path):
    job = tiny_job("flow", tmp_path)
    again = read_job(str(write_job(job, tmp_path / "job.json")))
    assert again.model_dump(mode="json") == job.model_dump(mode="json")


def test_places_do_not_influence_what_a_job_means(tmp_path):
    job = tiny_job("flow", tmp_path)
    moved = job.model_copy(
        update={"output": "elsewhere", "data": "there", "inputs": {"a": "b"}, "log_every": 7}
    )
    assert moved.semantic() == job.semantic()
    for change in ({"seed": 5}, {"steps": 13}, {"precision": "bf16"}, {"threads": 2}, {"world_size": 2}):
        assert job.model_copy(update=change).semantic() != job.semantic(), change


def test_threads_of_a_test_are_one():
    assert torch.get_num_threads() == 1
