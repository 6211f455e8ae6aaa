"""``flexvar show``: what a checkpoint is, and what its pictures depend on."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flexvar.cli.output import tell

MOST_NAMES = 40


def show(
    model: Annotated[
        str, typer.Argument(help="Checkpoint directory, bundled or released name, or hub id.")
    ],
    size: Annotated[
        str | None,
        typer.Option(
            help="Height x width in pixels; also say what memory pictures of this size take.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="With --size: pictures made at a time.")] = 1,
    dtype: Annotated[str, typer.Option(help="With --size: fp32, bf16, fp16 or int8.")] = "fp32",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a model's parts, sizes, classes and presets, and the options its pictures depend on.

    No weights are read, and none downloaded: a released model need not be here. With --size it says
    what memory weights, keys and values, logits, decoding and a text encoder take.

    Example: flexvar show infinity-2b --size 1024x1024 --dtype bf16
    """
    from flexvar import Pipeline

    pipe = Pipeline.without_weights(model, dtype=dtype)
    facts = describe(pipe, model)
    if size is not None:
        from flexvar.cli import options
        from flexvar.footprint import footprint

        layout = pipe.layout(options.parse_size(size), warn=False)
        found = footprint(pipe, layout, images=batch, images_per_call=batch)
        facts["memory"] = found.report()
        if not as_json:
            for line in [*lines(facts), "", *found.lines()]:
                tell(line)
            return
    if as_json:
        import json

        tell(json.dumps(facts, indent=2))
        return
    for line in lines(facts):
        tell(line)


def describe(pipe: Any, source: str) -> dict[str, Any]:
    """Everything that is shown, as plain values."""
    from flexvar.components.conditioner import takes
    from flexvar.option_help import options_of

    config, space = pipe.config, pipe.tokenizer.space
    facts: dict[str, Any] = {
        "model": source,
        "made_with": config.flexvar_version,
        "parts": {
            kind: {"name": spec.name, **spec.options}
            for kind in ("tokenizer", "backbone", "position", "schedule", "conditioner")
            if (spec := getattr(config.model, kind, None)) is not None
            and (kind == "tokenizer" or config.model.backbone is not None)
        },
        "tokens": {
            "stride": space.stride,
            "values": space.vocab_size,
            "channels": space.code_dim,
            "parts": getattr(space, "groups", 1),
        },
        "parameters": {"tokenizer": _count(pipe.tokenizer)},
        "size": list(pipe.size),
        "trained": None if config.trained is None else config.trained.model_dump(mode="json"),
    }
    if pipe.parts.model is None:
        return facts
    layout = pipe.layout(warn=False)
    facts["parameters"]["model"] = _count(pipe.model)
    facts["grids"] = [list(grid) for grid in layout]
    facts["tokens_per_image"] = layout.tokens
    facts["any_size"] = not pipe.known_layouts
    facts["takes"] = takes(pipe.model.conditioner)
    facts["classes"] = config.model.num_classes
    facts["class_names"] = list(pipe.class_names or ())
    facts["presets"] = {
        name: settings.model_dump(mode="json", exclude_none=True)
        for name, settings in config.presets.items()
    }
    own = pipe.settings.model_dump(mode="json")
    facts["options"] = [
        {"name": o.key, "value": o.default, "values": o.kind, "meaning": o.meaning}
        for o in options_of(type(pipe.settings), own)
    ]
    return facts


def _count(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def lines(facts: dict[str, Any]) -> list[str]:
    """The same for a person."""
    counts, tokens = facts["parameters"], facts["tokens"]
    result = [f"{facts['model']}, made with flexvar {facts['made_with']}", "", "Parts"]
    for kind, part in facts["parts"].items():
        options = ", ".join(f"{key} {value}" for key, value in part.items() if key != "name")
        result.append(f"  {kind:<12}{part['name']}" + (f": {options}" if options else ""))
    many = f" in {tokens['parts']} parts" if tokens["parts"] > 1 else ""
    result.append(
        f"  {'tokens':<12}{tokens['values']} values{many}, one for {tokens['stride']}x"
        f"{tokens['stride']} px"
    )
    sizes = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in counts.items())
    result.append(f"  {'parameters':<12}{sizes}")
    trained = facts["trained"]
    height, width = facts["size"]
    result += ["", "Sizes", f"  {height}x{width} px unless told (--size)"]
    if trained is None:
        result.append("  it does not say what it was trained on")
    else:
        on = f" on {trained['data']}" if trained["data"] else ""
        result.append(f"  trained{on} at {trained['size'][0]}x{trained['size'][1]} px")
    if "grids" not in facts:
        return [*result, "", "A tokenizer alone: it gives pictures back and makes none."]
    grids = ", ".join(f"{h}x{w}" if h != w else str(h) for h, w in facts["grids"])
    if trained is not None and trained.get("steps"):
        least, most = trained["steps"]
        result.append(f"  trained in {least} to {most} steps (--steps)")
    result.append(
        f"  {facts['tokens_per_image']} tokens an image in {len(facts['grids'])} steps: {grids}"
    )
    result.append(
        "  takes other sizes and steps" if facts["any_size"] else "  takes this list of grids only"
    )
    names = facts["class_names"]
    if facts["takes"] == "prompt":
        known = ", the names it was trained with among them" if names else ""
        result += ["", f"Words (--prompt){known}"]
    if facts["takes"] in ("label", None):
        result += ["", f"Classes ({facts['classes']}, --label)"]
        shown = ", ".join(names[:MOST_NAMES]) or f"0 to {facts['classes'] - 1}, without names"
    else:
        shown = ", ".join(names[:MOST_NAMES])
    more = len(names) - MOST_NAMES
    if shown:
        result.append(f"  {shown}" + (f" and {more} more (--json has all)" if more > 0 else ""))
    result += ["", "Presets (--preset)"]
    for name, settings in facts["presets"].items():
        words = ", ".join(f"{key} {value}" for key, value in settings.items())
        result.append(f"  {name}: {words}")
    if not facts["presets"]:
        result.append("  none; the defaults below hold")
    result += ["", "What its pictures depend on, beside label, size, steps and seed"]
    for option in facts["options"]:
        result.append(f"  {option['name']:<18} {option['value']:<8} {option['meaning']}")
    return result
