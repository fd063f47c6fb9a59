"""The Ray cluster on which stages map over shards, as the environment names it; Ray itself is not asked."""

import os
import socket

from fluxmodel.errors import InputError, StageError

ADDRESS = "FLUXLINE_RAY"
"""host:port, ray://host:10001, or `local` for a cluster of the run's own; unset, a stage works in one child."""
COUNT = "FLUXLINE_SHARDS"
"""How many shards; by default as many as the cluster has GPUs, or for a stage of the CPU as it has cores for them."""
LOCAL = "local"
FLOW = "shards"
"""Name of the flow in which a stage's shards run, below the run they belong to."""


def cluster_address() -> str:
    """Return the cluster's address; empty where none is to be used."""
    return os.environ.get(ADDRESS, "").strip()


def check_cluster() -> None:
    """Look whether the cluster that is to be used is there, and the number of shards is one.

    Raises:
        InputError: a variable makes no sense.
        StageError: nobody listens at the address. Ray itself would look for two minutes, and then end the process.
    """
    num_shards(1)
    address = cluster_address()
    if address in ("", LOCAL):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise InputError(
            f"{ADDRESS} is {address!r}; give host:port, ray://host:10001, or `{LOCAL}` for a cluster of the run's own."
        )
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        where = f"The Ray cluster at {address} cannot be reached ({error.strerror or error})"
        raise StageError(f"{where}; start it, or correct or unset {ADDRESS}.") from error


def num_shards(room: int) -> int:
    """Return how many shards to make for a cluster on which `room` of them can work at once.

    Raises:
        InputError: FLUXLINE_SHARDS is no number.
    """
    said = os.environ.get(COUNT, "").strip()
    if not said:
        return max(1, room)
    if not said.isdigit() or not 0 < int(said) <= 10_000:
        raise InputError(f"{COUNT} is {said!r}; give a number of shards, such as 8, or leave it out.")
    return int(said)
