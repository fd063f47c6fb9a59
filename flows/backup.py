"""`fluxline backup` and `fluxline restore`: a home saved while it works, and back again, there or elsewhere."""

from pathlib import Path
from typing import Any

from flows.servers import running_servers
from fluxmodel.errors import InputError
from tasks.backup import back_up
from tasks.home import open_home
from tasks.recovery import restore_home


def back_up_home(folder: Path, keep: int) -> dict[str, Any]:
    """Back the home up and say what that came to.

    Raises:
        InputError: the folder cannot be used, or a database cannot be read.
    """
    if keep < 0:
        raise InputError(f"--keep {keep} is below 0; 0 keeps all backups.")
    made = back_up(open_home(), folder.expanduser().absolute(), keep)
    return {
        "backup": str(made.path),
        "files": len(made.manifest.files),
        "bytes": made.num_bytes,
        "new_bytes": made.new_bytes,
        "databases": [each.model_dump() for each in made.manifest.databases],
        "left_out": [each for each in (made.manifest.store, made.manifest.tracking) if each],
        "seconds": round(made.seconds, 2),
    }


def restore_into(home: Path | None, source: Path, is_forced: bool) -> dict[str, Any]:
    """Restore a home, FLUXLINE_HOME by default, and say what to do next.

    Raises:
        InputError: there is no backup, the place is taken, or servers work there.
        ArtifactError: the backup is damaged.
    """
    target = open_home(home)
    if running := running_servers(target):
        raise InputError(f"`fluxline up` works in {target.root} (process {running.pid}); stop it first.")
    done = restore_home(target, source.expanduser(), is_forced)
    return {
        "home": str(done.home.root),
        "backup": str(done.path),
        "made": done.manifest.made,
        "files": len(done.manifest.files),
        "kept": str(done.kept or ""),
        "notes": done.notes,
    }


def print_backup(done: dict[str, Any]) -> None:
    """Say what was saved."""
    print(
        f"Saved {done['files']} files and {len(done['databases'])} databases, {done['bytes'] / 1e6:.1f} MB, of which "
        f"{done['new_bytes'] / 1e6:.1f} MB were new, in {done['seconds']:.1f} s: {done['backup']}"
    )
    for place in done["left_out"]:
        print(f"Not part of it: {place}; it needs a backup of its own.")


def print_restored(done: dict[str, Any]) -> None:
    """Say what stands again, and what to do next."""
    print(f"Restored {done['files']} files to {done['home']} from {done['backup']}.")
    if done["kept"]:
        print(f"What was there before is in {done['kept']}.")
    for note in done["notes"]:
        print(note)
