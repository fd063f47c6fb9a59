"""The verbs of operations, on the same command as those of `flows.cli`, which imports this module."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from flows.command import Json, app

_Layout = Literal["diffusers", "flux"]


@app.command
def deploy(
    *,
    schedule: Annotated[
        bool, Parameter(negative="", help="Switch the schedules on; without it they stay as they are.")
    ] = False,
    notify: Annotated[
        str,
        Parameter(
            help="Prefect block that is told of failed runs, questions and drift: slack-webhook/NAME, ..."
        ),
    ] = "",
) -> int:
    """Apply deployments, work pool, limits and automations to the Prefect server; a second time changes nothing."""
    from flows.deploy import apply_deployments

    return apply_deployments(schedule, notify)


@app.command
def status(
    *,
    watch: Annotated[
        bool, Parameter(negative="", help="Show it again every two seconds, until Ctrl-C.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Say what runs, what waits for what, how long yet, what comes next and what waits for a person."""
    from flows.status import read_status
    from flows.status_lines import status_lines, watch_status
    from tasks.databases import shown_address

    if watch:
        return watch_status()
    found = read_status()
    print(shown_address(json.dumps(asdict(found))) if as_json else "\n".join(status_lines(found)))
    return 0


@app.command
def backup(
    folder: Annotated[
        Path, Parameter(help="Folder of backups, best on another disk; files they share lie there once.")
    ],
    /,
    *,
    keep: Annotated[int, Parameter(help="Backups to keep, the newest ones; 0 keeps all.")] = 0,
    as_json: Json = False,
) -> int:
    """Save FLUXLINE_HOME and both databases while servers and runs go on."""
    from flows.backup import back_up_home, print_backup

    done = back_up_home(folder, keep)
    if as_json:
        print(json.dumps(done))
    else:
        print_backup(done)
    return 0


@app.command
def restore(
    source: Annotated[Path, Parameter(help="Folder of backups (its newest is taken) or one backup's file.")],
    /,
    *,
    home: Annotated[Path | None, Parameter(help="Where to; default FLUXLINE_HOME.")] = None,
    force: Annotated[bool, Parameter(negative="", help="Move aside what is there.")] = False,
    as_json: Json = False,
) -> int:
    """Bring a home back from a backup, checked, at its old place or another."""
    from flows.backup import print_restored, restore_into

    done = restore_into(home, source, force)
    if as_json:
        print(json.dumps(done))
    else:
        print_restored(done)
    return 0


@app.command
def export(
    model: Annotated[
        str,
        Parameter(help="Registered name, NAME@VERSION, directory, or a network's safetensors file."),
    ],
    /,
    *,
    to: Annotated[Path, Parameter(help="Directory to write; it is missing or empty.")],
    layout: Annotated[
        _Layout,
        Parameter(help="What diffusers loads, or the network as one file under the original FLUX.1 names."),
    ] = "diffusers",
    variant: Annotated[str, Parameter(help="base or rectified; default what the model is made for.")] = "",
    lora: Annotated[
        str, Parameter(help="One of the model's LoRAs, by name, or any by its path; it is merged.")
    ] = "",
    lora_scale: Annotated[float, Parameter(help="How strongly the LoRA is merged.")] = 1.0,
    lora_layout: Annotated[
        Literal["", "peft", "kohya", "comfy"],
        Parameter(help="Write the LoRA beside the network in this layout, instead of merging it."),
    ] = "",
    dtype: Annotated[
        Literal["", "fp32", "bf16", "fp16"], Parameter(help="Of the network; default as it is stored.")
    ] = "",
    as_json: Json = False,
) -> int:
    """Write a model for diffusers or for programs that read the original FLUX.1 names."""
    from flows.run import shown
    from flows.versions import open_registry
    from tasks.export import Wanted, export_model

    with shown():
        wanted = Wanted(model, layout, variant, lora, lora_scale, lora_layout, dtype)
        done = export_model(open_registry(), wanted, to)
    if as_json:
        print(json.dumps(done))
    else:
        print(f"{done['directory']}: {len(done['files'])} files, {done['num_bytes'] / 1e9:.3g} GB")
        if done["note"]:
            print(done["note"])
    return 0
