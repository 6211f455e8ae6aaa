"""The demo: what a model can do, as one self-contained HTML page."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image

from flexvar import images
from flexvar.errors import FlexvarError
from flexvar.layout import Grid
from flexvar.pipeline import Pipeline
from flexvar.resolve import Label
from flexvar.result import Result
from flexvar.sequence import fold_scales
from flexvar.web import page as shell
from flexvar.web.page import shown


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, a sentence, and captioned pictures."""

    title: str
    text: str
    pictures: list[tuple[str, Image.Image]]
    seconds: float = 0.0


@dataclass
class Demo:
    """Makes the sections of a page with one pipeline.

    seed: of all pictures. classes: how many are shown at most.
    """

    pipe: Pipeline
    seed: int = 0
    classes: int = 16
    sections: list[Section] = field(default_factory=list)

    @property
    def labels(self) -> list[int]:
        """The classes shown."""
        return list(range(min(self.classes, self.pipe.model.num_classes)))

    @property
    def trained(self) -> Grid:
        """The latent grid of the training size."""
        stride = self.pipe.tokenizer.space.stride
        height, width = self.pipe.size
        return Grid(height // stride, width // stride)

    def add(
        self, title: str, text: str, make: Callable[[], list[tuple[str, Image.Image]]]
    ) -> Section:
        """Make a section's pictures, and take the time."""
        start = time.perf_counter()
        pictures = make()
        section = Section(title, text, pictures, time.perf_counter() - start)
        self.sections.append(section)
        return section

    def name(self, label: int) -> str:
        """What a class is called."""
        names = self.pipe.class_names
        return names[label] if names else f"class {label}"

    def class_grid(self) -> list[tuple[str, Image.Image]]:
        """One picture per class at the training size."""
        result = self.pipe(self.labels, seed=self.seed)
        return [(self.name(n), i) for n, i in zip(self.labels, result.images, strict=True)]

    def shapes(self, label: int) -> list[tuple[str, Image.Image]]:
        """One class at several sizes and aspect ratios."""
        stride, (h, w) = self.pipe.tokenizer.space.stride, self.trained
        asked = [(1, 1), (1, 2), (2, 1), (1.5, 1.5), (1.5, 0.75), (2, 2)]
        pictures = []
        for tall, wide in asked:
            size = (max(1, round(h * tall)) * stride, max(1, round(w * wide)) * stride)
            try:
                image = self.pipe([label], size=size, seed=self.seed).images[0]
            except FlexvarError:
                continue  # a model with one list of grids
            pictures.append((f"{self.name(label)}, {size[0]}x{size[1]}", image))
        return pictures

    def step_counts(self, label: int) -> list[tuple[str, Image.Image]]:
        """One class in few to many steps, with the time of each."""
        most = max(self.trained)
        counts = sorted({max(2, min(most, n)) for n in (3, 4, 6, 8, 10, 14)})
        pictures = []
        for steps in counts:
            start = time.perf_counter()
            try:
                image = self.pipe([label], steps=steps, seed=self.seed).images[0]
            except FlexvarError:
                continue
            took = time.perf_counter() - start
            pictures.append((f"{steps} steps, {took:.2f} s", image))
        return pictures

    @torch.inference_mode()
    def scales(self, photo: Image.Image) -> list[tuple[str, Image.Image]]:
        """A photograph, and what the tokenizer keeps of it up to every scale."""
        pipe, stride = self.pipe, self.pipe.tokenizer.space.stride
        size = (self.trained.w * stride, self.trained.h * stride)
        photo = images.to_rgb(photo).resize(size, Image.Resampling.LANCZOS)
        layout = pipe.layout((size[1], size[0]))
        maps = pipe.tokenizer.encode(images.to_tensor(photo)[None].to(pipe.device), layout)
        pictures = [("the photograph", photo)]
        latents = fold_scales(pipe.tokenizer, maps, layout)
        for grid, latent in zip(layout, latents, strict=True):
            picture = images.to_pil(pipe.decode(latent)[0])
            pictures.append((f"scale {grid}", picture.resize(size, Image.Resampling.BICUBIC)))
        return pictures

    def edits(self, photo: Image.Image, label: Label) -> list[tuple[str, Image.Image]]:
        """A photograph in-painted, out-painted and refined, none of which the model learnt."""
        pipe, stride = self.pipe, self.pipe.tokenizer.space.stride
        height, width = (side * stride for side in self.trained)
        photo = images.to_rgb(photo).resize((width, height), Image.Resampling.LANCZOS)
        box = (width // 4, height // 4, width - width // 4, height - height // 4)
        hole = Image.new("L", photo.size)
        hole.paste(255, box)
        cut = photo.copy()
        cut.paste((128, 128, 128), box)
        small = photo.resize((width // 2, height // 2), Image.Resampling.LANCZOS)
        named = "no class" if label is None else self.pipe.label_name(*pipe.label_numbers(label))
        other = pipe.label_name((pipe.label_numbers(label)[0] + 5) % pipe.model.num_classes)
        tasks: dict[str, Callable[[], Result]] = {
            f"hole filled, {named}": lambda: pipe.inpaint(cut, hole, label=label, seed=self.seed),
            f"another class there, {other}": lambda: pipe.edit(
                photo, box=box, label=other, seed=self.seed
            ),
            "expanded to twice the width": lambda: pipe.expand(photo, label=label, seed=self.seed),
            f"refined from {height // 2}x{width // 2}": lambda: pipe.refine(
                small, size=(height, width), label=label, seed=self.seed
            ),
        }
        made = [("the photograph", photo), ("with a hole", cut)]
        return made + [(caption, task().images[0]) for caption, task in tasks.items()]


def page(title: str, parts: Sequence[tuple[str, Demo]], *, zoom: float = 2.0) -> str:
    """The HTML of several models' sections, side by side by section; pictures are data URIs."""
    total = sum(section.seconds for _, demo in parts for section in demo.sections)
    body = [
        f"<h1>{shown(title)}</h1>",
        f"<p>Made in {total:.0f} s on the CPU or GPU named below.</p>",
    ]
    by_title: dict[str, list[tuple[str, Section]]] = {}
    for name, demo in parts:
        for section in demo.sections:
            by_title.setdefault(section.title, []).append((name, section))
    for heading, group in by_title.items():
        body.append(f"<h2>{shown(heading)}</h2><p>{shown(group[0][1].text)}</p>")
        for name, section in group:
            label = f"{name}: {section.seconds:.1f} s"
            body.append(f"<p><b>{shown(label)}</b></p><div class='row'>")
            body += [shell.figure(caption, image, zoom=zoom) for caption, image in section.pictures]
            body.append("</div>")
    body.append("<h2>Settings</h2>")
    for name, demo in parts:
        rows = [("model", name), *(tuple(line.split(None, 1)) for line in demo.pipe.describe())]
        rows += [("device", str(demo.pipe.device)), ("seed", str(demo.seed))]
        rows += [(k, str(v)) for k, v in demo.pipe.settings.model_dump(exclude_none=True).items()]
        cells = "".join(f"<tr><td>{shown(a)}</td><td>{shown(b)}</td></tr>" for a, b in rows)
        body.append(f"<table>{cells}</table><br>")
    return shell.page(title, "\n".join(body))


def run(
    pipe: Pipeline, *, seed: int = 0, photo: Image.Image | None = None, photo_label: Label = None
) -> Demo:
    """The sections of one model.

    photo: a picture to reconstruct and to edit, of class ``photo_label`` (None for no class); or
    none.
    """
    demo = Demo(pipe, seed)
    label = demo.labels[len(demo.labels) // 3]
    demo.add("Every class", "One picture per class, at the size of training.", demo.class_grid)
    demo.add(
        "Any size, any shape",
        "The same class and seed; the model saw only the first of these sizes in training.",
        lambda: demo.shapes(label),
    )
    demo.add(
        "Any number of steps",
        "The same class and seed, in fewer and more steps from coarse to fine.",
        lambda: demo.step_counts(label),
    )
    if photo is not None:
        demo.add(
            "A photograph at every scale",
            "What the tokenizer keeps of a real photograph when it stops at each scale.",
            lambda: demo.scales(photo),
        )
        demo.add(
            "Edited without training for it",
            "Known tokens are forced at every scale, the others drawn; the label says of what.",
            lambda: demo.edits(photo, photo_label),
        )
    return demo
