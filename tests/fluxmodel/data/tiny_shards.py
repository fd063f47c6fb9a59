"""Small tables and tars of six pictures for the tests of sources, and what a source gives of them."""

import io
import tarfile
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from fluxmodel.data.records import RawSample, UnreadableFile
from fluxmodel.data.sources import open_source
from tests.fluxmodel.data.pictures import encoded, picture

PICTURES = [encoded(picture(seed)) for seed in range(6)]


def structs(pictures=PICTURES) -> list[dict]:
    return [{"bytes": each, "path": None} for each in pictures]


def write_table(path, rows_a_group: int = 2, **columns) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=rows_a_group)
    return str(path)


def write_tar(path, *members, mode: Literal["w", "w:gz"] = "w") -> str:
    """Members are (name, data) or TarInfo without data."""
    with tarfile.open(path, mode) as tar:
        for member in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member[0])
            if not isinstance(member, tarfile.TarInfo):
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
            else:
                tar.addfile(info)
    return str(path)


def special(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def opened(data) -> Any:
    return open_source(str(data))


def samples(data) -> list[RawSample]:
    return [item for item in open_source(str(data)) if isinstance(item, RawSample)]


def refused(data) -> list[UnreadableFile]:
    return [item for item in open_source(str(data)) if isinstance(item, UnreadableFile)]
