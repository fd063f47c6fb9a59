"""What writes captions: one contract for every back-end, batches that halve, failures that stay one image's own."""

import importlib.metadata
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
import pytest
import torch

from fluxmodel.data.caption_writers import (
    FAULT,
    OUT_OF_MEMORY,
    CaptionFailure,
    CaptionWriter,
    DirectoryWriter,
    captioner_recipe,
    open_writer,
)
from fluxmodel.encoders.captioner import FINISHES, Captioner, Written
from fluxmodel.errors import InputError
from tests.fluxmodel.data.chat_stub import ChatStub, brightness, completion
from tests.fluxmodel.encoders.tiny_captioners import save_blip, save_llava, save_ours

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), np.uint8)
IDS = [f"image-{number}" for number in range(len(IMAGES))]
SAVERS = {"ours": save_ours, "blip": save_blip, "llava": save_llava}


@pytest.fixture(scope="module", params=[*SAVERS, "endpoint"])
def place(request, tmp_path_factory):
    """What `--captioner` names, of every back-end."""
    if request.param == "endpoint":
        with ChatStub() as stub:
            yield stub.address
        return
    directory = tmp_path_factory.mktemp(request.param)
    SAVERS[request.param](directory)
    yield str(directory)


@pytest.fixture
def opened(place) -> Iterator[Callable[..., CaptionWriter]]:
    """Opens the back-end, as often as it is called."""
    with ExitStack() as stack:
        yield lambda *given, **more: stack.enter_context(closing(open_writer(place, *given, **more)))


@pytest.fixture
def writer(opened) -> CaptionWriter:
    return opened(batch_size=3)


def texts(results):
    assert all(isinstance(result, Written) for result in results), results
    return [result.text for result in results]


def test_every_image_has_its_own_answer_in_order(writer):
    results = writer.write(IMAGES, IDS)
    assert len(results) == len(IMAGES)
    for written in results:
        assert isinstance(written, Written)
        assert written.text == " ".join(written.text.split())
        assert written.finish in FINISHES
        assert written.score is None or written.score <= 0
        assert written.num_tokens is None or written.num_tokens > 0
    order = [4, 0, 6]
    assert texts(writer.write(IMAGES[order], [IDS[i] for i in order])) == [texts(results)[i] for i in order]


def test_no_image_gives_no_answer_and_an_image_without_id_is_a_mistake(writer):
    assert writer.write(IMAGES[:0], []) == []
    with pytest.raises(ValueError, match="2 images and 1 ids"):
        writer.write(IMAGES[:2], IDS[:1])


def test_each_result_is_handed_over_once_as_soon_as_it_is_there(writer):
    kept = []
    results = writer.write(IMAGES, IDS, kept.append)
    assert len(kept) > 1
    assert dict(pair for group in kept for pair in group) == dict(enumerate(results))
    assert sum(map(len, kept)) == len(IMAGES)


def test_identity_is_the_same_when_opened_again_and_another_with_another_question(opened, writer):
    again, asked = opened(), opened("a red circle")
    assert (again.name, again.revision, again.prompt_hash, again.recipe) == (
        writer.name, writer.revision, writer.prompt_hash, writer.recipe,
    )  # fmt: skip
    assert writer.name
    assert len(writer.revision) == 16
    assert asked.revision == writer.revision
    assert asked.prompt_hash != writer.prompt_hash
    assert "a red circle" in (asked.text or "")
    assert texts(asked.write(IMAGES[:2], IDS[:2]))


def test_what_keep_raises_ends_the_writing(writer):
    def keep(results):
        raise InputError("enough")

    with pytest.raises(InputError, match="enough"):
        writer.write(IMAGES, IDS, keep)


def test_the_endpoints_answers_are_not_mixed_up():
    def late(image, nth):
        return {"sleep": image.mean() % 0.05, **completion(brightness(image))}

    with ChatStub(late) as stub, closing(open_writer(stub.address)) as writer:
        results = writer.write(IMAGES, IDS)
    assert texts(results) == [brightness(image) for image in IMAGES]


@pytest.mark.parametrize("field", ["code", "dtype", "torch", "transformers"])
def test_what_other_code_or_libraries_would_write_is_another_recipe(tmp_path, monkeypatch, field):
    save_ours(tmp_path)
    captioner, version = Captioner.from_directory(tmp_path), importlib.metadata.version
    before = captioner_recipe(captioner)
    with closing(open_writer(str(tmp_path))) as writer:
        assert writer.recipe == before
    if field == "code":
        monkeypatch.setattr("inspect.getsource", lambda thing: "another")
    elif field == "dtype":
        captioner.model.to(torch.bfloat16)
    elif field == "torch":
        monkeypatch.setattr(torch, "__version__", "99.0")
    else:
        monkeypatch.setattr(
            "importlib.metadata.version", lambda name: "99.0" if name == field else version(name)
        )
    after = captioner_recipe(captioner)
    assert {name for name in before if before[name] != after[name]} == {field}


# Halving


@pytest.fixture
def narrow(tmp_path, monkeypatch):
    """A writer for 2 images at once, whose model fails as told; `sizes` are the batches it was given."""
    save_ours(tmp_path)
    sizes, caption = [], Captioner.caption

    def limited(self, images, batch_size=500):
        sizes.append(len(images))
        if len(images) > 2:
            raise narrow_writer.error
        return caption(self, images, batch_size)

    monkeypatch.setattr(Captioner, "caption", limited)
    narrow_writer: Any = DirectoryWriter(tmp_path, batch_size=len(IMAGES))
    narrow_writer.error = torch.OutOfMemoryError("CUDA out of memory")
    narrow_writer.sizes = sizes
    return narrow_writer


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:114] . DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("not enough memory: you tried to allocate 7 bytes."),
        MemoryError(),
    ],
)
def test_batches_halve_when_memory_runs_out_and_stay_small(narrow, error):
    narrow.error = error
    results = narrow.write(IMAGES, IDS)
    assert narrow.sizes == [7, 4, 2, 2, 3, 2, 1]
    assert len(texts(results)) == 7
    narrow.write(IMAGES, IDS)
    assert narrow.sizes[7:] == [2, 2, 2, 1]


def test_an_image_too_large_for_memory_alone_fails_alone(narrow, monkeypatch):
    def none_fits(self, images, batch_size=500):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Captioner, "caption", none_fits)
    assert {result.reason for result in narrow.write(IMAGES, IDS)} == {OUT_OF_MEMORY}


def test_one_images_error_is_its_own(narrow, monkeypatch):
    good, bad = Captioner.caption, IMAGES[4].transpose(2, 0, 1)

    def fussy(self, images, batch_size=500):
        if any(np.array_equal(image.numpy(), bad) for image in images):
            raise IndexError("index 9 is out of range")
        return good(self, images[:2], batch_size) + ([] if len(images) < 3 else fussy(self, images[2:]))

    monkeypatch.setattr(Captioner, "caption", fussy)
    results = narrow.write(IMAGES, IDS)
    assert results[4] == CaptionFailure(FAULT, "IndexError: index 9 is out of range")
    assert len(texts(results[:4] + results[5:])) == 6
