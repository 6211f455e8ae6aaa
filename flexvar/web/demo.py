"""The demo: what a model can do, as one self-contained HTML page."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from flexvar import images
from flexvar.components.conditioner import takes
from flexvar.data.emoji import colored, drawings
from flexvar.data.sources import held_out
from flexvar.errors import FlexvarError
from flexvar.layout import Grid
from flexvar.pipeline import Pipeline
from flexvar.resolve import Label
from flexvar.result import Result
from flexvar.scales import Scales
from flexvar.sequence import fold_scales
from flexvar.web import page as shell
from flexvar.web.page import shown

Picture = Image.Image | list[Image.Image]


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, a sentence, and captioned pictures; a list of pictures is a moving one."""

    title: str
    text: str
    pictures: list[tuple[str, Picture]]
    seconds: float = 0.0


@dataclass
class Demo:
    """Makes the sections of a page with one pipeline.

    seed: of all pictures. prompts: what to ask a model of words for; names that it was trained on
    unless given. classes: how many classes or names are shown at most.
    """

    pipe: Pipeline
    seed: int = 0
    prompts: Sequence[str] = ()
    classes: int = 16
    sections: list[Section] = field(default_factory=list)

    @property
    def words(self) -> bool:
        """Whether the model is conditioned on words, and not on classes."""
        return takes(self.pipe.model.conditioner) != "label"

    @property
    def asked(self) -> list[Any]:
        """What is shown: class numbers; or prompts, names of the model taken at even distances."""
        if self.prompts:
            return list(self.prompts)
        if self.words:
            names = self.pipe.class_names or [""]
            return list(names[:: max(1, len(names) // self.classes)][: self.classes])
        return list(range(min(self.classes, self.pipe.model.num_classes)))

    @property
    def trained(self) -> Grid:
        """The latent grid of the training size."""
        stride = self.pipe.tokenizer.space.stride
        height, width = self.pipe.size
        return Grid(height // stride, width // stride)

    def add(
        self, title: str, text: str, make: Callable[[], Sequence[tuple[str, Picture]]]
    ) -> Section | None:
        """Make a section's pictures, and take the time; none if there is nothing to show."""
        start = time.perf_counter()
        pictures = list(make())
        if not pictures:
            return None
        section = Section(title, text, pictures, time.perf_counter() - start)
        self.sections.append(section)
        return section

    def name(self, asked: Any) -> str:
        """What a class or a prompt is called."""
        if isinstance(asked, str):
            return asked or "no words"
        names = self.pipe.class_names
        return names[asked] if names else f"class {asked}"

    def make(self, asked: Sequence[Any], **options: Any) -> Result:
        """Pictures of classes or prompts."""
        given = list(asked)
        labels, prompts = (None, given) if self.words else (given, None)
        return self.pipe(labels, prompts=prompts, seed=self.seed, progress=False, **options)

    def each(self, asked: Sequence[Any] | None = None) -> list[tuple[str, Picture]]:
        """One picture of everything asked for, at the training size."""
        asked = self.asked if asked is None else asked
        made = self.make(asked).images if asked else []
        return [(self.name(one), image) for one, image in zip(asked, made, strict=True)]

    def never_together(self) -> list[str]:
        """Colours and names that were held out of training as pairs, if it is known which."""
        trained = self.pipe.config.trained
        if trained is None or trained.data != "emoji-colors" or not trained.val_fraction:
            return []
        known = set(self.pipe.class_names or ())
        pairs = [
            colored(color, one.name)
            for one in drawings()
            if one.name in known
            for color in one.other_colors
            if held_out(colored(color, one.name), trained.val_fraction)
        ]
        return pairs[:: max(1, len(pairs) // self.classes)][: self.classes]

    def unseen(self) -> list[tuple[str, Picture]]:
        """A picture of every pair of `never_together`; none where no encoder of words is here."""
        try:
            return self.each(self.never_together())
        except FlexvarError:
            return []  # without the extra only the model's names are known, as `each` asks for

    def growing(self) -> list[tuple[str, Picture]]:
        """Pictures as they come about: moving, and the first one after each scale."""
        asked = self.asked[:: max(1, len(self.asked) // 4)][:4]
        scales = Scales()
        self.make(asked, on_scale=scales, images_per_call=len(asked))
        rows = scales.pictures(self.pipe)
        pictures: list[tuple[str, Picture]] = [
            (self.name(one), row) for one, row in zip(asked, rows, strict=True)
        ]
        grids = [Grid(*latent.shape[-2:]) for latent in scales.latents]
        pictures += [(f"scale {grid}", one) for grid, one in zip(grids, rows[0], strict=True)]
        return pictures

    def shapes(self, asked: Any) -> list[tuple[str, Picture]]:
        """One class or prompt at several sizes and aspect ratios."""
        stride, (h, w) = self.pipe.tokenizer.space.stride, self.trained
        ratios = [(1, 1), (1, 2), (2, 1), (1.5, 1.5), (1.5, 0.75), (2, 2)]
        pictures: list[tuple[str, Picture]] = []
        for tall, wide in ratios:
            size = (max(1, round(h * tall)) * stride, max(1, round(w * wide)) * stride)
            try:
                image = self.make([asked], size=size).images[0]
            except FlexvarError:
                continue  # a model with one list of grids
            pictures.append((f"{self.name(asked)}, {size[0]}x{size[1]}", image))
        return pictures

    def step_counts(self, asked: Any) -> list[tuple[str, Picture]]:
        """One class or prompt in few to many steps, with the time of each."""
        most = max(self.trained)
        counts = sorted({max(2, min(most, n)) for n in (3, 4, 6, 8, 10, 14)})
        pictures: list[tuple[str, Picture]] = []
        for steps in counts:
            start = time.perf_counter()
            try:
                image = self.make([asked], steps=steps).images[0]
            except FlexvarError:
                continue
            took = time.perf_counter() - start
            pictures.append((f"{steps} steps, {took:.2f} s", image))
        return pictures

    @torch.inference_mode()
    def scales(self, photo: Image.Image) -> list[tuple[str, Picture]]:
        """A photograph, and what the tokenizer keeps of it up to every scale."""
        pipe, stride = self.pipe, self.pipe.tokenizer.space.stride
        size = (self.trained.w * stride, self.trained.h * stride)
        photo = images.to_rgb(photo).resize(size, Image.Resampling.LANCZOS)
        layout = pipe.layout((size[1], size[0]))
        maps = pipe.tokenizer.encode(images.to_tensor(photo)[None].to(pipe.device), layout)
        pictures: list[tuple[str, Picture]] = [("the photograph", photo)]
        latents = fold_scales(pipe.tokenizer, maps, layout)
        for grid, latent in zip(layout, latents, strict=True):
            picture = images.to_pil(pipe.decode(latent)[0])
            pictures.append((f"scale {grid}", picture.resize(size, Image.Resampling.BICUBIC)))
        return pictures

    def edits(self, photo: Image.Image, label: Label) -> list[tuple[str, Picture]]:
        """A photograph in-painted, out-painted and refined, none of which the model learnt."""
        pipe, stride = self.pipe, self.pipe.tokenizer.space.stride
        height, width = (side * stride for side in self.trained)
        photo = images.to_rgb(photo).resize((width, height), Image.Resampling.LANCZOS)
        box, hole, cut = _with_a_hole(photo)
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
        made: list[tuple[str, Picture]] = [("the photograph", photo), ("with a hole", cut)]
        return made + [(caption, task().images[0]) for caption, task in tasks.items()]

    def edits_by_words(self) -> list[tuple[str, Picture]]:
        """A picture of the model's own, in-painted and out-painted with its words and others."""
        pipe = self.pipe
        first, second, third = (self.asked * 3)[:3]
        picture = self.make([first]).images[0]
        box, hole, cut = _with_a_hole(picture)
        tasks: dict[str, Callable[[], Result]] = {
            f"hole filled: {first}": lambda: pipe.inpaint(cut, hole, prompt=first, seed=self.seed),
            f"hole filled: {second}": lambda: pipe.inpaint(
                cut, hole, prompt=second, seed=self.seed
            ),
            f"box changed: {third}": lambda: pipe.edit(
                picture, box=box, prompt=third, seed=self.seed
            ),
            f"out-painted: {first}": lambda: pipe.expand(picture, prompt=first, seed=self.seed),
            f"out-painted: {second}": lambda: pipe.expand(picture, prompt=second, seed=self.seed),
        }
        made: list[tuple[str, Picture]] = [(self.name(first), picture), ("with a hole", cut)]
        return made + [(caption, task().images[0]) for caption, task in tasks.items()]


def _with_a_hole(
    picture: Image.Image,
) -> tuple[tuple[int, int, int, int], Image.Image, Image.Image]:
    """The middle of a picture as a box, as a mask, and the picture with it in grey."""
    width, height = picture.size
    box = (width // 4, height // 4, width - width // 4, height - height // 4)
    hole = Image.new("L", picture.size)
    hole.paste(255, box)
    cut = picture.copy()
    cut.paste((128, 128, 128), box)
    return box, hole, cut


def page(title: str, parts: Sequence[tuple[str, Demo]]) -> str:
    """The HTML of several models' sections, side by side by section; pictures are data URIs."""
    total = sum(section.seconds for _, demo in parts for section in demo.sections)
    body = [
        f"<h1>{shown(title)}</h1>",
        f"<p>Made in {total:.0f} s on the CPU or GPU named below.</p>",
    ]
    by_title: dict[str, list[tuple[str, Demo, Section]]] = {}
    for name, demo in parts:
        for section in demo.sections:
            by_title.setdefault(section.title, []).append((name, demo, section))
    for heading, group in by_title.items():
        body.append(f"<h2>{shown(heading)}</h2><p>{shown(group[0][2].text)}</p>")
        for name, demo, section in group:
            # About an inch and a half a picture.
            zoom = max(1, 128 // max(demo.pipe.size))
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
    pipe: Pipeline,
    *,
    seed: int = 0,
    prompts: Sequence[str] = (),
    photo: Image.Image | None = None,
    photo_label: Label = None,
) -> Demo:
    """The sections of one model.

    prompts: what a model of words is asked for. photo: a picture to reconstruct and to edit, of
    class ``photo_label`` (None for no class); or none.
    """
    demo = Demo(pipe, seed, prompts)
    one = demo.asked[len(demo.asked) // 3]
    same = f"The same {'words' if demo.words else 'class'} and seed"
    if demo.words:
        demo.add("From words", "One picture per prompt, at the size of training.", demo.each)
        demo.add(
            "Words never seen together",
            "The colour and the drawing each stood in training, never in one picture.",
            demo.unseen,
        )
    else:
        demo.add("Every class", "One picture per class, at the size of training.", demo.each)
    demo.add(
        "From coarse to fine",
        "What the picture looks like after each scale; each scale is predicted all at once.",
        demo.growing,
    )
    demo.add(
        "Any size, any shape",
        f"{same}; the model saw only the first of these sizes in training.",
        lambda: demo.shapes(one),
    )
    demo.add(
        "Any number of steps",
        f"{same}, in fewer and more steps from coarse to fine.",
        lambda: demo.step_counts(one),
    )
    if photo is not None:
        demo.add(
            "A photograph at every scale",
            "What the tokenizer keeps of a real photograph when it stops at each scale.",
            lambda: demo.scales(photo),
        )
    if demo.words:
        demo.add(
            "Edited without training for it",
            "Known tokens are forced at every scale, the others drawn; the words say of what.",
            demo.edits_by_words,
        )
    elif photo is not None:
        demo.add(
            "Edited without training for it",
            "Known tokens are forced at every scale, the others drawn; the label says of what.",
            lambda: demo.edits(photo, photo_label),
        )
    return demo
