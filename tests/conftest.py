"""What every test gets: one thread, an empty home of its own, and no way out to the network."""

import os

# Before anything imports torch: one thread a process, or parallel workers trample each other (and the
# summation order, hence the last digit, would depend on the machine).
os.environ["OMP_NUM_THREADS"] = "1"
# Never a request outside, neither for usage reports nor for models.
os.environ.update(
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    DO_NOT_TRACK="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    MPLBACKEND="agg",
)

import ipaddress
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.databases import MLFLOW_VARIABLE, PREFECT_VARIABLES
from tests.kit import OutsideNetworkError, require_external

EMOJI_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")


def pytest_configure(config: pytest.Config) -> None:
    """Give this process homes of its own before any library reads the environment."""
    named = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "FLUXLINE_HOME", "MLFLOW_DEFAULT_ARTIFACT_ROOT")
    for name in (*named, *PREFECT_VARIABLES, MLFLOW_VARIABLE):
        os.environ.pop(name, None)
    home = Path(tempfile.mkdtemp(prefix="fluxline-tests-"))
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    os.environ["FLUXLINE_HOME"] = str(home / "fluxline")
    os.environ["PREFECT_HOME"] = str(home / "prefect")
    # A shell starts what it puts into the background deaf to Ctrl-C, and so would be all that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def fluxline_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty FLUXLINE_HOME for this test alone."""
    home = tmp_path / "fluxline-home"
    monkeypatch.setenv("FLUXLINE_HOME", str(home))
    monkeypatch.setenv("FLUXLINE_LOCKS", str(tmp_path / "gpu-locks"))  # by default the whole machine's
    return home


@pytest.fixture(autouse=True, scope="session")
def no_outside_network() -> Iterator[None]:
    """Fail a test that connects to, or looks up, a host other than this machine."""
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def guarded(original):
        def call(sock, address):
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                _refuse_outside(address[0])
            return original(sock, address)

        return call

    def guarded_getaddrinfo(host, *args, **kwargs):
        _refuse_outside(host)
        return getaddrinfo(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded(connect))
        patch.setattr(socket.socket, "connect_ex", guarded(connect_ex))
        patch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
        yield


def _refuse_outside(host: str | bytes | None) -> None:
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost", socket.gethostname()):
        return
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        raise OutsideNetworkError(f"a test looked up {name!r}: tests talk to this machine only") from None
    if not (address.is_loopback or address.is_unspecified):
        raise OutsideNetworkError(f"a test connected to {name}: tests talk to this machine only")


@pytest.fixture(scope="session")
def chromium() -> Path:
    """The browser for tests that look at pages; skips where it is not installed."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return require_external(Path(found) if found else None, "Chromium (Debian package chromium)")


@pytest.fixture(scope="session")
def emoji_font() -> Path:
    """The colour emoji font real image folders are drawn from; skips where it is not installed."""
    found = EMOJI_FONT if EMOJI_FONT.is_file() else None
    return require_external(found, "Noto Color Emoji (Debian package fonts-noto-color-emoji)")
