"""``flexvar doctor``: what is here, what would be used, and why not the rest."""

from __future__ import annotations

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
) -> None:
    """Show versions, devices, and which kernels can be had, would be used, and why not the others.

    Example: flexvar doctor --json
    """
    report = examine()
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
    if report["problems"]:
        _heading("Problems")
        for problem in report["problems"]:
            tell(f"  {problem}")


def examine() -> dict[str, Any]:
    """All that `doctor` shows, as plain data."""
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
    versions = {"flexvar": __version__, "python": platform.python_version()}
    versions |= {name: _version(name) for name in PACKAGES}
    return {
        "versions": versions,
        "devices": described,
        "backbones": backbones,
        "problems": problems,
    }


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
