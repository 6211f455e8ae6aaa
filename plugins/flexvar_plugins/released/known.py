"""The released models of VAR, FlexVAR and LlamaGen: where their files are, and what they are.

Every name was looked up in public text, which ``source`` names. Sizes and sums stand only where
public text gives them; the other sizes are four bytes for each of the model's parameters. What the
hub says of a file goes before both.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib import resources
from typing import Any

from flexvar.components.released import ReleasedFile, ReleasedModel
from flexvar_plugins.released import FLEXVAR_PRESETS, VAR_PRESETS
from flexvar_plugins.released.transformer import VAR_LISTS

FLEXVAR, VAR = "jiaosiyu1999/FlexVAR", "FoundationVision/var"
LLAMAGEN, LLAMAGEN_T2I = "FoundationVision/LlamaGen", "peizesun/llamagen_t2i"


def imagenet_names() -> Sequence[str]:
    """ImageNet's thousand classes in order, each with its synonyms: ``tench, Tinca tinca``."""
    text = (resources.files("flexvar_plugins.released") / "imagenet.txt").read_text("utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def _network(name: str, channels: int, **rest: Any) -> dict[str, Any]:
    common = {"channels": channels, "channel_multipliers": [1, 1, 2, 2, 4], "blocks": 2}
    return {"name": name, "code_dim": 32, **common, **rest}


def _config(
    tokenizer: dict[str, Any],
    depth: int,
    position: dict[str, Any],
    schedule: dict[str, Any],
    presets: dict[str, dict[str, Any]],
    side: int,
    steps: tuple[int, int],
) -> dict[str, Any]:
    """What the files become: width and heads follow from the depth (VAR, appendix)."""
    backbone = {"name": "transformer", "depth": depth, "width": 64 * depth, "num_heads": depth}
    backbone |= {"mlp_ratio": 4.0, "qk_norm": True, "shared_modulation": depth == 36}
    model = {
        "tokenizer": tokenizer,
        "backbone": backbone,
        "num_classes": 1000,
        "class_names": imagenet_names(),
        "position": position,
        "schedule": schedule,
    }
    trained = {"size": (16 * side, 16 * side), "steps": steps}
    return {"model": model, "presets": presets, "trained": trained}


def _flexvar_config(depth: int) -> dict[str, Any]:
    tokenizer = _network(
        "multiscale", 128, vocab_size=8912, latent_channels=256, projection_kernel=1
    )
    position = {"name": "learned2d", "side": 32, "resize": "area"}
    schedule = {"name": "ladder"}
    return _config(tokenizer, depth, position, schedule, FLEXVAR_PRESETS, 16, (6, 10))


def _var_config(depth: int) -> dict[str, Any]:
    tokenizer = _network("residual", 160, vocab_size=4096, latent_channels=32, projection_kernel=3)
    grids = VAR_LISTS[depth == 36]
    position = {"name": "per_scale", "grids": grids, "step_embedding": True}
    schedule = {"name": "explicit", "grids": grids}
    steps = (len(grids),) * 2
    return _config(tokenizer, depth, position, schedule, VAR_PRESETS, grids[-1], steps)


def _llamagen_config(levels: Sequence[int]) -> dict[str, Any]:
    tokenizer = _network(
        "multiscale", 128, vocab_size=16384, latent_channels=256, projection_kernel=1
    )
    return {"model": {"tokenizer": {**tokenizer, "code_dim": 8, "channel_multipliers": levels}}}


def _flexvar(name: str, depth: int, weights: int) -> ReleasedModel:
    return ReleasedModel(
        files=(
            ReleasedFile("tokenizer", FLEXVAR, "FlexVAE.pth", about=290_000_000),
            ReleasedFile("model", FLEXVAR, name, about=4 * weights),
        ),
        license="MIT",
        source="README and inference_c2i.py of github.com/jiaosiyu1999/FlexVAR",
        class_names=imagenet_names,
        config=partial(_flexvar_config, depth),
    )


FLEXVAR_D16 = _flexvar("FlexVARd16-epo179.pth", 16, 315_600_000)
FLEXVAR_D20 = _flexvar("FlexVARd20-epo249.pth", 20, 607_500_000)
# The README's table has d16 in this one's name; its evaluation, its code and others' links d24.
FLEXVAR_D24 = _flexvar("FlexVARd24-epo349.pth", 24, 1_041_300_000)


def _var(depth: int, weights: int, sha256: str | None = None) -> ReleasedModel:
    return ReleasedModel(
        files=(
            ReleasedFile(
                "tokenizer",
                VAR,
                "vae_ch160v4096z32.pth",
                size=436_075_834,
                sha256="7c3ec27ae28a3f87055e83211ea8cc8558bd1985d7b51742d074fb4c2fcf186c",
            ),
            ReleasedFile("model", VAR, f"var_d{depth}.pth", about=4 * weights, sha256=sha256),
        ),
        license="MIT",
        source="README of github.com/FoundationVision/VAR",
        class_names=imagenet_names,
        config=partial(_var_config, depth),
    )


VAR_D16 = _var(
    16,
    310_300_000,
    "4f6151aad91c94e03e224dd7358d8389fa05301c0c291279566998efb54b0ecb",
)
VAR_D20 = _var(20, 600_900_000)
VAR_D24 = _var(24, 1_033_400_000)
VAR_D30 = _var(30, 2_010_000_000)
VAR_D36 = _var(36, 2_350_000_000)


def _llamagen(
    repository: str, name: str, weights: int, source: str, levels: Sequence[int] = (1, 1, 2, 2, 4)
) -> ReleasedModel:
    file = ReleasedFile("tokenizer", repository, name, about=4 * weights)
    config = partial(_llamagen_config, levels)
    return ReleasedModel(files=(file,), license="MIT", source=source, config=config)


LLAMAGEN_README = "README of github.com/FoundationVision/LlamaGen"
LLAMAGEN_VQ16 = _llamagen(LLAMAGEN, "vq_ds16_c2i.pt", 72_000_000, LLAMAGEN_README)
LLAMAGEN_VQ8 = _llamagen(LLAMAGEN, "vq_ds8_c2i.pt", 70_000_000, LLAMAGEN_README, (1, 2, 2, 4))
# The README names the file; the repository is the one that public scripts take it from.
LLAMAGEN_VQ16_T2I = _llamagen(LLAMAGEN_T2I, "vq_ds16_t2i.pt", 72_000_000, LLAMAGEN_README)
