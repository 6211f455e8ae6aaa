"""``flexvar pull``: released models by name, downloaded, converted and kept."""

from __future__ import annotations

from typing import Annotated

import typer


def pull(
    name: Annotated[
        list[str] | None,
        typer.Argument(
            help="Released models, or hub ids of flexvar's own checkpoints.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """Download released models and convert them; without a name, list what there is.

    Files go through the hub's cache (HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE); the converted model
    is kept in FLEXVAR_CACHE. --model NAME and Pipeline.from_pretrained(NAME) then find it, and
    do the same where it is not here yet. Of a hub id, owner/name, the newest checkpoint is taken.

    Example: flexvar pull NAME
    """
    from flexvar.locate import bundled_names, newest
    from flexvar.plugin import default_registry
    from flexvar.pull import known, listing, names, pull

    registry = default_registry()
    if not name:
        entries = known(registry)
        if as_json:
            import json
            from dataclasses import asdict

            typer.echo(json.dumps([asdict(entry) for entry in entries], default=str, indent=2))
            return
        for line in listing(entries):
            typer.echo(line)
        typer.echo("")
        typer.echo("~ is an estimate from the number of weights; before a download the hub is")
        typer.echo(f"asked. In the package itself: {', '.join(bundled_names())}.")
        return
    for one in name:
        if "/" in one and one not in names(registry):
            folder = newest(one)
        else:
            folder = pull(one, registry, say=typer.echo)
        typer.echo(f"{one} is here: {folder}")
