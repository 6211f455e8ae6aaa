"""``flexvar plugins``: components, plugins that failed, the options of one component."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flexvar.cli.output import tell


def plugins(
    name: Annotated[
        str | None,
        typer.Argument(help="Show this component and its options; kind:name where it is needed."),
    ] = None,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show the whole traceback of plugins that failed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the components of all plugins, and the plugins that failed; or show one's options.

    FLEXVAR_DISABLE=name,... skips plugins by distribution or entry point before they are imported;
    FLEXVAR_STRICT=1 raises what is otherwise only listed.

    Example: flexvar plugins --traceback

    Example: flexvar plugins transformer
    """
    from flexvar.plugin import default_registry

    registry = default_registry()
    if name is not None:
        _show(registry, name, as_json)
        return
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
        tell(json.dumps(data, indent=2))
        return
    rows = [("KIND", "NAME", "FROM", "NEEDS", "SUMMARY")]
    for p in registry.components:
        needs = f"missing: {', '.join(p.missing)}" if p.missing else "met"
        rows.append((p.kind, registry.name_of(p), p.distribution, needs, p.component.summary))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        tell("  ".join([*cells, row[4]]).rstrip())
    if registry.failures:
        tell("")
        typer.secho(f"{len(registry.failures)} failed:", fg=typer.colors.RED)
        for failure in registry.failures:
            tell(f"  {failure.plugin}: {failure.reason}")
            if traceback and failure.traceback:
                tell("    " + failure.traceback.rstrip().replace("\n", "\n    "))
        if not traceback and any(failure.traceback for failure in registry.failures):
            tell("Tracebacks: flexvar plugins --traceback")


def _show(registry: Any, name: str, as_json: bool) -> None:
    """One component: what it is, and its options. Raises `FlexvarError` for what there is not."""
    import inspect
    import json
    from dataclasses import asdict

    from flexvar.errors import PluginError
    from flexvar.plugin import KINDS, OFFERS
    from flexvar.plugin.options import options_of

    kind, colon, plain = name.partition(":")
    kinds = [kind] if colon else list(OFFERS)
    if colon and kind not in OFFERS:
        raise PluginError(f"{name!r}: there is no kind {kind!r}. Kinds: {', '.join(OFFERS)}.")
    wanted = plain if colon else name
    found = []
    for one in kinds:
        try:
            found.append(registry.find(one, wanted))
        except PluginError as error:
            if "several plugins" in str(error) or colon:
                raise
    if not found:
        from difflib import get_close_matches

        names = sorted({n for one in KINDS for n in registry.names(one)})
        near = get_close_matches(wanted, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise PluginError(f"There is no component {name!r}.{hint} See `flexvar plugins`.")
    shown: list[dict[str, Any]] = []
    for part in found:
        cls = registry.load(part.kind, wanted)
        schema = getattr(cls, "Config", None)
        options = options_of(schema) if isinstance(schema, type) else []
        shown.append(
            {
                "kind": part.kind,
                "name": part.component.name,
                "distribution": part.distribution,
                "summary": part.component.summary,
                "about": inspect.getdoc(cls) or "",
                "options": [asdict(option) for option in options],
            }
        )
    if as_json:
        tell(json.dumps(shown, indent=2))
        return
    for number, entry in enumerate(shown):
        if number:
            tell("")
        typer.secho(f"{entry['kind']} {entry['name']} ({entry['distribution']})", bold=True)
        tell(entry["about"] or entry["summary"])
        tell("")
        for option in entry["options"]:
            tell(f"  {option['name']}: {option['type']} = {option['default']}")
            if option["meaning"]:
                tell(f"      {option['meaning']}")
        if not entry["options"]:
            tell("  It has no options.")
