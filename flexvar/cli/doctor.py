"""``flexvar doctor``: what is here, what would be used, and why not the rest."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

import typer

from flexvar.cli.output import tell

# Packages whose version explains what runs, by distribution name.
PACKAGES = (
    "torch",
    "numpy",
    "einops",
    "pydantic",
    "pluggy",
    "safetensors",
    "huggingface-hub",
    "pillow",
    "flash-attn",
    "flash-attn-4",
    "mamba-ssm",
    "causal-conv1d",
    "fla-core",
    "triton",
    "accelerate",
    "torchvision",
)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    run: Annotated[
        bool,
        typer.Option(
            "--run",
            help="Run flexvar's own kernels on every GPU: whether they agree with torch's own "
            "steps there, gradients included where training takes them, and how fast they are.",
        ),
    ] = False,
) -> None:
    """Show versions, devices, and which kernels can be had, would be used, and why not the others.

    Example: flexvar doctor --run
    """
    report = examine(run=run)
    if as_json:
        import json

        tell(json.dumps(report, indent=2))
        return
    _heading("Versions")
    for name, version in report["versions"].items():
        tell(f"  {name:16} {version or '-'}")
    _heading("Devices")
    for device in report["devices"]:
        tell(f"  {device['name']:16} {device['description']}")
    for name, backbone in report["backbones"].items():
        _heading(f"Kernels of backbone {name}")
        for kernel in backbone["kernels"]:
            mark = "yes" if kernel["available"] else "no"
            tell(f"  {kernel['name']:10} {mark:4} {kernel['reason']}")
            if kernel["install"]:
                tell(f"  {'':10} {'':4} install: {kernel['install']}")
        for chosen in backbone["auto"]:
            tell(f"  auto on {chosen['device']} in {chosen['dtype']}: {chosen['kernel']}")
    _heading("Own kernels, that `compile` takes on CUDA where they agree with torch's own steps")
    for own in report["own_kernels"]:
        tell(f"  {own['name']:14} {own['does']}")
        for tried in own["tried"]:
            tell(f"  {'':14} {tried['device']}: {_tried(tried)}")
    if report["own_kernels_note"]:
        tell(f"  {report['own_kernels_note']}")
    if report["problems"]:
        _heading("Problems")
        for problem in report["problems"]:
            tell(f"  {problem}")


def examine(*, run: bool = False) -> dict[str, Any]:
    """All that `doctor` shows, as plain data; run: with flexvar's own kernels tried and timed."""
    import os
    import platform

    import torch

    from flexvar import __version__
    from flexvar.plugin import default_registry

    devices = [torch.device("cpu")]
    devices += [torch.device("cuda", n) for n in range(torch.cuda.device_count())]
    cpu = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    described = [{"name": "cpu", "description": f"{cpu}{_cpu_memory()}{_cpu_precisions()}"}]
    for device in devices[1:]:
        properties = torch.cuda.get_device_properties(device)
        free, total = torch.cuda.mem_get_info(device)
        text = (
            f"{properties.name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, compute "
            f"capability {properties.major}.{properties.minor}"
        )
        described.append({"name": str(device), "description": text})
    if len(devices) == 1:
        why = "torch is a CPU build" if torch.version.cuda is None else "no CUDA device is visible"
        described.append({"name": "cuda", "description": f"none: {why}"})

    registry = default_registry()
    problems = [f"{failure.plugin}: {failure.reason}" for failure in registry.failures]
    backbones: dict[str, Any] = {}
    for provided in registry.components:
        if provided.kind != "backbone":
            continue
        try:
            cls = registry.load("backbone", provided.qualified)
            if not hasattr(cls, "kernels"):
                continue
            kernels = [
                {
                    "name": kernel.name,
                    "available": kernel.available,
                    "reason": kernel.reason,
                    "install": kernel.install,
                }
                for kernel in cls.kernels()
            ]
            # Every GPU of one machine is as good as the first for this question.
            auto = [
                {
                    "device": device.type,
                    "dtype": str(dtype).removeprefix("torch."),
                    "kernel": cls.auto(device, dtype),
                }
                for device in devices[:2]
                for dtype in (torch.float32, torch.bfloat16)
            ]
        except Exception as error:
            problems.append(f"backbone {provided.qualified}: {type(error).__name__}: {error}")
            continue
        backbones[registry.name_of(provided)] = {"kernels": kernels, "auto": auto}
    own, note = _own_kernels(registry, devices[1:], run)
    versions = {"flexvar": __version__, "python": platform.python_version()}
    versions |= {name: _version(name) for name in PACKAGES}
    return {
        "versions": versions,
        "devices": described,
        "backbones": backbones,
        "own_kernels": own,
        "own_kernels_note": note,
        "problems": problems,
    }


def _own_kernels(registry: Any, gpus: list[Any], run: bool) -> tuple[list[dict[str, Any]], str]:
    """Kernels by name, what trying them on each GPU gave, and why they were not tried."""
    import torch

    from flexvar.generation import draw  # noqa: F401 - defines one
    from flexvar.ops import fusion

    for provided in registry.components:
        if provided.kind == "tokenizer":  # as backbones above: whose modules define theirs
            with contextlib.suppress(Exception):
                registry.load(provided.kind, provided.qualified)
    own = []
    for name, one in sorted(fusion.KNOWN.items()):
        tried = []
        for device in gpus if run else []:
            verdict = fusion.verdict_on(one, device)
            found = {"device": str(device), "agrees": verdict.agrees, "reason": verdict.reason}
            if verdict.agrees:
                plain, fused = fusion.seconds(one, device, torch.bfloat16)
                found |= {"plain_s": plain, "fused_s": fused}
            tried.append(found)
        own.append({"name": name, "does": one.does, "tried": tried})
    if not gpus:
        return own, "not tried: no GPU"
    if reason := fusion.why_not():
        return own, f"{reason}; install: {fusion.INSTALL}"
    return own, "" if run else "not tried; flexvar doctor --run does that"


def _tried(tried: dict[str, Any]) -> str:
    if not tried["agrees"]:
        return f"not taken: {tried['reason']}"
    plain, fused = (1e6 * tried[key] for key in ("plain_s", "fused_s"))
    return f"{tried['reason']}; {plain:.1f} us in torch's own steps, {fused:.1f} us as one (bf16)"


def _version(distribution: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _cpu_memory() -> str:
    import os

    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return ""
    return f", {size / 2**30:.1f} GiB"


def _cpu_precisions() -> str:
    """In which precisions the CPU is fast, and why not in int8."""
    import torch

    from flexvar.ops import int8

    half = ", bf16" if int8.rest() == torch.bfloat16 else ""
    why = int8.why_not()
    return f"; fast in fp32{half}" + (f"; no int8: {why}" if why else ", int8")


def _heading(text: str) -> None:
    typer.secho(text, bold=True)
