"""The bundled tokenizer: how fast it encodes and decodes, and what is left of a photograph."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import plots
from benchmarks.harness.cells import Row, measured, milliseconds, mixed_rows, shown_rows
from benchmarks.harness.measure import PeakMemory, timed
from benchmarks.harness.suite import Case, Options, Red, Section, Table
from flexvar import Pipeline
from flexvar.data import DataConfig, open_data
from flexvar.ops.precision import parse_dtype
from flexvar.sequence import fold_scales

SUITE = "tokenizer"
SUMMARY = "Encoding and decoding with the bundled tokenizer, PSNR, SSIM and use of codes by scale"
MODEL = "photos"
# Pictures in [-1,1] of the decoder as it is and of a copy in NCHW, in fp32.
TOLERANCE = 1e-4
# How far a picture may be from that of fp32, root mean square, in [-1,1].
HALF_TOLERANCE = 0.05


def cases(options: Options) -> list[Case]:
    """Speed by size, batch and dtype; quality on held-out crops, at the size of training."""
    sizes: tuple[int, ...] = (64,) if options.quick else (64, 256)
    batches: tuple[int, ...] = (1,) if options.quick else (1, 8)
    dtypes = ("fp32",) if options.quick else ("fp32", "bf16")
    if options.on_gpu and not options.quick:
        sizes, batches = (64, 256, 512, 1024), (1, 16)
    common = options.settings(model=MODEL)
    found = []
    for pixels in sizes:
        for batch in batches:
            for dtype in dtypes:
                repeats = 5 if options.quick else 11
                given = common | {
                    "pixels": pixels, "batch": batch, "dtype": dtype, "repeats": repeats,
                }  # fmt: skip
                name = f"{MODEL} {pixels}px batch {batch} {dtype}"
                found.append(Case(SUITE, name, given, partial(_speed, given)))
    given = common | {"quality": True, "crops": 16 if options.quick else 256}
    found.append(Case(SUITE, f"{MODEL} quality", given, partial(_quality, given)))
    return found


def _speed(settings: dict[str, Any]) -> dict[str, Any]:
    pipe = Pipeline.from_pretrained(MODEL, device=settings["device"])
    size = (settings["pixels"],) * 2
    images_B3HW = crops(settings["batch"], size).to(pipe.device)
    layout = pipe.layout(size=size, warn=False)
    report = check(pipe, images_B3HW, layout, settings["dtype"])
    pipe.to(dtype=settings["dtype"])
    images_B3HW = images_B3HW.to(parse_dtype(settings["dtype"]))
    with torch.inference_mode(), PeakMemory(pipe.device) as memory:
        latent_BChw = latent_of(pipe, images_B3HW, layout)
        timings = {
            name: timed(run, pipe.device, repeats=settings["repeats"])
            for name, run in (
                ("encode", lambda: pipe.tokenizer.encode(images_B3HW, layout)),
                ("decode", lambda: pipe.tokenizer.decode(latent_BChw)),
            )
        }
    return {
        **timings,
        "encoded_per_s": round(settings["batch"] / timings["encode"]["median_s"], 2),
        "decoded_per_s": round(settings["batch"] / timings["decode"]["median_s"], 2),
        "peak_memory_mib": memory.mib,
        "scales": len(layout),
        "parity": report,
    }


@torch.inference_mode()
def check(pipe: Pipeline, images_B3HW: Tensor, layout: Any, dtype: str) -> dict[str, Any]:
    """That encoding repeats itself, and pictures are those of the plain memory format and fp32.

    pipe: in fp32; it still is afterwards. Raises `Red` if one of them does not hold.
    """
    tokenizer: Any = pipe.tokenizer
    maps = tokenizer.encode(images_B3HW, layout)
    again = tokenizer.encode(images_B3HW, layout)
    if not all(torch.equal(a, b) for a, b in zip(maps, again, strict=True)):
        raise Red("the same pictures were encoded to other tokens the second time")
    latent_BChw = latent_of(pipe, images_B3HW, layout)
    made = tokenizer.decode(latent_BChw)
    plain = copy.deepcopy(tokenizer).to(memory_format=torch.contiguous_format)
    difference = float((made - plain.decode(latent_BChw.contiguous())).abs().max())
    report: dict[str, Any] = {
        "compared": "tokens of two encodings; pictures with those in NCHW, fp32",
        "tolerance": TOLERANCE,
        "greatest": difference,
    }
    if made.shape != images_B3HW.shape or not difference <= TOLERANCE:
        raise Red(f"decoded pictures differ by {difference:.2g} from those in NCHW", report)
    if dtype != "fp32":
        half = copy.deepcopy(tokenizer).to(parse_dtype(dtype))
        found = half.decode(latent_BChw.to(parse_dtype(dtype))).float()
        error = float((found - made).square().mean().sqrt())
        report[dtype] = {"rms_to_fp32": error, "tolerance": HALF_TOLERANCE}
        if not error <= HALF_TOLERANCE:
            raise Red(f"in {dtype} pictures are {error:.2g} from fp32", report)
    return report


def latent_of(pipe: Pipeline, images_B3HW: Tensor, layout: Any) -> Tensor:
    """The quantised latent (B,C,h,w) of pictures in [-1,1]."""
    *_, latent = fold_scales(pipe.tokenizer, pipe.tokenizer.encode(images_B3HW, layout), layout)
    return latent


def crops(count: int, size: tuple[int, int]) -> Tensor:
    """Held-out crops (B,3,H,W) in [-1,1] of the built-in photographs."""
    dataset = open_data(DataConfig(source="photos", size=size), "val")
    return torch.stack([dataset[n * len(dataset) // count].image_3HW for n in range(count)])


def _quality(settings: dict[str, Any]) -> dict[str, Any]:
    from flexvar.training.figures import tokenizer_figures

    pipe = Pipeline.from_pretrained(MODEL, device=settings["device"])
    images_B3HW = crops(settings["crops"], pipe.size)
    report = check(pipe, images_B3HW[:4].to(pipe.device), pipe.layout(warn=False), "fp32")
    flat = tokenizer_figures(pipe, images_B3HW.split(32))
    by_figure: dict[str, Any] = {}
    for key, value in flat.items():
        name, _, grid = key.partition("/")
        if grid:
            by_figure.setdefault(f"{name}_by_scale", {})[grid] = round(value, 4)
        else:
            by_figure[name] = round(value, 4)
    return {**by_figure, "parity": report}


def sections(rows: list[Row]) -> list[Section]:
    """Speed of each size, batch and dtype; what each scale keeps of a photograph."""
    shown = shown_rows(rows)
    speed = [row for row in shown if not row["settings"].get("quality")]
    quality = [row for row in shown if row["settings"].get("quality")]
    header = (
        "case", "encode ms", "decode ms", "encoded/s", "decoded/s", "first decode ms", "peak MiB",
    )  # fmt: skip

    def cells(row: Row) -> list[object]:
        figures = row["figures"]
        return [
            milliseconds(figures["encode"]["median_s"]),
            milliseconds(figures["decode"]["median_s"]),
            f"{figures['encoded_per_s']:,.3g}",
            f"{figures['decoded_per_s']:,.3g}",
            milliseconds(figures["decode"]["first_call_s"]),
            f"{figures['peak_memory_mib']:,.0f}",
        ]

    found = []
    if speed:
        text = (
            "Encoding gives the tokens of every scale; decoding takes the last latent. Held-out "
            "crops of the built-in photographs. Pictures are those of the plain memory format."
        )
        found.append(Section("Tokenizer", text, tables=[mixed_rows(header, speed, cells)]))
    for row in measured(quality):
        figures = row["figures"]
        psnr, ssim, usage = (figures[f"{n}_by_scale"] for n in ("psnr", "ssim", "usage"))
        body = [
            (grid, f"{psnr[grid]:.2f}", f"{ssim[grid]:.3f}" if grid in ssim else "below 7 px",
             f"{100 * share:.1f} %")
            for grid, share in usage.items()
        ]  # fmt: skip
        curve = {"PSNR": [(number + 1.0, value) for number, value in enumerate(psnr.values())]}
        picture = plots.lines(curve, "scale", "PSNR, dB", log_x=False, log_y=False)
        text = (
            f"{row['settings']['crops']} held-out crops; what each scale decodes to, against the "
            "crop at that size. Use: codes that occur at least once at this scale."
        )
        table = Table(("grid", "PSNR dB", "SSIM", "codes used"), body)
        found.append(Section("What a scale keeps", text, [("PSNR by scale", picture)], [table]))
    return found
