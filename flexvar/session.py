"""A model on a device, loaded, saved, moved, and what can be asked of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from flexvar import __version__, checkpoint, conditions, resolve
from flexvar.build import Parts, build, build_for_weights
from flexvar.checkpoint import CheckpointConfig
from flexvar.components import PositionEmbedding, Predictor, Sampler, Tokenizer
from flexvar.components.conditioner import each, takes
from flexvar.components.sampler import models_of
from flexvar.config import ComponentConfig, ModelConfig, load_yaml, parse
from flexvar.errors import FlexvarError, shown
from flexvar.generation import choice, engine
from flexvar.generation.choice import SamplerChoice
from flexvar.generation.graphs import Graphs
from flexvar.generation.known import Known
from flexvar.generation.loop import Engine, Generated, OnScale, generate
from flexvar.generation.seeds import generators
from flexvar.layout import Grid, Layout
from flexvar.locate import config_of, locate
from flexvar.model import NextScaleModel
from flexvar.ops import int8, tiled_decode
from flexvar.ops.linear import from_int8, keep_ordered, to_int8, were_exact
from flexvar.ops.precision import DTYPES, parse_device, parse_dtype, send
from flexvar.ops.precision import cast as cast_weights
from flexvar.plugin import Registry, default_registry
from flexvar.resolve import Label, Steps
from flexvar.text import printable
from flexvar.values import whole
from flexvar.weights import digest

# Cells a side of a model that says nothing of its size: 256 px at stride 16, as both papers.
USUAL_SIDE = 16
LONGEST_NAME = 200


@dataclass(repr=False)
class Session:
    """A model with its tokenizer on a device, and what can be asked of it.

    Layouts, samples, pictures of latents. settings: the options of the sampler, a ``Config`` of
    it; a name, a mapping or a preset will do, and the checkpoint's preset ``default`` is taken
    unless given. sampler: its name. source: what it was loaded from.

    `flexvar.Pipeline` adds generating, editing and scoring by one call each.
    """

    parts: Parts
    config: CheckpointConfig
    settings: Any = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    sampler: str = "standard"
    registry: Registry = field(default_factory=default_registry, repr=False)
    source: str | Path | None = field(default=None, repr=False)
    # Records and replays what is asked for; see `compile`.
    graphs: Graphs | None = field(default=None, repr=False)
    # Whether kernels are taken where they agree; see `compile` and `flexvar.ops.fusion`.
    fused: bool = field(default=False, repr=False)
    _exact: list[dict[str, Tensor]] = field(default_factory=list, repr=False)
    _warned: set[str] = field(default_factory=set, repr=False)
    _others: dict[str, Session] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.settings, ComponentConfig):
            return
        if self.settings is None:
            chosen = resolve.preset(self.config, "default", self.registry)
        elif isinstance(self.settings, SamplerChoice):
            chosen = self.settings
        else:
            chosen = choice.of_spec(self.settings, self.registry)
        self.sampler, self.settings = chosen.name, chosen.config

    def __repr__(self) -> str:
        """What it is made of and where it is, in a few lines."""
        dtype = str(self.dtype).removeprefix("torch.")
        of = f"{printable(self.source, most=LONGEST_NAME)}, " if self.source is not None else ""
        lines = [f"{type(self).__name__}({of}{self.device}, {dtype})", *self.describe()]
        if self.config.presets:
            lines.append(f"presets    {', '.join(self.config.presets)}")
        return "\n  ".join(lines)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = torch.float32,
        preset: str = "default",
        revision: str | None = None,
        registry: Registry | None = None,
    ) -> Self:
        """The pipeline of a checkpoint directory, in eval mode.

        source: the directory, a bundled name, the name of a released model (see `flexvar.pull`) or
        a hub id. preset: which of the checkpoint's stored sampling settings to take. revision: of
        a hub id, a branch, tag or commit.
        Raises `FlexvarError` for a checkpoint that is missing, broken, or does not fit.
        """
        registry = registry or default_registry()
        # Weights made in inference mode could never be moved out of it.
        with torch.inference_mode(False):
            directory = locate(source, registry, revision=revision)
            config, parts = checkpoint.load(directory, registry)
            # Of a revision the folder in the cache, which is that revision for good.
            source = source if revision is None else directory
            chosen = resolve.preset(config, preset, registry)
            pipe = cls(parts, config, chosen, registry=registry, source=source)
            return pipe.to(device, dtype)

    @classmethod
    def without_weights(
        cls,
        source: str | Path,
        *,
        dtype: str | torch.dtype = torch.float32,
        preset: str = "default",
        registry: Registry | None = None,
    ) -> Self:
        """As `from_pretrained`, on the meta device: shapes without numbers, in no memory.

        source: besides, a released model that is not here; nothing is downloaded but the config
        of a hub id. For `flexvar.footprint`.
        """
        registry = registry or default_registry()
        config = config_of(source, registry)
        with torch.inference_mode(False):
            parts = build_for_weights(config.model, registry, device="meta")
            for module in parts.modules():
                module.eval()
            chosen = resolve.preset(config, preset, registry)
            return cls(parts, config, chosen, registry=registry, source=source).to("meta", dtype)

    @classmethod
    def from_config(
        cls,
        config: ModelConfig | Mapping[str, Any] | str | Path,
        *,
        seed: int = 0,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = torch.float32,
        registry: Registry | None = None,
    ) -> Self:
        """A pipeline with random weights, the same for the same seed.

        config: a `ModelConfig`, the same as a mapping, or the path of a YAML file. Under ``with
        torch.device("meta"):`` it takes no memory.
        Raises `FlexvarError` for a config that is wrong, with the path of the option.
        """
        if isinstance(config, str | Path):
            config = load_yaml(config)
        model_config = parse(ModelConfig, config)
        registry = registry or default_registry()
        with torch.inference_mode(False):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                # On the CPU, so that the numbers are those of the seed; on meta if asked.
                usual = torch.get_default_device().type
                with torch.device("meta" if usual == "meta" else "cpu"):
                    parts = build(model_config, registry)
            for module in parts.modules():
                module.eval()
            pipe = cls(parts, CheckpointConfig(model=parts.config), registry=registry)
            meta = any(p.is_meta for module in parts.modules() for p in module.parameters())
            return pipe.to(device or ("meta" if meta else "cpu"), dtype)

    def save_pretrained(self, directory: str | Path, *, largest_file: int | None = None) -> Path:
        """Write a checkpoint directory that `from_pretrained` reads.

        largest_file: bytes above which weights go into several files, with an index; 5 GB unless
        given.
        Raises `FlexvarError` for a model in int8.
        """
        self._refuse_int8("save_pretrained")
        return checkpoint.save(
            directory, self.config, self.parts, self.registry, largest_file=largest_file
        )

    def push_to_hub(
        self,
        repository: str,
        *,
        revision: str | None = None,
        message: str = "Upload a flexvar checkpoint",
        picture: Any = None,
        figures: Mapping[str, Any] | None = None,
        license: str | None = None,
        largest_file: int | None = None,
        **create: Any,
    ) -> str:
        """Upload the checkpoint to a hub repository, made if there is none; the commit's address.

        revision: a branch, made if there is none. picture, figures, license: what the model card
        shows: a PIL picture of samples, figures of an evaluation by name, the weights' license
        (``mit``). largest_file: as of `save_pretrained`. create: options of
        ``HfApi.create_repo``, such as ``private=True``.
        Raises `FlexvarError` without a token that may write there, a network or a valid name, and
        for a model in int8.
        """
        self._refuse_int8("push_to_hub")
        import tempfile

        from flexvar import hub
        from flexvar.images import save_png

        shot = None if picture is None else "samples.png"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "checkpoint"
            text = checkpoint.card(
                repository, self.config, self.parts, figures=figures, picture=shot, license=license
            )
            checkpoint.save(
                path,
                self.config,
                self.parts,
                self.registry,
                largest_file=largest_file,
                text=text,
            )
            if shot is not None:
                save_png(picture, path / shot, {})
            return hub.upload(repository, path, revision=revision, message=message, create=create)

    def to(
        self,
        device: str | torch.device | torch.dtype | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> Self:
        """Move the weights, in place; ``device`` may be a name, "auto", or None to stay.

        A dtype may come first, as with torch's own. In bf16 or fp16 the weights are held so; what
        has to be exact stays in fp32. int8, on a CPU, is of the backbone's linear layers
        (`flexvar.ops.int8`); all else is in bf16, or in fp32 where the CPU has no products of bf16.
        Back in another precision they are the ones of the checkpoint again, not the rounded ones.
        Raises `FlexvarError` if rounded weights are to be exact that are no checkpoint's, and for
        int8 where there is none.
        """
        if dtype is None and (isinstance(device, torch.dtype) or device in DTYPES):
            device, dtype = None, device
        if isinstance(device, torch.dtype):
            raise FlexvarError(
                f"to: got two precisions, {device} and {dtype}; give a device first."
            )
        wanted = self.dtype if dtype is None else parse_dtype(dtype)
        place = self.device if device is None else parse_device(device)
        if wanted == torch.int8:
            int8.check(place)
            if self.dtype == torch.int8 and place.type == self.device.type:
                return self
        self.device = place
        if self.graphs is not None:
            self.graphs.clear()
        if self.dtype not in (wanted, torch.float32):
            self._unround(wanted)
        if wanted != torch.float32 and self.dtype == torch.float32 and self.source is None:
            self._keep_exact()
        for module in self.parts.modules():
            module.to(self.device)
        if wanted == torch.int8 and self.parts.model is not None:
            # Once they are in their place, for packed ones cannot be moved, and still exact.
            engine.compile_regions(self.model, None)
            to_int8(self.model.backbone)
        self.dtype = wanted
        held = int8.rest() if wanted == torch.int8 else wanted
        for module in self.parts.modules():
            cast_weights(module, held)
            keep_ordered(module, self.device.type == "cpu")
        if isinstance(self.tokenizer, nn.Module) and self.device.type != "meta":
            # Convolutions run faster with channels last, on CPUs in bf16 twice as fast. They add up
            # in another order, which a tokenizer may not have where weights are exact.
            plain = self.dtype == torch.float32 and getattr(self.tokenizer, "contiguous", False)
            order = torch.contiguous_format if plain else torch.channels_last
            self.tokenizer.to(memory_format=order)  # type: ignore[call-overload]
        if self.fused:
            engine.use_kernels(self, True)  # which parts may take them depends on the dtype
        return self

    def _keep_exact(self) -> None:
        """Hold the exact weights of a model that is in no file, before they are rounded."""
        self._exact = [
            {
                name: tensor.clone()
                for name, tensor in module.state_dict().items()
                if tensor.is_floating_point() and not tensor.is_meta
            }
            for module in self.parts.modules()
        ]

    def _refuse_int8(self, what: str) -> None:
        if self.dtype == torch.int8:
            raise FlexvarError(
                f"{what}: this model is in int8, of which there is no file. Load it in fp32, or "
                "bring it back to fp32 (to('fp32')), first."
            )

    @torch.no_grad()
    def _unround(self, wanted: torch.dtype) -> None:
        """The exact values in place of rounded ones, if those are still what they round to."""
        exact = self._exact
        if self.source is not None:
            _, parts = checkpoint.load(self.source, self.registry)
            exact = [module.state_dict() for module in parts.modules()]
        pairs = [
            (tensor, known.get(name))
            for module, known in zip(self.parts.modules(), exact, strict=False)
            for name, tensor in module.state_dict(keep_vars=True).items()
            if tensor.is_floating_point() and not tensor.is_meta
        ]
        same = all(
            value is not None and torch.equal(value.to(tensor.device, tensor.dtype), tensor)
            for tensor, value in pairs
        ) and all(map(were_exact, self.parts.modules(), exact))
        if not same:
            raise FlexvarError(
                f"to: the weights were rounded to {str(self.dtype).removeprefix('torch.')} and "
                f"changed since they were loaded; they cannot be made exact in "
                f"{str(wanted).removeprefix('torch.')}. Load the model again in that precision."
            )
        for tensor, value in pairs:
            assert value is not None
            tensor.data = value.to(tensor.device)
        for module, known in zip(self.parts.modules(), exact, strict=False):
            from_int8(module, known)
        self._exact, self.dtype = [], torch.float32

    def compile(self, mode: engine.Mode = "auto") -> engine.Compiled:
        """What was switched on to generate faster, the same tokens as without.

        mode: ``auto`` takes graphs, compiled blocks and kernels on CUDA; on a CPU it makes a few
        pictures both ways and keeps compiled blocks if they are faster. ``graphs``, ``regions`` or
        ``kernels`` is one of them alone, ``off`` none. A graph holds the whole way from condition
        to picture for one number of rows, layout and setting of the sampler, and is recorded at the
        first such request, which therefore takes some three times as long. Requests that look at
        single scales (``on_scale``, a progress bar) run without graphs. Kernels are taken one by
        one, each if it agrees with torch's own steps there; they and compiled blocks round less
        often, by which a token may become another where two were as likely. `to` another device
        takes a new call.
        Raises `FlexvarError` for graphs or kernels elsewhere than on CUDA.
        """
        return engine.compile_session(self, mode)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer."""
        return self.parts.tokenizer

    @property
    def model(self) -> NextScaleModel:
        """The prediction model. Raises `FlexvarError` if this is a tokenizer alone."""
        if self.parts.model is None:
            raise FlexvarError(
                "This checkpoint is a tokenizer alone; it reconstructs images but has no model to "
                "generate them."
            )
        return self.parts.model

    def describe(self) -> list[str]:
        """What the pipeline is made of, a line per part."""
        config, space = self.config.model, self.tokenizer.space
        lines = [f"tokenizer  {config.tokenizer.name}: stride {space.stride}, {space.describe()}"]
        if config.backbone is not None:
            known = ("depth", "width", "num_heads")
            options = config.backbone.options
            sizes = ", ".join(f"{key} {options[key]}" for key in known if key in options)
            count = sum(p.numel() for p in self.model.parameters()) / 1e6
            lines += [
                f"backbone   {config.backbone.name}: {sizes or 'its defaults'}",
                f"position   {config.position.name}",
                f"schedule   {config.schedule.name}",
                f"classes    {config.num_classes}",
                f"parameters {count:.1f} M",
                f"size       {self.size[0]}x{self.size[1]} px",
            ]
        return lines

    @cached_property
    def origin(self) -> dict[str, Any]:
        """What pictures say of where they come from: ``checkpoint``, its name, and ``weights``.

        The name is that of the directory, the bundled name or the hub id; weights are the first 16
        digits of the SHA-256 of each weight file. Empty for a model that was never saved.
        """
        if self.source is None:
            return {}
        path = Path(self.source).expanduser()
        name = path.resolve().name if path.is_dir() else str(self.source)
        digests = dict(self.config.digests)
        if not digests:  # a checkpoint from before they were written down
            folder = locate(self.source, self.registry)
            names = checkpoint.weight_files(folder, self.config)
            digests = {n: digest(folder / n) for n in names if (folder / n).is_file()}
        short = {Path(n).stem: d.removeprefix("sha256:")[:16] for n, d in sorted(digests.items())}
        return {"checkpoint": name, "weights": short}

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """One name per class, if the checkpoint has them."""
        return self.config.model.class_names

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels that an image has unless told: that of training.

        Of a model that does not say, the one its position or its schedule has a list for.
        """
        if self.config.trained is not None:
            return self.config.trained.size
        listed = getattr(self.parts.schedule, "layout", None)
        known = self.known_layouts or ((listed,) if isinstance(listed, Layout) else ())
        last = known[0].last if known else Grid(USUAL_SIDE, USUAL_SIDE)
        stride = self.tokenizer.space.stride
        return last.h * stride, last.w * stride

    @property
    def known_layouts(self) -> tuple[Layout, ...]:
        """The only layouts that the position embedding knows; empty if it takes any."""
        if self.parts.model is None:
            return ()
        return cast(PositionEmbedding, self.parts.model.position).layouts or ()

    def chosen(self, options: Mapping[str, Any] | None = None) -> SamplerChoice:
        """The sampler that a call with these keywords has: ``preset``, ``sampler``, its options.

        Raises `FlexvarError` for what there is not.
        """
        options = options or {}
        name = options.get("preset")
        if name is None:
            cls = self.registry.load("sampler", self.sampler)
            base = SamplerChoice(self.sampler, cls, self.settings)
        else:
            base = resolve.preset(self.config, name, self.registry)
        return resolve.sampler(options, base, self.registry)

    def check_keywords(
        self, name: str, options: Mapping[str, Any], known: Iterable[str] = resolve.KEYWORDS
    ) -> None:
        """Raise `flexvar.errors.KeywordError` for a keyword that a call of a name does not have.

        known: the keywords it has beside the options of the sampler in force.
        """
        named = {key: options[key] for key in ("preset", "sampler") if key in options}
        resolve.check_keywords(name, options, known, self.chosen(named))

    def sample(
        self,
        values: Sequence[Any],
        layout: Layout,
        options: Mapping[str, Any],
        *,
        known: Known | None = None,
        any_size: bool = False,
    ) -> tuple[Tensor, Generated, dict[str, Any]]:
        """Images (B,3,H,W) in [0,1] of `values`, their tokens, and the settings of both.

        What `__call__` and all editing come down to. options: `flexvar.resolve.Sampling`, and those
        of the sampler. known: tokens that are given.
        """
        output = options.get("output", "pil")
        if output not in ("pil", "tensor"):
            raise FlexvarError(f"output: got {output!r}; expected 'pil' or 'tensor'.")
        on_scale = options.get("on_scale")
        if on_scale is not None and not callable(on_scale):
            raise FlexvarError(
                f"on_scale: got {shown(on_scale)}; expected a function of step, latent and maps."
            )
        chosen = self.chosen(options)
        sampler = chosen.build(self.model.facts)
        keys = resolve.image_keys(options.get("seed"), len(values), options.get("first_index", 0))
        model = resolve.model_for(self.model, layout) if any_size else self.model
        if model is not self.model:
            self._warn_once(
                "positions",
                f"The positions of {layout} are interpolated: this model "
                "was trained for its own list of grids alone.",
            )
        progress = options.get("progress")
        if progress is None and self.graphs is not None:
            progress = False  # a graph has no scales to count
        with resolve.progress_bar(len(layout), progress) as advance:
            # Only where something looks at a scale, all images go through it together.
            after_scale: OnScale | None = on_scale
            if advance is not None:

                def after_scale(step: int, latent: Tensor, maps: tuple[Tensor, ...]) -> None:
                    advance()
                    if on_scale is not None:
                        on_scale(step, latent, maps)

            generated = generate(
                model,
                self.tokenizer,
                self.collate(values),
                layout,
                sampler,
                generators(keys),
                predictor=self.predictor(sampler, model, layout, any_size),
                null=self._negative(options.get("negative"), len(values)),
                known=known,
                images_per_call=options.get("images_per_call"),
                on_scale=after_scale,
                decode=partial(self.decode, tile=options.get("tile")),
                engine=self._engine(chosen, any_size, options.get("tile")),
                fused=self.fused,
            )
            images_B3HW = generated.images_B3HW
            assert images_B3HW is not None
        report = {
            "flexvar": __version__,
            "model": self.config.model.backbone.name if self.config.model.backbone else None,
            **conditions.named(self.model.conditioner, values, self.class_names),
            **conditions.named_negative(options.get("negative")),
            "size": list(images_B3HW.shape[-2:]),
            "steps": [list(grid) for grid in layout],
            **chosen.report(),
            "seeds": [list(key) for key in keys],
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
        }
        return images_B3HW, generated, report

    def predictor(
        self, sampler: Sampler, model: NextScaleModel, layout: Layout, any_size: bool
    ) -> Predictor:
        """What the sampler asks: the model, or what it makes of it and of the others it names."""
        if not hasattr(sampler, "wrap"):
            return model
        models: dict[str, Predictor] = {"model": model}
        for name, source in models_of(sampler).items():
            other = self._other(name, source).model
            models[name] = resolve.model_for(other, layout) if any_size else other
        return sampler.wrap(models)

    def _engine(self, chosen: SamplerChoice, *given: Any) -> Engine | None:
        """What runs a call of the model: a graph, where graphs are on."""
        if self.graphs is None:
            return None
        key = chosen.cls, json.dumps(chosen.report()), *given, engine.weights_key(self)
        return partial(self.graphs.run, key)

    def _other(self, name: str, source: str) -> Session:
        """Another checkpoint, on the same device, whose tokens and classes are these."""
        if source not in self._others:
            other = Session.from_pretrained(
                source, device=self.device, dtype=self.dtype, registry=self.registry
            )
            mine, its = self.model.facts, other.model.facts
            for what in ("vocab_size", "code_dim", "groups", "num_classes"):
                if getattr(mine, what) != getattr(its, what):
                    raise FlexvarError(
                        f"{name}: {source} has {what} {getattr(its, what)}, this model "
                        f"{getattr(mine, what)}; two models of one picture share their tokens "
                        "and classes."
                    )
            self._others[source] = other
        other = self._others[source]
        if (other.device, other.dtype) != (self.device, self.dtype):
            other.to(self.device, self.dtype)
        if other.fused != self.fused:
            engine.use_kernels(other, self.fused)
        return other

    @torch.inference_mode()
    def decode(
        self, latent_BChw: Tensor, *, tile: int | None = None, images_per_call: int | None = None
    ) -> Tensor:
        """Images (B,3,H,W), fp32 in [0,1], of folded latents.

        tile: side in pixels of the tiles that a large picture is decoded in, in bounded memory;
        0 is never, None is `flexvar.ops.tiled_decode.TILE` from its ``WHOLE`` pixels on.
        images_per_call: how many are decoded together; all unless given, but 1 on a CPU, where
        that is no slower and takes the memory of one image.
        """
        tile = None if tile is None else whole("tile", tile)
        share = images_per_call or (1 if latent_BChw.device.type == "cpu" else len(latent_BChw))
        parts = [
            tiled_decode.decode(self.tokenizer, part, tile) for part in latent_BChw.split(share)
        ]
        return torch.cat(parts).add(1).div(2).clamp(0, 1)

    def values(self, labels: Any = None, prompts: Any = None) -> list[Any]:
        """What images are to be of, one value each, as the model's conditioner collates them.

        labels, prompts: two names for it, one value or several: class numbers or names of a model
        that is conditioned on classes, words of one that is conditioned on text - or names of its
        classes, if it has any. Neither is one image of nothing in particular.
        Raises `FlexvarError` for both together, and for what this model does not take.
        """
        return conditions.values(
            self.model.conditioner, labels, prompts, self.model.num_classes, self.class_names
        )

    def collate(self, values: Sequence[Any]) -> Any:
        """Inputs of the model for `values`, on its device."""
        inputs = self.model.conditioner.collate(values)
        return each(lambda tensor: send(tensor, self.device), inputs)

    def _negative(self, negative: Any, count: int) -> Any | None:
        """Inputs that guidance leads away from, instead of no condition; None if not asked for."""
        if negative is None:
            return None
        by_class = takes(self.model.conditioner) == "label"
        given = self.values(negative, None) if by_class else self.values(None, negative)
        return self.collate(conditions.negatives(given, count))

    def label_numbers(self, labels: Label | Sequence[Label]) -> list[int]:
        """Class numbers of labels given as numbers, names or None (the null label).

        Raises `FlexvarError` for a class there is not, with the nearest name.
        """
        return conditions.class_numbers(labels, self.model.num_classes, self.class_names)

    def label_name(self, number: int) -> Label:
        """The name of a class number, or the number if there are no names; None for no class."""
        if number == self.config.model.num_classes:
            return None
        return self.class_names[number] if self.class_names else number

    def layout(
        self,
        size: tuple[int, int] | int | None = None,
        steps: Steps | None = None,
        *,
        warn: bool = True,
        any_size: bool = False,
    ) -> Layout:
        """The grids of a size in pixels and a number of steps, or the ones given as ``steps``.

        any_size: also for a model that was made for one list of grids.
        Raises `FlexvarError` for a size that is no multiple of the stride (naming the two
        nearest), and for steps that cannot be. Outside the sizes and step counts of training it
        warns once.
        """
        stride = self.tokenizer.space.stride
        size = resolve.sides(size)
        schedule = self.parts.schedule
        layout = resolve.layout_of(
            None if size is None else resolve.cells(size, stride),
            steps,
            usual=Grid(*(side // stride for side in self.size)),
            known=self.known_layouts,
            schedule=resolve.any_layout(schedule) if any_size else schedule,
            stride=stride,
        )
        resolve.check_tokens(layout, stride)
        if warn:
            given = {"size": size, "steps": steps}
            asked = [name for name, value in given.items() if value is not None]
            found = resolve.outside_training(layout, self.config.trained, stride, asked)
            for topic, message in found.items():
                self._warn_once(topic, message)
        return layout

    def _warn_once(self, topic: str, message: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            resolve.warn(message)
