"""``flexvar plugins``: every component there is, and every plugin that failed."""

from __future__ import annotations

from typing import Annotated

import typer


def plugins(
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show the whole traceback of plugins that failed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the components of all plugins, and the plugins that failed with their reason.

    FLEXVAR_DISABLE=name,... skips plugins by distribution or entry point before they are imported;
    FLEXVAR_STRICT=1 raises what is otherwise only listed.

    Example: flexvar plugins --traceback
    """
    from flexvar.plugin import default_registry

    registry = default_registry()
    if as_json:
        import json

        data = {
            "components": [
                {
                    "kind": p.kind,
                    "name": p.component.name,
                    "distribution": p.distribution,
                    "summary": p.component.summary,
                    "target": p.component.target,
                    "missing": list(p.missing),
                }
                for p in registry.components
            ],
            "failures": [
                {"plugin": f.plugin, "reason": f.reason, "traceback": f.traceback}
                for f in registry.failures
            ],
        }
        typer.echo(json.dumps(data, indent=2))
        return
    rows = [("KIND", "NAME", "FROM", "NEEDS", "SUMMARY")]
    for p in registry.components:
        needs = f"missing: {', '.join(p.missing)}" if p.missing else "met"
        rows.append((p.kind, registry.name_of(p), p.distribution, needs, p.component.summary))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        typer.echo("  ".join([*cells, row[4]]).rstrip())
    if registry.failures:
        typer.echo("")
        typer.secho(f"{len(registry.failures)} failed:", fg=typer.colors.RED)
        for failure in registry.failures:
            typer.echo(f"  {failure.plugin}: {failure.reason}")
            if traceback and failure.traceback:
                typer.echo("    " + failure.traceback.rstrip().replace("\n", "\n    "))
        if not traceback and any(failure.traceback for failure in registry.failures):
            typer.echo("Tracebacks: flexvar plugins --traceback")
