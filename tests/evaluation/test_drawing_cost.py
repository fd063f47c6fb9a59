import pytest
import torch

from evaluation.drawing_cost import DrawingCost, device_of, num_weight_bytes, peak_of_process
from evaluation.identity import Identity
from fluxmodel.errors import IncomparableError

MIB = 2**20


class Pipe:
    def __init__(self):
        self.network = torch.nn.Linear(100, 50)
        self.other = torch.nn.Linear(10, 10, bias=False).to(torch.bfloat16)
        self.other_name_of_it = self.network
        self.steps = 4


class Holder:
    def __init__(self):
        self.pipe = Pipe()


@pytest.mark.parametrize("pipe", [Pipe(), Holder()])
def test_weights_are_counted_once_in_their_own_precision(pipe):
    assert num_weight_bytes(pipe) == 4 * (100 * 50 + 50) + 2 * 100


def test_the_peak_is_what_was_held_on_the_way_and_let_go_again():
    def work():
        held = torch.ones(96 * MIB, dtype=torch.uint8)
        for _ in range(20):
            held.fill_(2)  # long enough to be seen
        del held

    assert 90 < peak_of_process(work) / MIB < 160


def test_what_fails_while_it_is_watched_fails():
    def work():
        raise RuntimeError("no images")

    with pytest.raises(RuntimeError, match="no images"):
        peak_of_process(work)


def test_the_device_is_named_with_its_threads():
    assert device_of(Pipe()).startswith("cpu ")
    assert "thread" in device_of(Pipe())


def test_times_of_different_machines_are_not_compared():
    from evaluation.identity import require_comparable

    fields = dict.fromkeys(Identity.model_fields, "same") | {"steps": 1, "guidance": 1.0, "n": 8}
    shared = Identity.model_validate(fields)
    first, second = (
        DrawingCost(5.0, 3, 100.0, 8, device).measurements({"steps": 1})[0] for device in ("cpu a", "cpu b")
    )
    with pytest.raises(IncomparableError, match="device: 'cpu a' against 'cpu b'"):
        require_comparable(first.full_identity(shared), second.full_identity(shared))
