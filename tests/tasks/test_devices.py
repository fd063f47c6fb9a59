import pytest

from fluxmodel.errors import InputError
from tasks import devices as found
from tasks.devices import Device, described, devices, placed_devices

DRIVER = (Device("0", 24.0, "GPU-aa11"), Device("1", 80.0, "GPU-bb22"))


@pytest.fixture
def driver(monkeypatch):
    monkeypatch.setattr(found, "driver_devices", lambda: DRIVER)
    for name in (found.NAMED, found.VISIBLE):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("named", "visible", "names"),
    [
        (None, None, "0 1"),
        ("", None, "0 1"),
        ("1", None, "1"),
        (" 0, 1 ", None, "0 1"),
        ("none", None, ""),
        ("None", "0", ""),
        (None, "1", "1"),
        (None, "1,0", "1 0"),
        (None, "GPU-bb", "1"),
        (None, "", ""),
        (None, "0,-1,1", "0"),
        ("5", "0", "5"),
    ],
)
def test_the_devices_are_the_drivers_unless_somebody_says_otherwise(
    driver, monkeypatch, named, visible, names
):
    if named is not None:
        monkeypatch.setenv(found.NAMED, named)
    if visible is not None:
        monkeypatch.setenv(found.VISIBLE, visible)
    assert [device.name for device in devices()] == names.split()


def test_memory_is_the_drivers_unless_it_is_said(driver, monkeypatch):
    assert described(devices()) == "0 (24 GB), 1 (80 GB)"
    monkeypatch.setenv(found.NAMED, "0,1:40,7")
    assert described(devices()) == "0 (24 GB), 1 (40 GB), 7"


@pytest.mark.parametrize("named", ["0,x", "0;1", "-1", "0,", "gpu0", "0:big", "1.5"])
def test_what_is_no_list_of_devices_is_refused(driver, monkeypatch, named):
    monkeypatch.setenv(found.NAMED, named)
    with pytest.raises(
        InputError, match=r"^FLUXLINE_DEVICES is '.*'; give numbers such as 0,1.*, or none\.$"
    ):
        devices()


def test_a_device_named_twice_is_refused(driver, monkeypatch):
    monkeypatch.setenv(found.NAMED, "1,0,01")
    with pytest.raises(InputError, match="names device 1 twice; name each once"):
        devices()


def test_a_device_that_cannot_be_locked_by_number_is_refused(driver, monkeypatch):
    monkeypatch.setenv(found.VISIBLE, "MIG-12")
    with pytest.raises(InputError, match="names 'MIG-12', which is none of the driver's GPUs"):
        devices()


@pytest.mark.parametrize(
    ("visible", "names"),
    [("", ""), ("3", "3"), ("GPU-1,MIG-2", "GPU-1 MIG-2"), ("5,-1,1", "5"), (None, "0 1")],
)
def test_what_a_scheduler_left_us_is_known_by_its_names(driver, monkeypatch, visible, names):
    if visible is not None:
        monkeypatch.setenv(found.VISIBLE, visible)
    assert placed_devices() == tuple(names.split())


def test_a_machine_without_a_driver_has_none():
    found.driver_devices.cache_clear()
    try:
        assert isinstance(found.driver_devices(), tuple)
    finally:
        found.driver_devices.cache_clear()
