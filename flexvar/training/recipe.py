"""Recipes: everything a training run depends on, as frozen configs read from YAML."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import Field, field_validator, model_validator

from flexvar.config import (
    ComponentConfig,
    ComponentSpec,
    SamplerSpec,
    load_yaml,
    override,
    parse,
)
from flexvar.data import DataConfig
from flexvar.data.sources import BUILT_IN
from flexvar.errors import FlexvarError
from flexvar.option_help import options_of
from flexvar.plugin import Kind

Stage = Literal["tokenizer", "model"]
FOLDER = "recipes"


class OptimiserConfig(ComponentConfig):
    """AdamW and its learning rate over the run; the defaults are the papers' for stage 2.

    learning_rate: the peak. reference_batch: images per step that the peak is for, in proportion
    to which it grows; it is as it is unless given. betas: AdamW's. weight_decay: AdamW's, for
    matrices and kernels only. warmup: share of the steps in which the rate rises linearly.
    warmup_factor: what it rises from, as a share of the peak. flat: share of the rest at the
    peak; then the rate falls linearly. final: what it falls to, as a share of the peak. clip:
    greatest gradient norm; None for no clipping.
    """

    learning_rate: float = Field(default=1e-4, gt=0)
    reference_batch: int | None = Field(default=None, ge=1)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup: float = Field(default=0.02, ge=0, lt=1)
    warmup_factor: float = Field(default=0.005, ge=0, le=1)
    flat: float = Field(default=0.05, ge=0, le=1)
    final: float = Field(default=0.1, ge=0, le=1)
    clip: float | None = Field(default=2.0, gt=0)


class TrainRecipe(ComponentConfig):
    """What both stages share.

    data: see `flexvar.data.DataConfig`; a bare string is its source. out: the run's directory.
    steps: optimiser steps. batch_size: images per process and micro-batch; accumulate:
    micro-batches per step. seed: of weights, batches and all that is drawn. optimiser: see
    `OptimiserConfig`. ema: decay of the averaged weights, which are the ones that come out;
    0 for none. precision: of the forward and backward pass; weights stay in fp32.
    start_from: a checkpoint whose weights training starts from (fine-tuning). workers: processes
    that decode pictures ahead. log_every, validate_every, sample_every, save_every: in steps; 0
    is never (a run always saves and validates at its end). keep: how many of the latest
    checkpoints stay, beside the best. validation_images: at most so many. tensorboard: whether
    figures and samples go there where no tracker is named. tracker: where they go, by accelerate's
    names: tensorboard, wandb, mlflow, ..., or several; none is nowhere. tracker_project: what the
    run belongs to there. patience: consecutive steps that may be skipped for non-finite numbers.
    stop_after: save and stop after so many steps of this session, as Ctrl-C would.
    """

    data: DataConfig
    out: str | None = None
    steps: int = Field(ge=1)
    batch_size: int = Field(default=16, ge=1)
    accumulate: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0)
    optimiser: OptimiserConfig = OptimiserConfig()
    ema: float = Field(default=0.999, ge=0, lt=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    start_from: str | None = None
    workers: int = Field(default=0, ge=0)
    log_every: int = Field(default=50, ge=1)
    validate_every: int = Field(default=500, ge=0)
    sample_every: int = Field(default=500, ge=0)
    save_every: int = Field(default=500, ge=0)
    keep: int = Field(default=2, ge=1)
    validation_images: int = Field(default=64, ge=1)
    tensorboard: bool = True
    tracker: tuple[str, ...] | None = None
    tracker_project: str = "flexvar"
    patience: int = Field(default=3, ge=0)
    stop_after: int | None = Field(default=None, ge=1)

    @property
    def trackers(self) -> tuple[str, ...]:
        """Where figures and samples go."""
        return (("tensorboard",) * self.tensorboard) if self.tracker is None else self.tracker

    @field_validator("tracker", mode="before")
    @classmethod
    def _accept_bare_tracker(cls, value: Any) -> Any:
        if isinstance(value, str):
            return () if value == "none" else (value,)
        return value

    @field_validator("data", mode="before")
    @classmethod
    def _accept_bare_source(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value


class LossSpec(ComponentConfig):
    """A part of the reconstruction loss: its name, weight, and options of its own."""

    name: str
    weight: float = Field(default=1.0, gt=0)
    options: dict[str, Any] = Field(default_factory=dict)


class AdversarialConfig(ComponentConfig):
    """A PatchGAN discriminator with hinge loss (LlamaGen's settings).

    weight: of the generator's part. start: step from which it takes part. layers, channels: of
    the discriminator. learning_rate: its own; that of the tokenizer unless given.
    """

    weight: float = Field(default=0.5, gt=0)
    start: int = Field(default=20_000, ge=0)
    layers: int = Field(default=3, ge=1)
    channels: int = Field(default=64, ge=1)
    learning_rate: float | None = Field(default=None, gt=0)


class CodebookConfig(ComponentConfig):
    """How the codebook is kept alive.

    initialise: ``kmeans`` or ``data`` (random vectors) of some images, or ``none``.
    initial_images: how many. start: share of the run in which no codes are chosen yet and the
    continuous latent is decoded. revive_every: steps between looks for unused codes; 0 is never.
    revive_below: a code counts as unused below this share of an even use. revive_until: share of
    the run after which codes are left alone, so that the end is stable. memory: decay of the use
    of codes, per step.
    """

    initialise: Literal["kmeans", "data", "none"] = "kmeans"
    initial_images: int = Field(default=128, ge=1)
    start: float = Field(default=0.0, ge=0, lt=1)
    revive_every: int = Field(default=50, ge=0)
    revive_below: float = Field(default=0.03, ge=0, lt=1)
    revive_until: float = Field(default=0.8, ge=0, le=1)
    memory: float = Field(default=0.98, ge=0, lt=1)


class TokenizerRecipe(TrainRecipe):
    """Stage 1: a tokenizer.

    random_grids: FlexVAR's rule, so many grids of random sides per step, the latent's own always
    among them. training_schedule: a schedule component whose list is taken instead (residual
    tokenizers: the list of the model to come). losses: parts of the reconstruction loss.
    adversarial: see `AdversarialConfig`. codebook_weight, commitment_weight: of the codes' move
    towards the latent, and of the latent's towards them. auxiliary: weights of what other
    losses the tokenizer has, by name, each 1 unless given. codebook: see `CodebookConfig`. freeze:
    prefixes or patterns of parameters that stay as they are; with ``[encoder, to_code, codebook]``
    the tokens stay the same and a model over them goes on working.
    """

    tokenizer: ComponentSpec
    random_grids: int = Field(default=5, ge=1)
    training_schedule: ComponentSpec | None = None
    losses: tuple[LossSpec, ...] = Field(default=(LossSpec(name="l2"),), min_length=1)
    adversarial: AdversarialConfig | None = None
    codebook_weight: float = Field(default=1.0, ge=0)
    commitment_weight: float = Field(default=0.25, ge=0)
    auxiliary: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    codebook: CodebookConfig = CodebookConfig()
    freeze: tuple[str, ...] = ()
    optimiser: OptimiserConfig = OptimiserConfig(warmup=0, flat=1, final=1, clip=1.0)


class CacheConfig(ComponentConfig):
    """Continuous latents computed once and read again.

    directory: where they are kept. views: random crops of every picture.

    Refused when it was made by another tokenizer or from other data.
    """

    directory: str
    views: int = Field(default=8, ge=1)


class LoraOptions(ComponentConfig):
    """Small matrices that are trained beside frozen ones (LoRA, arXiv 2106.09685).

    rank: of their product. alpha: it is scaled by alpha / rank; twice the rank unless given.
    targets: names of the linear layers that get them.
    """

    rank: int = Field(default=8, ge=1)
    alpha: float | None = Field(default=None, gt=0)
    targets: tuple[str, ...] = ("qkv", "out", "mlp_in", "mlp_out", "in_proj", "out_proj")


class ModelRecipe(TrainRecipe):
    """Stage 2: the prediction model over a trained tokenizer.

    tokenizer: directory or name of its checkpoint. backbone, position, schedule, conditioner: as in
    `flexvar.ModelConfig`. training_schedule: the lists of grids to train on; new random ones every
    step with ``random``. objective: what the model is trained to do. condition_dropout: odds that
    an image is trained on without its label or caption. activation_checkpointing: recompute the
    backbone's blocks in the backward pass. encoder_precision: what the tokenizer encodes pictures
    in; in bf16 it is faster on a GPU, and the run says how many tokens stay the same. kernels: on a
    GPU take flexvar's own for norms and what stands around them, where results and gradients agree
    with torch's own steps (`flexvar.ops.fusion`). cache: see `CacheConfig`. presets: named sampling
    settings of the checkpoint; ``default`` is also what the sample grids take. sample_labels,
    sample_prompts: what those are of. samples_per_label: pictures of each there.
    coarse: share of the steps whose list ends early, at one of its coarser grids: cheap steps, in
    which a model learns what a picture is of; only for tokenizers whose scales are whole pictures.

    With start_from, tokenizer, backbone and what else is left out are that model's. freeze:
    beginnings or patterns (``blocks.*.mlp*``) of names of weights that stay as they are. lora: see
    `LoraOptions`; all else is frozen. memorisation: samples that are compared with the training
    pictures at the end; 0 is none.
    """

    tokenizer: str | None = None
    backbone: ComponentSpec | None = None
    position: ComponentSpec = ComponentSpec(name="learned2d")
    schedule: ComponentSpec = ComponentSpec(name="ladder")
    conditioner: ComponentSpec = ComponentSpec(name="label")
    training_schedule: ComponentSpec = ComponentSpec(name="random")
    objective: ComponentSpec = ComponentSpec(name="cross_entropy")
    condition_dropout: float = Field(default=0.1, ge=0, lt=1)
    coarse: float = Field(default=0.0, ge=0, lt=1)
    activation_checkpointing: bool = False
    encoder_precision: Literal["fp32", "bf16"] = "fp32"
    kernels: bool = False
    cache: CacheConfig | None = None
    presets: dict[str, SamplerSpec] = Field(default_factory=dict)
    sample_labels: tuple[int, ...] | None = None
    sample_prompts: tuple[str, ...] | None = None
    samples_per_label: int = Field(default=1, ge=1)
    freeze: tuple[str, ...] = ()
    lora: LoraOptions | None = None
    memorisation: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _something_to_train(self) -> Self:
        if self.start_from is None:
            for name in ("tokenizer", "backbone"):
                if getattr(self, name) is None:
                    raise ValueError(f"{name}: missing; it has to be given, or start_from")
            if self.lora is not None:
                raise ValueError("lora: needs start_from=MODEL, the model that it changes")
        return self

    @field_validator("presets")
    @classmethod
    def _presets_are_known(cls, value: dict[str, SamplerSpec]) -> dict[str, SamplerSpec]:
        """Now, not after hours of training."""
        from flexvar.build import choose
        from flexvar.plugin import default_registry

        for name, preset in value.items():
            choose(default_registry(), "sampler", preset, path=f"presets.{name}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _tokenizer_is_a_checkpoint(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("tokenizer"), dict):
            raise ValueError(
                "tokenizer has to be the directory or name of a trained tokenizer; train one "
                "first with `flexvar train tokenizer`"
            )
        return data

    @model_validator(mode="before")
    @classmethod
    def _a_sampler_is_a_presets(cls, data: Any) -> Any:
        presets = data.get("presets") if isinstance(data, dict) else None
        listed = list(presets.values()) if isinstance(presets, dict) else []
        if isinstance(data, dict) and any(
            isinstance(one, dict) and "sampler" in one for one in (data, *listed)
        ):
            raise ValueError(
                "sampler: a preset names it, with its options; write "
                "presets: {default: {name: SAMPLER, OPTION: VALUE}}"
            )
        return data


# Kinds of components by the key of a recipe that names one.
PARTS: dict[Kind, str] = {
    "tokenizer": "tokenizer",
    "backbone": "backbone",
    "position": "position",
    "schedule": "schedule",
    "conditioner": "conditioner",
    "objective": "objective",
}
R = TypeVar("R", bound=TrainRecipe)
RECIPES: dict[Stage, type[TrainRecipe]] = {"tokenizer": TokenizerRecipe, "model": ModelRecipe}


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("flexvar") / FOLDER
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def stage_of(name: str) -> Stage:
    """Which stage a recipe that comes with the package is for."""
    return "tokenizer" if name.endswith("-tokenizer") else "model"


def read_recipe(source: str | Path, stage: Stage) -> dict[str, Any]:
    """The options in a YAML file, or of a recipe by name: ``photos`` means ``photos-model`` here.

    Raises `FlexvarError` naming all recipes if there is no such file or recipe.
    """
    path = Path(source).expanduser()
    if path.suffix in (".yaml", ".yml", ".json") or path.is_file():
        return load_yaml(path)
    names = recipe_names()
    if str(source) in names and (other := stage_of(str(source))) != stage:
        raise FlexvarError(f"The recipe {str(source)!r} is for `flexvar train {other}`.")
    for name in (f"{source}-{stage}", str(source)):
        if name in names:
            text = (resources.files("flexvar") / FOLDER / f"{name}.yaml").read_text("utf-8")
            return dict(yaml.safe_load(text))
    fitting = [name.removesuffix(f"-{stage}") for name in names if stage_of(name) == stage]
    near = get_close_matches(str(source), fitting, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise FlexvarError(
        f"There is no recipe {str(source)!r} for a {stage}: give the path of a YAML file, or one "
        f"of {', '.join(fitting)}.{hint}"
    )


def load_recipe(
    source: str | Path, stage: Stage, assignments: Iterable[str] = (), **given: Any
) -> Any:
    """The checked recipe: a YAML file or a name, with ``key=value`` overrides on top.

    ``data=FOLDER`` changes only where the pictures come from. given: options that win over all.
    Raises `FlexvarError` for anything that is wrong, with the path of the option.
    """
    data = read_recipe(source, stage)
    texts = []
    for text in assignments:
        key, _, value = text.partition("=")
        bare = key == "data" and not value.lstrip().startswith("{")
        texts.append(
            f"data.source={value}" if bare and isinstance(data.get("data"), dict) else text
        )
    data = override(data, texts)
    data |= {key: value for key, value in given.items() if value is not None}
    _ask_for_data(data, source, stage)
    return parse(RECIPES[stage], data, path=_title(source))


def _ask_for_data(data: dict[str, Any], source: str | Path, stage: Stage) -> None:
    given = data.get("data")
    if given is None or (isinstance(given, dict) and given.get("source") is None):
        raise FlexvarError(
            f"data: say what to train on: `flexvar train {stage} {source} data=FOLDER ...`, a "
            "folder with a folder of pictures per class (`flexvar data FOLDER` checks it), "
            f"shards, or a built-in set: {', '.join(BUILT_IN)}."
        )


def recipe_options(
    source: str | Path, stage: Stage, assignments: Iterable[str] = ()
) -> Iterator[str]:
    """Lines with every option of a recipe: its value there, what it takes, and what it means.

    Those of the parts it names - tokenizer, backbone and others - come after its own. Nothing has
    to be given for it.
    """
    from flexvar.plugin import default_registry

    data = override(read_recipe(source, stage), assignments)
    if isinstance(data.get("data"), str):
        data["data"] = {"source": data["data"]}
    yield f"Options of the recipe {_title(source)!r} for a {stage}: key=value, with dots inside."
    recipe = RECIPES[stage]
    for option in options_of(recipe, data):
        yield from option.lines()
    registry = default_registry()
    for kind, key in PARTS.items():
        if key not in recipe.model_fields:
            continue
        value = data.get(key, recipe.model_fields[key].default)
        name = value.get("name") if isinstance(value, dict) else getattr(value, "name", value)
        if not isinstance(name, str) or (key == "tokenizer" and stage == "model"):
            continue
        config = getattr(registry.load(kind, name), "Config", None)
        if config is None:
            continue
        yield ""
        yield f"{key}: {name}"
        values = value if isinstance(value, dict) else getattr(value, "options", {})
        for option in options_of(config, values, f"{key}."):
            yield from option.lines()


def _title(source: str | Path) -> str:
    return Path(source).stem
