"""The released models of VAR, FlexVAR and LlamaGen: where their files are, and what they are.

Every name was looked up in public text, which ``source`` names. Sizes and sums stand only where
public text gives them; the other sizes are four bytes for each of the model's parameters. What the
hub says of a file goes before both.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from flexvar.components.released import ReleasedFile, ReleasedModel

FLEXVAR, VAR = "jiaosiyu1999/FlexVAR", "FoundationVision/var"
LLAMAGEN, LLAMAGEN_T2I = "FoundationVision/LlamaGen", "peizesun/llamagen_t2i"


def imagenet_names() -> Sequence[str]:
    """ImageNet's thousand classes in order, each with its synonyms: ``tench, Tinca tinca``."""
    text = (resources.files("flexvar_plugins.released") / "imagenet.txt").read_text("utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def _flexvar(name: str, weights: int) -> ReleasedModel:
    return ReleasedModel(
        files=(
            ReleasedFile("tokenizer", FLEXVAR, "FlexVAE.pth", about=290_000_000),
            ReleasedFile("model", FLEXVAR, name, about=4 * weights),
        ),
        license="MIT",
        source="README and inference_c2i.py of github.com/jiaosiyu1999/FlexVAR",
        class_names=imagenet_names,
    )


FLEXVAR_D16 = _flexvar("FlexVARd16-epo179.pth", 315_600_000)
FLEXVAR_D20 = _flexvar("FlexVARd20-epo249.pth", 607_500_000)
# The README's table has d16 in this one's name; its evaluation, its code and others' links d24.
FLEXVAR_D24 = _flexvar("FlexVARd24-epo349.pth", 1_041_300_000)


def _var(name: str, weights: int, sha256: str | None = None) -> ReleasedModel:
    return ReleasedModel(
        files=(
            ReleasedFile(
                "tokenizer",
                VAR,
                "vae_ch160v4096z32.pth",
                size=436_075_834,
                sha256="7c3ec27ae28a3f87055e83211ea8cc8558bd1985d7b51742d074fb4c2fcf186c",
            ),
            ReleasedFile("model", VAR, name, about=4 * weights, sha256=sha256),
        ),
        license="MIT",
        source="README of github.com/FoundationVision/VAR",
        class_names=imagenet_names,
    )


VAR_D16 = _var(
    "var_d16.pth",
    310_300_000,
    "4f6151aad91c94e03e224dd7358d8389fa05301c0c291279566998efb54b0ecb",
)
VAR_D20 = _var("var_d20.pth", 600_900_000)
VAR_D24 = _var("var_d24.pth", 1_033_400_000)
VAR_D30 = _var("var_d30.pth", 2_010_000_000)
VAR_D36 = _var("var_d36.pth", 2_350_000_000)


def _llamagen(repository: str, name: str, weights: int, source: str) -> ReleasedModel:
    file = ReleasedFile("tokenizer", repository, name, about=4 * weights)
    return ReleasedModel(files=(file,), license="MIT", source=source)


LLAMAGEN_README = "README of github.com/FoundationVision/LlamaGen"
LLAMAGEN_VQ16 = _llamagen(LLAMAGEN, "vq_ds16_c2i.pt", 72_000_000, LLAMAGEN_README)
LLAMAGEN_VQ8 = _llamagen(LLAMAGEN, "vq_ds8_c2i.pt", 70_000_000, LLAMAGEN_README)
# The README names the file; the repository is the one that public scripts take it from.
LLAMAGEN_VQ16_T2I = _llamagen(LLAMAGEN_T2I, "vq_ds16_t2i.pt", 72_000_000, LLAMAGEN_README)
