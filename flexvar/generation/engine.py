"""Makes generation faster: compiled regions of blocks, recorded graphs, kernels."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import nn

from flexvar.errors import FlexvarError, first_line
from flexvar.generation import draw
from flexvar.generation.graphs import CudaRecorder, Graphs
from flexvar.ops import fusion

if TYPE_CHECKING:
    from flexvar.session import Session

Mode = Literal["auto", "graphs", "regions", "kernels", "off"]
MODES: tuple[Mode, ...] = get_args(Mode)
# Compiled regions have to be so many times as fast as the plain ones to be kept on a CPU.
WORTH_WHILE = 1.03
_log = logging.getLogger("flexvar")


@dataclass(frozen=True, slots=True)
class Compiled:
    """What `flexvar.Pipeline.compile` chose, and why.

    graphs, regions, kernels: what is on. seconds: what choosing took. plain_s, regions_s: seconds
    of one picture either way, where that was measured.
    """

    graphs: bool
    regions: bool
    reason: str
    seconds: float
    plain_s: float | None = None
    regions_s: float | None = None
    kernels: bool = False

    def __str__(self) -> str:
        on = [name for name in ("graphs", "regions", "kernels") if getattr(self, name)]
        chosen = f"compiled with {' and '.join(on)}" if on else "not compiled"
        return f"{chosen}: {self.reason} ({self.seconds:.1f} s)"


def compile_session(session: Session, mode: Mode = "auto") -> Compiled:
    """Choose and switch on what makes a session faster; see `flexvar.Pipeline.compile`."""
    if mode not in MODES:
        raise FlexvarError(f"mode: got {mode!r}; expected {', '.join(MODES)}.")
    on_cuda = session.device.type == "cuda"
    if mode in ("graphs", "kernels") and not on_cuda:
        what = "graphs are recorded" if mode == "graphs" else "kernels run"
        raise FlexvarError(
            f"mode: {what} on CUDA, the model is on {session.device}. Use "
            "mode='regions', or 'auto', which takes what is faster here."
        )
    begun = time.perf_counter()
    session.graphs = None
    compile_regions(session.model, None)
    use_kernels(session, False)
    if mode == "off":
        return Compiled(False, False, "switched off", 0.0)
    regions, reason = False, f"{mode} alone were asked for"
    times: tuple[float | None, float | None] = (None, None)
    kernels = False
    if on_cuda and mode in ("auto", "kernels"):
        kernels, refused = kernels_on(session)
        reason = refused or reason
    if mode in ("auto", "regions"):
        regions, reason, times = _with_regions(session, keep=mode == "regions" or on_cuda)
    if on_cuda and mode in ("auto", "graphs"):
        session.graphs = graphs_of(session)
    done = time.perf_counter() - begun
    return Compiled(session.graphs is not None, regions, reason, done, *times, kernels=kernels)


def graphs_of(session: Session, recorder: Any = None) -> Graphs:
    """Graphs for a session; the recorder is that of its device unless given."""

    def warn(message: str) -> None:
        session._warn_once(message, message)

    return Graphs(recorder or CudaRecorder(session.device), warn=warn, say=_log.info)


def use_kernels(session: Session, on: bool) -> None:
    """Let all parts of a session take kernels, or none.

    Not a tokenizer that adds up in an order it has to keep (`flexvar.session.Session.to`).
    """
    session.fused = on
    for module in session.parts.modules():
        ordered = session.dtype == torch.float32 and getattr(module, "contiguous", False)
        fusion.use(module, on and not ordered)


def kernels_on(session: Session) -> tuple[bool, str]:
    """Switch kernels on if any can be taken on the session's device; why those that cannot.

    Only those that its parts and the samplers use are tried.
    """
    use_kernels(session, True)
    used = {draw.DRAW.name: draw.DRAW}
    for module in session.parts.modules():
        used |= fusion.used(module)
    verdicts = {name: fusion.verdict_on(one, session.device) for name, one in used.items()}
    refused = {name: one.reason for name, one in verdicts.items() if not one.agrees}
    use_kernels(session, len(refused) < len(verdicts))
    if not refused:
        return session.fused, ""
    reasons = "; ".join(sorted(set(refused.values())))
    message = f"Not all kernels are taken, without {', '.join(refused)}: {reasons}"
    session._warn_once("kernels", message)
    return session.fused, message


def compile_regions(model: nn.Module, wrap: Callable[[Any], Any] | None) -> bool:
    """Compile what the backbone names as worth it, or undo it; whether it names anything.

    A backbone that does has the method ``compile_regions(wrap)``: see
    `flexvar.components.Backbone`.
    """
    own = getattr(model.backbone, "compile_regions", None)
    return own is not None and bool(own(wrap))


def regional(backend: str | Callable[..., Any] = "inductor") -> Callable[[Any], Any]:
    """`torch.compile` for a region: one graph for all lengths, for no gradient."""
    return partial(torch.compile, fullgraph=True, dynamic=True, backend=backend)


def _with_regions(
    session: Session, *, keep: bool
) -> tuple[bool, str, tuple[float | None, float | None]]:
    """Whether regions are on, why, and the seconds of a picture without and with.

    keep: also if they are no faster.
    """
    if session.dtype == torch.int8:
        reason = "blocks in int8 cannot be compiled"
        if keep:
            session._warn_once("regions", f"{reason[0].upper()}{reason[1:]}; they run as they are.")
        return False, reason, (None, None)
    wrap = cache(regional())
    if not compile_regions(session.model, wrap):
        return False, "its backbone names no regions", (None, None)
    compile_regions(session.model, None)
    plain = _seconds_of_a_picture(session)
    compile_regions(session.model, wrap)
    try:
        with_regions = _seconds_of_a_picture(session)
    except Exception as error:  # no compiler, no Triton: whatever the machine lacks
        compile_regions(session.model, None)
        first = first_line(error)
        if keep:
            session._warn_once("regions", f"Blocks cannot be compiled here: {first}")
        return False, f"blocks cannot be compiled here ({first})", (plain, None)
    times = f"{plain:.3g} s a picture without compiled blocks, {with_regions:.3g} s with"
    if keep or plain > WORTH_WHILE * with_regions:
        return True, times, (plain, with_regions)
    compile_regions(session.model, None)
    return False, times, (plain, with_regions)


def _seconds_of_a_picture(session: Session) -> float:
    """The less of two, after one that warms up, of the usual size."""
    layout = session.layout(warn=False)
    values = session.values()
    options: dict[str, Any] = {"seed": 0, "progress": False, "output": "tensor"}
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        session.sample(values, layout, options)
        if session.device.type == "cuda":
            torch.cuda.synchronize(session.device)
        seconds.append(time.perf_counter() - begun)
    return min(seconds[1:])


def weights_key(session: Session) -> tuple[int, ...]:
    """Where the weights are that a graph knows the addresses of, other models' too."""
    sessions = [session, *session._others.values()]
    return tuple(
        parameter.data_ptr()
        for one in sessions
        for module in one.parts.modules()
        for parameter in module.parameters()
    )
