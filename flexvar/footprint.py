"""What a generation takes in memory, told without weights: its own code, run on the meta device.

There tensors have shapes and no numbers, so that a model can be asked about that is not here, or
does not fit into this machine. What is counted are the tensors that are alive at a time; what the
inside of an operation takes for itself, and what an allocator keeps, comes on top.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from flexvar.components.conditioner import FrozenEncoder
from flexvar.generation.loop import advance, begin
from flexvar.generation.plan import plan
from flexvar.hub import in_bytes
from flexvar.layout import Layout
from flexvar.ops.linear import ordered_bytes
from flexvar.session import Session


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of memory, by what takes them, of making images of one size.

    images: that are asked for, of which images_per_call are made at a time. weights: by part and
    precision. ordered: of weights that a CPU holds a second time, see
    `flexvar.ops.linear.keep_ordered`. encoder: a frozen network beside the model, such as a text
    encoder, which is always in the host's memory; None if there is none. state: what a generation
    keeps over its scales, such as keys and values. step: the most that one scale takes besides,
    logits: of which these are logits. decode: the most beside weights while latents become
    pictures.
    """

    size: tuple[int, int]
    tokens: int
    images: int
    images_per_call: int
    weights: Mapping[str, Mapping[str, int]]
    ordered: int
    encoder: FrozenEncoder | None
    state: int
    step: int
    logits: int
    decode: int

    @property
    def held(self) -> int:
        """Bytes of all weights of the checkpoint."""
        return sum(size for part in self.weights.values() for size in part.values())

    @property
    def peak(self) -> int:
        """The most at any time where all is in one memory, as on a CPU."""
        beside = self.encoder.size or 0 if self.encoder is not None else 0
        held = self.held + self.ordered
        if self.encoder is not None and self.encoder.released:
            return held + max(beside, self.state + self.step, self.decode)
        return held + beside + max(self.state + self.step, self.decode)

    @property
    def device_peak(self) -> int:
        """The most at any time on a device of its own, where no encoder is."""
        return self.held + max(self.state + self.step, self.decode)

    def report(self) -> dict[str, Any]:
        """Plain values of it all."""
        return {**asdict(self), "peak": self.peak, "device_peak": self.device_peak}

    def lines(self) -> list[str]:
        """The same for a person."""
        height, width = self.size
        together = (
            "one at a time" if self.images_per_call == 1 else f"{self.images_per_call} at once"
        )
        many = f"{self.images} images, {together}" if self.images > 1 else "1 image"
        rows: list[tuple[str, int | None, str]] = []
        for part, by_dtype in self.weights.items():
            kinds = ", ".join(f"{in_bytes(size)} {dtype}" for dtype, size in by_dtype.items())
            rows.append((f"{part} weights", sum(by_dtype.values()), kinds if len(by_dtype) > 1
                         else next(iter(by_dtype), "")))  # fmt: skip
        if self.ordered:
            rows.append(("weights again", self.ordered, "of large layers, in a CPU's own order"))
        if self.encoder is not None:
            when = "given back before the first scale" if self.encoder.released else "kept"
            rows.append((
                "text encoder", self.encoder.size,
                f"{self.encoder.source}, in the host's memory, {when}",
            ))  # fmt: skip
        rows += [
            ("state", self.state, f"keys and values, or what a recurrence keeps, of {self.tokens} "
             "tokens"),
            ("a step", self.step, f"the most beside it; logits are {in_bytes(self.logits)}"),
            ("decoding", self.decode, "when the state is gone"),
        ]  # fmt: skip
        sizes = ["unknown" if size is None else in_bytes(size) for _, size, _ in rows]
        lines = [f"Memory for {height}x{width} px ({many})"]
        for (name, _, meaning), size in zip(rows, sizes, strict=True):
            lines.append(f"  {name:<18}{size:>10}  {meaning}")
        lines.append(f"  {'most at a time':<18}{in_bytes(self.peak):>10}  all in one memory")
        if self.device_peak != self.peak:
            lines.append(f"  {'':<18}{in_bytes(self.device_peak):>10}  on a GPU")
        return lines


def footprint(
    session: Session,
    layout: Layout,
    options: Mapping[str, Any] | None = None,
    *,
    images: int = 1,
    images_per_call: int = 1,
    negative: bool = False,
    tile: int | None = None,
    any_size: bool = False,
) -> Footprint:
    """The memory that images of a layout take of a model that is on the meta device.

    session: of `flexvar.Session.without_weights`, or made under ``torch.device("meta")``. options:
    ``sampler``, ``preset`` and the sampler's, as of a call. images_per_call: 1 is what a CPU does.
    The longest prompt is taken, and for attention a kernel that holds no scores.
    """
    from flexvar import resolve

    share_of = min(images, images_per_call)
    sampler = session.chosen(options).build(session.model.facts)
    model = resolve.model_for(session.model, layout) if any_size else session.model
    asked = session.predictor(sampler, model, layout, any_size)
    conditioner = model.conditioner
    weights = [w for module in session.parts.modules() for w in module.state_dict().values()]
    with torch.inference_mode(), _Fused(), Counter(weights) as count:
        # No condition has the shapes of any other.
        inputs = session.collate([None] * share_of)
        sources = [torch.Generator("cpu") for _ in range(share_of)]
        null = conditioner.null(inputs) if negative else None
        (share,) = plan(
            conditioner,
            session.tokenizer,
            inputs,
            layout,
            sampler,
            sources,
            null=null,
            images_per_call=share_of,
        )
        progress = begin(asked, share)
        for _ in layout:
            advance(asked, session.tokenizer, sampler, share, progress)
        state, most = count.live, count.peak
        latent_BChw = progress.latent_BChw
        assert latent_BChw is not None
        del share, progress, inputs, null
        latents = latent_BChw[:1].expand(images, -1, -1, -1).clone()
        del latent_BChw
        count.peak = count.live
        session.decode(latents, tile=tile, images_per_call=share_of)
        decode = count.peak
    space = session.tokenizer.space
    stride = space.stride
    logits = share_of * max(grid.cells for grid in layout) * space.groups * space.vocab_size * 4
    return Footprint(
        size=(layout.last.h * stride, layout.last.w * stride),
        tokens=layout.tokens,
        images=images,
        images_per_call=share_of,
        weights={
            "model": _weights(session.model),
            "tokenizer": _weights(session.tokenizer),
            **{source: _weights(other.model) for source, other in session._others.items()},
        },
        ordered=sum(ordered_bytes(module) for module in session.parts.modules()),
        encoder=conditioner.encoder() if hasattr(conditioner, "encoder") else None,
        state=state,
        step=most - state,
        logits=logits,
        decode=decode,
    )


def _weights(module: Any) -> dict[str, int]:
    """Bytes of weights and tables by precision."""
    sizes: dict[str, int] = {}
    for tensor in {id(one): one for one in module.state_dict(keep_vars=True).values()}.values():
        name = str(tensor.dtype).removeprefix("torch.")
        sizes[name] = sizes.get(name, 0) + tensor.nbytes
    return sizes


class Counter(TorchDispatchMode):
    """Bytes of the tensors that operations made, while they are alive: now, and at the most.

    known: tensors that were there before, such as weights; views of them take nothing.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._sizes or key in self._known:
            return
        self._sizes[key] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


class _Fused(TorchFunctionMode):
    """Attention as kernels do it that hold no scores; the meta device would hold all of them."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            query, _, value = args[:3]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return func(*args, **(kwargs or {}))
