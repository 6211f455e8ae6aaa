"""Times of the state-space scan, and of a generation with state against running the prefix again.

    OMP_NUM_THREADS=2 python -m benchmarks.suites.scan

Nothing is timed before both sides are seen to compute the same. The two sides of a comparison
take turns, so that both meet the same machine; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from flexvar_plugins.backbones import ssd
from flexvar_plugins.backbones.mamba import MambaBackbone, MambaConfig
from torch import Tensor

from benchmarks.harness import measure
from flexvar.components import Facts, Position
from flexvar.config import parse
from flexvar.layout import Layout
from flexvar.ops.memory import keep_freed_memory

LAYOUT_256 = Layout.of(1, 2, 3, 4, 5, 6, 8, 10, 13, 16)  # 680 tokens
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Comparison:
    """Seconds of a plain and a fast way to the same result, one number per repeat."""

    name: str
    plain: tuple[float, ...]
    fast: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """How many times faster the fast way is, by medians."""
        return statistics.median(self.plain) / statistics.median(self.fast)

    def row(self) -> str:
        """One line of the table: medians and quartiles in ms."""
        cells = []
        for seconds in (self.plain, self.fast):
            found = measure.summary(list(seconds))
            median, low, high = (1e3 * found[key] for key in ("median_s", "low_s", "high_s"))
            cells.append(f"{median:.1f} ({low:.1f} to {high:.1f})")
        return f"{self.name:<34} {cells[0]:>26} {cells[1]:>26} {self.ratio:7.1f}"


def compare(
    name: str, plain: Callable[[], object], fast: Callable[[], object], repeats: int
) -> Comparison:
    """Times of both ways in turn, after one untimed call of each."""
    seconds = measure.interleaved({"plain": plain, "fast": fast}, repeats)
    return Comparison(name, tuple(seconds["plain"]), tuple(seconds["fast"]))


def check_same(ours: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Raise unless all tensors agree within 1e-4 of the largest number in them (at least 1)."""
    for number, (one, other) in enumerate(zip(ours, expected, strict=True)):
        difference = (one - other).abs().max().item() / max(1.0, other.abs().max().item())
        if not difference <= TOLERANCE:
            raise AssertionError(f"result {number} differs by {difference}; nothing is timed")


def compare_scans(
    depth: int = 16, batch: int = 1, tokens: int = 680, repeats: int = 7
) -> list[Comparison]:
    """``reference`` against ``torch`` at the width of a depth, fp32, state size 128."""
    generator = torch.Generator().manual_seed(0)
    heads, dim, states = 2 * depth, 64, 128

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    leaves = [
        draw(batch, tokens, heads, dim),
        F.softplus(draw(batch, tokens, heads) - 3),
        -1 - 15 * torch.rand(heads, generator=generator),
        draw(batch, tokens, states),
        draw(batch, tokens, states) / states**0.5,
        torch.ones(heads),
    ]
    trained = [leaf.clone().requires_grad_() for leaf in leaves]
    cotangent = draw(batch, tokens, heads, dim)

    @torch.no_grad()
    def forward(scan: ssd.Scan) -> tuple[Tensor, Tensor]:
        return scan(ssd.Inputs(*leaves), None)

    def both_ways(scan: ssd.Scan) -> tuple[Tensor, ...]:
        y_BLHd, _ = scan(ssd.Inputs(*trained), None)
        return torch.autograd.grad(y_BLHd, trained, cotangent)

    found = []
    for name, way in (("forward", forward), ("forward and backward", both_ways)):
        check_same(way(ssd.chunked), way(ssd.reference))
        found.append(
            compare(
                f"scan, {name}",
                lambda way=way: way(ssd.reference),  # type: ignore[misc]
                lambda way=way: way(ssd.chunked),  # type: ignore[misc]
                repeats,
            )
        )
    return found


@torch.inference_mode()
def compare_generations(
    depth: int = 8, batch: int = 2, layout: Layout = LAYOUT_256, repeats: int = 5
) -> Comparison:
    """All scales through the backbone: the whole prefix each time, against the state handed on.

    batch: 2 is one image with guidance.
    """
    torch.manual_seed(0)
    # Open gates: with fresh ones of 1e-3 the check before would see little of the mixers.
    config = parse(MambaConfig, {"depth": depth, "init_gate": 1.0})
    facts = Facts(8912, 32, config.width, config.head_dim, 1000)
    backbone = MambaBackbone(config, facts=facts).eval()
    x_BLD = torch.randn(batch, layout.tokens, config.width)
    cond_BD, position = torch.randn(batch, config.width), Position()
    prefixes = [Layout(layout.grids[: step + 1]) for step in range(len(layout))]

    def with_prefix() -> Tensor:
        parts = []
        for prefix, part in zip(prefixes, layout.slices, strict=True):
            y_BLD = backbone(x_BLD[:, : part.stop], cond_BD, prefix, position)
            parts.append(y_BLD[:, part])
        return torch.cat(parts, dim=1)

    def with_state() -> Tensor:
        state = backbone.start(cond_BD, layout, position)
        parts = [backbone.step(x_BLD[:, part], state) for part in layout.slices]
        return torch.cat(parts, dim=1)

    check_same([with_state()], [with_prefix()])
    return compare(
        f"backbone of depth {depth}, {len(layout)} scales", with_prefix, with_state, repeats
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Print one table of all comparisons, with machine and settings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--depth", type=int, default=8, help="of the backbone that generates")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args(argv)
    keep_freed_memory()  # as flexvar's own commands do
    counts = list(accumulate(grid.cells for grid in LAYOUT_256))
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, fp32; median (quartiles) in ms of {options.repeats} runs"
    )
    print(
        "scan: 680 tokens, 32 heads of 64, state 128, batch 1, reference against torch\n"
        f"backbone: batch 2, {sum(counts)} tokens by prefix against {counts[-1]} with state"
    )
    print(f"{'':<34} {'plain':>26} {'fast':>26} {'ratio':>7}")
    for comparison in (
        *compare_scans(repeats=options.repeats),
        compare_generations(depth=options.depth, repeats=options.repeats),
    ):
        print(comparison.row(), flush=True)


if __name__ == "__main__":
    main()
