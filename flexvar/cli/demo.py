"""``flexvar demo``: one HTML page with what a model can do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flexvar.cli import options
from flexvar.cli.output import say


def demo(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Checkpoint directory, bundled name or hub id; give it again to compare.",
            show_default="every bundled model",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory for the page.")] = Path("demo"),
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="Words to ask a model of words for; give it again for more.",
            show_default="names it knows",
        ),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            help="Photograph to reconstruct and edit.", show_default="one of scikit-image's"
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Class of that photograph.", show_default="no class")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same page.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda ...; auto is CUDA if any.")] = "auto",
) -> None:
    """Make a page of prompts or classes, how pictures grow, sizes, step counts and edits.

    The path of the page stands alone on the last line.

    Example: flexvar demo --out demo
    """
    import warnings

    from flexvar import images
    from flexvar.errors import FlexvarError
    from flexvar.files import whole_file
    from flexvar.locate import bundled_names
    from flexvar.pipeline import Pipeline
    from flexvar.web import demo as pages

    names = model or bundled_names()
    if not names:
        raise FlexvarError("No model comes with this build; name one: --model DIR.")
    if label is not None and image is None:
        raise FlexvarError("--label is the class of the picture in --image; give both.")
    if out.is_file():
        raise FlexvarError(f"--out {out} is a file; name a directory.")
    photo, of_class = (images.open_image(image), label) if image is not None else _photo()
    parts = []
    for name in names:
        say(f"{name} ...")
        pipe = Pipeline.from_pretrained(name, device=device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the page is about sizes outside training
            known = of_class if label is not None or of_class in (pipe.class_names or ()) else None
            # Of a model of drawings a photograph shows nothing, unless somebody asks for it.
            by_class = options.word_of(pipe) == "label"
            made = pages.run(
                pipe,
                seed=seed,
                prompts=[] if by_class else prompt or [],
                photo=photo if by_class or image is not None else None,
                photo_label=known,
            )
        for section in made.sections:
            say(f"  {section.title}: {section.seconds:.1f} s")
        parts.append((Path(name).name, made))
    path = (out / "index.html").resolve()
    with whole_file(path) as temporary:
        temporary.write_text(pages.page("flexvar demo", parts), encoding="utf-8")
    say(str(path))


def _photo() -> tuple[Any, str | None]:
    """A photograph of scikit-image's and its class, if the package is installed."""
    try:
        from PIL import Image
        from skimage.data import coffee
    except ImportError:
        say("scikit-image is not installed, so no photograph is reconstructed (--image).")
        return None, None
    return Image.fromarray(coffee()).crop((80, 0, 480, 400)), "coffee"
