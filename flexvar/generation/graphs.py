"""Generation as graphs: all launches of a kind of request recorded once, and replayed as one.

A graph works on memory of its own: what a request brings is copied into it, what comes out is
copied out of it. It is of one kind of request alone: rows, layout, sampler and its settings
(`flexvar.generation.plan.Setup`), shapes and dtypes of what is brought, weights. No component
knows of it; what cannot be recorded runs as ever, with one warning that says why.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flexvar.components.conditioner import each
from flexvar.errors import first_line
from flexvar.generation.fork import collected
from flexvar.generation.known import Known
from flexvar.generation.loop import Generated
from flexvar.generation.plan import Share

Work = Callable[[Share], Generated]
# Graphs that are kept; the one unused for longest goes first.
MOST = 16
# Of pictures in [0,1], eager and replayed; their tokens have to be the same.
PICTURE_TOLERANCE = 2e-2


class Unrecordable(Exception):  # noqa: N818 - what the work is, not an error of the caller's
    """Work that a graph cannot hold, and why."""


class Recorder(Protocol):
    """How work is recorded.

    ``device`` is True if recorded work may neither read a number nor copy from the host. ``record``
    runs the work, or only records it, and gives what it makes - its numbers are there after the
    first replay - and what replays it on the same memory.
    """

    device: bool

    def record(self, work: Callable[[], Generated]) -> tuple[Generated, Callable[[], object]]: ...


class CudaRecorder:
    """CUDA graphs; all share one pool of memory, since no two run at once."""

    device = True

    def __init__(self, where: torch.device) -> None:
        self._where = where
        self._pool: Any = None

    def record(self, work: Callable[[], Generated]) -> tuple[Generated, Callable[[], object]]:
        """Record the work; nothing of it runs before the first replay."""
        with torch.cuda.device(self._where):
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            # What other threads do meanwhile, such as a loader's, is not forbidden.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                made = work()
        return made, graph.replay


class Rehearsal:
    """A recorder for any device, which calls the work again: as slow as without, and as strict.

    It works on the same memory as a graph would, so that what is wrong about that memory shows on
    a CPU.
    """

    device = False

    def record(self, work: Callable[[], Generated]) -> tuple[Generated, Callable[[], object]]:
        """Run the work and forget its numbers, as a graph has none before its first replay."""
        made = work()
        for tensor in _outputs(made):
            tensor.zero_()

        def replay() -> None:
            for old, new in zip(_outputs(made), _outputs(work()), strict=True):
                old.copy_(new)

        return made, replay


@dataclass(frozen=True, eq=False, slots=True)
class _Graph:
    """One kind of request: the memory it is brought to, what it makes, and what has to live on."""

    share: Share
    made: Generated
    replay: Callable[[], object]
    held: list[Tensor]

    def __call__(self, share: Share) -> Generated:
        for mine, given in zip(tensors(self.share), tensors(share), strict=True):
            mine.copy_(given)
        self.replay()
        return _copied(self.made)


class Graphs:
    """The graphs of a model, by kind of request.

    most: how many are kept. warn: called once with why something is not recorded. say: called
    with a line for each recording: what of, and how long it took.
    """

    def __init__(
        self,
        recorder: Recorder,
        *,
        most: int = MOST,
        warn: Callable[[str], object] = print,
        say: Callable[[str], object] = lambda line: None,
    ) -> None:
        self.recorder, self.most = recorder, most
        self._warn, self._say = warn, say
        self._graphs: OrderedDict[Hashable, _Graph | None] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sum(graph is not None for graph in self._graphs.values())

    def __deepcopy__(self, memo: dict[int, Any]) -> Graphs:
        """None of them yet: a copy of a model has its weights elsewhere."""
        return Graphs(self.recorder, most=self.most, warn=self._warn, say=self._say)

    def clear(self) -> None:
        """Let all of them go, and their memory."""
        with self._lock:
            self._graphs.clear()

    def run(self, key: Hashable, work: Work, share: Share) -> Generated:
        """What the work makes of a share.

        key: all that the work depends on beside the share; the same key is the same work.
        """
        # The noise of all steps, in order: a graph reads it from its own memory.
        share = mapped(share, lambda tensor: tensor)
        key = key, share.setup, tuple((t.shape, t.dtype, t.device) for t in tensors(share))
        with self._lock:
            if key not in self._graphs:
                return self._first(key, work, share)
            self._graphs.move_to_end(key)
            graph = self._graphs[key]
            return work(share) if graph is None else graph(share)

    def _first(self, key: Hashable, work: Work, share: Share) -> Generated:
        """Eager, then recorded, and replayed to see whether both are the same."""
        begun = time.perf_counter()
        made = work(share)  # warms up: kernels are chosen and compiled, tables made
        graph: _Graph | None = None
        setup = share.setup
        what = f"{setup.rows} row{'s' * (setup.rows > 1)} of {setup.layout}"
        try:
            graph = self._recorded(work, share)
            _check(made, graph(share))
        except Exception as error:  # a driver and any plugin may raise anything
            graph = None
            self._warn(f"No graph of {what}, which runs without: {first_line(error)}")
        else:
            self._say(f"recorded {what} in {time.perf_counter() - begun:.1f} s")
        self._graphs[key] = graph
        while len(self._graphs) > self.most:
            self._graphs.popitem(last=False)
        return made

    def _recorded(self, work: Work, share: Share) -> _Graph:
        outside = _Outside(strict=self.recorder.device, brought=tensors(share))
        # Compiled code makes tensors that no mode sees; plain code reads the same ones.
        with torch.compiler.set_stance("force_eager"), outside:
            work(share)
        # Recorded with other numbers than it is checked with: one that stuck would show.
        own = mapped(share, lambda tensor: tensor.flip(tuple(range(tensor.ndim))).clone())
        made, replay = self.recorder.record(lambda: work(own))
        return _Graph(own, made, replay, list(outside.found.values()))


class _Outside(TorchDispatchMode):
    """Finds the tensors that work reads and did not make, weights and index tables among them.

    A graph knows their addresses alone, so that they have to live as long as it does. brought:
    what comes with each request, which need not. strict: raise `Unrecordable` where a number is
    read or copied between host and device.
    """

    def __init__(self, *, strict: bool, brought: Sequence[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._strict = strict
        self._made = set(map(_address, brought))
        self.found: dict[int, Tensor] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        read = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        for tensor in read:
            place = _address(tensor)
            if place not in self._made:
                self.found.setdefault(place, tensor)
        if self._strict and func is torch.ops.aten._local_scalar_dense.default:
            raise Unrecordable("its code reads a number from the device inside the loop")
        result = func(*args, **(kwargs or {}))
        made = [one for one in tree_leaves(result) if isinstance(one, Tensor)]
        if self._strict and made and {one.device for one in read if one.ndim} - {made[0].device}:
            raise Unrecordable(
                f"its code copies between {read[0].device} and {made[0].device} inside the loop"
            )
        self._made.update(set(map(_address, made)) - self.found.keys())
        return result


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def mapped(share: Share, function: Callable[[Tensor], Tensor]) -> Share:
    """A share with a function over all its tensors, the noise of every step among them."""

    def over(value: Any) -> Any:
        return None if value is None else each(function, value)

    noise: Callable[[int], Tensor] | None = None
    if share.noise is not None:
        of_step = share.noise
        noise = [function(of_step(step)) for step in range(len(share.setup.layout))].__getitem__
    known = None
    if share.known is not None:
        known = Known(
            *(tuple(map(function, part)) for part in (share.known.maps, share.known.keep))
        )
    return replace(
        share,
        inputs=over(share.inputs),
        null=over(share.null),
        uniform=function(share.uniform),
        more=tuple(map(over, share.more)),
        known=known,
        codes_VC=over(share.codes_VC),
        noise=noise,
    )


def tensors(share: Share) -> list[Tensor]:
    """All tensors of a share whose noise can be asked for again, as `mapped` gives it."""
    return collected(partial(mapped, share))


def _outputs(made: Generated) -> list[Tensor]:
    images = [] if made.images_B3HW is None else [made.images_B3HW]
    return [*made.maps, made.latent_BChw, *images]


def _copied(made: Generated) -> Generated:
    """The same in memory that no replay writes over."""
    images = made.images_B3HW
    return Generated(
        tuple(one.clone() for one in made.maps),
        made.latent_BChw.clone(),
        None if images is None else images.clone(),
    )


def _check(eager: Generated, replayed: Generated) -> None:
    """Raise `Unrecordable` unless both are the same tokens, and the same picture to rounding."""
    wrong = sum(
        int((one != other).sum()) for one, other in zip(eager.maps, replayed.maps, strict=True)
    )
    if wrong:
        total = sum(one.numel() for one in eager.maps)
        raise Unrecordable(f"its replay has {wrong} of {total} tokens other than the first run")
    if eager.images_B3HW is not None and replayed.images_B3HW is not None:
        apart = float((eager.images_B3HW - replayed.images_B3HW).abs().max())
        if not apart <= PICTURE_TOLERANCE:
            raise Unrecordable(f"its replay's picture is up to {apart:.3g} from the first run's")
