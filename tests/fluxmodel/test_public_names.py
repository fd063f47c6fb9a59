"""The package's front door."""

import pytest

import fluxmodel


@pytest.mark.parametrize("name", fluxmodel.__all__)
def test_every_public_name_leads_to_its_object(name):
    assert getattr(fluxmodel, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Sampler'"):
        fluxmodel.Sampler  # noqa: B018
