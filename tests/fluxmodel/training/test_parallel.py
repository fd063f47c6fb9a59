"""How a batch is shared among processes."""

import pytest

from fluxmodel.errors import InputError
from fluxmodel.training.parallel import World, join_world


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_parts_make_up_the_batch(size):
    batch = list(range(8))
    assert [i for rank in range(size) for i in batch[World(rank, size).slice(8)]] == batch


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(InputError, match="batch_size is 9, not a multiple of the 2 processes"):
        World(0, 2).slice(9)


def test_alone_there_is_nothing_to_agree_on(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    world = join_world()
    assert (world.rank, world.size, world.is_first) == (0, 1, True)
    assert world.agree(True)
    assert not world.agree(False)
