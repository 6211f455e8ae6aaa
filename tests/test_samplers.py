"""Samplers: options, other ways to choose tokens, and the same image whatever its batch."""

import pytest
import torch
from helpers import TINY, TINY_CNN, shake
from torch.utils._python_dispatch import TorchDispatchMode

from flexvar import Component, ComponentConfig, FlexvarError, Layout, Pipeline, Registry, hookimpl
from flexvar.generation import draw, loop
from flexvar.generation.known import Known
from flexvar.generation.plan import plan
from flexvar.generation.seeds import generators, seed_keys

SIZE = (12, 20)


def pipe_of(tokenizer="multiscale", backbone="transformer", **more):
    config = {
        **TINY,
        "tokenizer": {"name": tokenizer, **TINY_CNN},
        "backbone": {"name": backbone, "depth": 2, "width": 64},
    }
    return shake(Pipeline.from_config(config, seed=1, **more))


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.maps, other.maps, strict=True)) and all(
        a.tobytes() == b.tobytes() for a, b in zip(one.images, other.images, strict=True)
    )


WAYS = [
    {},
    {"soft": True, "top_k": 20},
    {"sampler": "released", "draw_sides": (1, 2)},
    {"sampler": "interval", "guidance_from": 0.2, "guidance_to": 0.6},
    {"sampler": {"name": "best_of", "candidates": 3}},
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way)) or "standard")
@pytest.mark.parametrize("tokenizer", ["multiscale", "residual"])
def test_an_image_is_the_same_to_the_bit_alone_and_in_batches_of_three_and_five(tokenizer, way):
    pipe = pipe_of(tokenizer)
    for seed in range(10):
        labels, seeds = [0, 1, None, 3, 4], [5 * seed + i for i in range(5)]
        five = pipe(labels, size=SIZE, steps=4, seed=seeds, **way)
        three = pipe(labels[2:], size=SIZE, steps=4, seed=seeds[2:], **way)
        alone = pipe(labels[seed % 5], size=SIZE, steps=4, seed=[seeds[seed % 5]], **way)
        assert [i.tobytes() for i in five.images[2:]] == [i.tobytes() for i in three.images]
        assert alone.images[0].tobytes() == five.images[seed % 5].tobytes()


def test_pictures_of_a_batch_are_reconstructed_as_they_are_alone():
    pipe = pipe_of("residual")
    pictures = torch.rand(3, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    whole = pipe.reconstruct(pictures, output="tensor")
    assert torch.equal(whole[1:2], pipe.reconstruct(pictures[1:2], output="tensor"))


def test_released_is_standard_that_draws_at_some_sides(tiny):
    options = {"guidance": 2.0, "guidance_schedule": "ramp10", "top_k": 9, "top_p": 0.9}
    ours = tiny([0, 1], size=16, seed=0, sampler="released", draw_sides=(1, 2), **options)
    assert same(ours, tiny([0, 1], size=16, seed=0, draw_sides=(1, 2), **options))
    assert ours.settings["sampler"] == "released"
    usual = tiny.chosen({"sampler": "released"}).config
    assert usual.draw_sides == (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    assert (usual.guidance, usual.guidance_schedule, usual.top_k) == (2.5, "ramp10", 900)


class Counted:
    """A model that counts the rows of each call."""

    def __init__(self, model):
        self.model, self.rows = model, []

    def __getattr__(self, name):
        return getattr(self.model, name)

    def features(self, inputs, state):
        found = self.model.features(inputs, state)
        self.rows.append(len(found))
        return found


def run(pipe, layout, options, labels=(0,), known=None, **more):
    model = Counted(pipe.model)
    sampler = pipe.chosen(options).build(pipe.model.facts)
    inputs = pipe.model.conditioner.collate(list(labels))
    sources = generators(seed_keys(3, len(labels)))
    done = loop.generate(
        pipe.model, pipe.tokenizer, inputs, layout, sampler, sources, predictor=model, known=known,
        **more,
    )  # fmt: skip
    return done, model.rows


def test_the_unconditional_half_runs_until_its_last_use_and_no_longer(tiny):
    layout = Layout.of(1, 2, 3, 4, 5)
    for guidance_to, rows in ((1.0, [2] * 5), (0.5, [1] * 8), (0.0, [1] * 6)):
        options = {
            "sampler": {"name": "interval", "guidance_to": guidance_to},
            "guidance_schedule": "constant",
        }
        assert run(tiny, layout, options)[1] == rows
    # The first step has no weight, but the later ones read what the null half saw of it.
    assert run(tiny, layout, {"guidance": 2.0})[1] == [2] * 5
    assert run(tiny, layout, {"guidance": 0.0})[1] == [1] * 5


@pytest.mark.parametrize("backbone", ["transformer", "mamba"])
def test_two_calls_are_the_pair(backbone):
    pipe, layout = pipe_of(backbone=backbone), Layout.of(1, 2, 4)
    interval = {"name": "interval", "guidance_schedule": "constant", "guidance": 3.0, "top_k": 1}
    apart, _ = run(pipe, layout, {"sampler": {**interval, "guidance_to": 0.6}})

    class Weights:
        """The same weights with one that is as good as none at the end: both halves run."""

        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def guidance(self, layout, step):
            return self.inner.guidance(layout, step) or 1e-30

    sampler = Weights(pipe.chosen({"sampler": {**interval, "guidance_to": 0.6}}).build(None))
    inputs, sources = pipe.model.conditioner.collate([0]), generators(seed_keys(3, 1))
    pair = loop.generate(pipe.model, pipe.tokenizer, inputs, layout, sampler, sources)
    assert all(torch.equal(a, b) for a, b in zip(apart.maps, pair.maps, strict=True))


@torch.no_grad()
def test_best_of_keeps_the_likeliest_draw(tiny):
    def likelihood(result):
        layout = Layout.of(*(tuple(grid) for grid in result.settings["steps"]))
        from flexvar.sequence import targets, teacher_forcing

        maps = tuple(map_Bhw.clone() for map_Bhw in result.maps)
        inputs = teacher_forcing(tiny.tokenizer, maps, layout)
        logits = tiny.model(torch.arange(4), inputs, layout)
        chosen = logits.log_softmax(-1).gather(-1, targets(maps)[..., None])
        return float(chosen.sum())

    few = [tiny(range(4), size=16, seed=2, guidance=0.0, steps=4)]
    for count in (1, 2, 16):
        sampler = {"name": "best_of", "candidates": count}
        few.append(tiny(range(4), size=16, seed=2, guidance=0.0, steps=4, sampler=sampler))
    assert same(few[0], few[1])
    scores = [likelihood(one) for one in few[1:]]
    assert scores[2] > scores[1] > scores[0]


def test_a_verifier_chooses_among_pictures(tiny):
    seen = []

    def bright(images_B3HW):
        assert images_B3HW.min() >= 0
        assert images_B3HW.max() <= 1
        seen.append(images_B3HW.shape)
        return images_B3HW.mean(dim=(1, 2, 3))

    way = {"sampler": "best_of", "candidates": 8, "verifier": bright}
    best = tiny([0, 1, 2], size=16, seed=1, output="tensor", **way)
    assert best.images.mean() > tiny([0, 1, 2], size=16, seed=1, output="tensor").images.mean()
    assert len(seen) > 8
    assert best.settings["verifier"].endswith("bright")
    with pytest.raises(FlexvarError, match=r"verifier: gave a tensor of shape \(\)"):
        tiny([0], size=16, seed=1, sampler="best_of", verifier=lambda images: images.mean())
    with pytest.raises(FlexvarError, match="soft has no several draws"):
        tiny([0], size=16, seed=1, sampler="best_of", soft=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topk": 3}, r"unexpected keyword argument 'topk'. Did you mean 'top_k'\?"),
        ({"sede": 3}, r"Did you mean 'seed'\?"),
        ({"candidates": 3}, "Options of the sampler 'standard': guidance,"),
        ({"sampler": "bestof"}, "Unknown sampler 'bestof'. Did you mean 'best_of'"),
        ({"sampler": {"name": "best_of", "candidate": 2}}, "did you mean 'candidates'"),
        ({"sampler": "best_of", "candidats": 2}, r"Did you mean 'candidates'\?"),
        ({"sampler": 3}, "sampler: got 3; expected a sampler's name"),
        ({"sampler": {"name": 3}}, "expected a sampler's name"),
        ({"sampler": "best_of", "candidates": 0}, "candidates: got 0; expected greater"),
        ({"sampler": "interval", "guidance_from": 0.9}, "guidance_from is 0.9, past guidance_to"),
    ],
)
def test_what_cannot_be(tiny, options, message):
    with pytest.raises(FlexvarError, match=message):
        tiny([0], size=16, **options)


def test_a_keyword_too_many_is_a_type_error_too(tiny):
    with pytest.raises(TypeError, match="topk"):
        tiny([0], size=16, topk=3)
    with pytest.raises(TypeError, match="inpaint.. got an unexpected keyword argument 'sofd'"):
        tiny.inpaint(torch.zeros(3, 8, 8), torch.ones(8, 8), 0, sofd=True)


def test_presets_name_a_sampler(tiny, tmp_path):
    folder = tiny.save_pretrained(tmp_path / "model")
    import json

    config = json.loads((folder / "config.json").read_text())
    config["presets"] = {
        "default": {"guidance": 1.5, "top_k": 7, "soft": False},
        "best": {"name": "best_of", "candidates": 2, "top_k": 9},
        "gone": {"name": "of_another_plugin"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    pipe = Pipeline.from_pretrained(folder)
    assert (pipe.sampler, pipe.settings.top_k, pipe.settings.guidance) == ("standard", 7, 1.5)
    # Another sampler of the same family keeps what the preset says.
    assert pipe.chosen({"sampler": "best_of"}).config.top_k == 7
    best = Pipeline.from_pretrained(folder, preset="best")
    assert (best.sampler, best.settings.candidates) == ("best_of", 2)
    assert same(best([0], size=16, seed=0), pipe([0], size=16, seed=0, preset="best"))
    again = Pipeline.from_pretrained(pipe.save_pretrained(tmp_path / "again"), preset="best")
    assert again.settings == best.settings
    with pytest.raises(FlexvarError, match="Unknown sampler 'of_another_plugin'"):
        pipe([0], size=16, preset="gone")
    config["presets"]["default"] = {"topk": 7}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FlexvarError, match="presets.default.topk: unknown option; did you mean"):
        Pipeline.from_pretrained(folder)


class Rounds:
    """Half of the tokens in a first round, the rest in a second; the other model at the end."""

    class Config(ComponentConfig):
        fraction: float = 0.5
        second: str = ""

    def __init__(self, config, *, facts):
        self.config = config

    @property
    def models(self):
        return {"second": self.config.second} if self.config.second else {}

    def wrap(self, models):
        return models.get("second", models["model"])

    def guidance(self, layout, step):
        return 1.0

    def process(self, logits, layout, step, latent_BChw):
        return logits

    def rounds(self, layout, step):
        return 2

    def keep(self, logits, tokens, layout, step, number):
        sure_BL = logits.gather(-1, tokens[..., None]).squeeze(-1)
        count = max(1, int(tokens.shape[1] * self.config.fraction))
        return sure_BL >= sure_BL.topk(count, dim=1).values[:, -1:]


class Plugin:
    @hookimpl
    def flexvar_samplers(self):
        yield Component(name="rounds", target="test_samplers:Rounds")

    @hookimpl
    def flexvar_tokenizers(self):
        yield Component(name="bits", target="test_samplers:Bits")


def registry():
    result = Registry()
    result.add(Plugin())
    return result


@pytest.mark.parametrize("backbone", ["transformer", "mamba"])
def test_a_sampler_may_ask_several_times_and_image_seeds_hold(backbone, tmp_path):
    pipe = pipe_of(backbone=backbone, registry=registry())
    layout = Layout.of(1, 2, 4)
    assert run(pipe, layout, {"sampler": "rounds"})[1] == [2] * 6
    batch = pipe([0, 1, 2], size=16, seed=4, sampler="rounds")
    alone = pipe([2], size=16, seed=4, first_index=2, sampler="rounds")
    assert alone.images[0].tobytes() == batch.images[2].tobytes()
    # A round that keeps all is the last word; one that sees nothing is a plain draw.
    assert not same(batch, pipe([0, 1, 2], size=16, seed=4, sampler="rounds", fraction=1.0))
    picture = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(16, 16)
    mask[:8] = 1
    edited = pipe.inpaint(picture, mask, 1, seed=0, sampler="rounds")
    for map_Bhw, given, keep in zip(edited.maps, edited.known.maps, edited.known.keep, strict=True):
        assert torch.equal(map_Bhw[keep], given[keep])


def test_a_sampler_may_ask_another_checkpoint(tiny, tmp_path):
    other = shake(Pipeline.from_config(TINY, seed=1), seed=9)
    folder = other.save_pretrained(tmp_path / "other")
    pipe = Pipeline(tiny.parts, tiny.config, registry=registry())
    ours = pipe([0], size=16, seed=0, sampler="rounds", second=str(folder))
    mine = Pipeline(other.parts, other.config, registry=registry())
    assert ours.maps[-1].equal(
        Pipeline(mine.parts, mine.config, registry=registry())(
            [0], size=16, seed=0, sampler="rounds"
        ).maps[-1]
    )
    wrong = shake(Pipeline.from_config({**TINY, "num_classes": 2, "class_names": None}))
    with pytest.raises(FlexvarError, match="second: .* has num_classes 2, this model 5"):
        pipe([0], size=16, sampler="rounds", second=str(wrong.save_pretrained(tmp_path / "wrong")))


class Bits(torch.nn.Module):
    """Tokens of 32 bits, each the sign of one channel: 2^32 codes, none of them stored."""

    class Config(ComponentConfig):
        parts: int = 32

        @property
        def space(self):
            from flexvar import TokenSpace

            return TokenSpace(2, self.parts, 4, groups=self.parts)

    def __init__(self, config, *, facts):
        super().__init__()
        self.space = config.space
        self.mix = torch.nn.Conv2d(config.parts, 3 * 16, 1)

    def features(self, image_B3HW):
        small = torch.nn.functional.pixel_unshuffle(image_B3HW, 4)
        return small[:, : self.space.groups].float()

    def quantize(self, latent, layout):
        resize = torch.nn.functional.interpolate
        return tuple(
            (resize(latent, size=tuple(g), mode="area") > 0).long().movedim(1, -1) for g in layout
        )

    def encode(self, image_B3HW, layout):
        return self.quantize(self.features(image_B3HW), layout)

    def lookup(self, index_BhwG):
        return (index_BhwG.float() * 2 - 1).movedim(-1, 1) / self.space.groups**0.5

    def fold(self, latent, code_BChw, layout, step):
        return code_BChw

    def resize(self, latent, grid):
        return torch.nn.functional.interpolate(latent, size=tuple(grid), mode="bicubic")

    def decode(self, latent):
        return torch.nn.functional.pixel_shuffle(self.mix(latent), 4)


def test_tokens_of_32_bits_are_drawn_and_edited():
    pipe = shake(Pipeline.from_config({**TINY, "tokenizer": "bits"}, seed=1, registry=registry()))
    options = {"guidance": 2.0, "top_p": 0.9}
    five = pipe([0, 1, 2, 3, 4], size=SIZE, steps=3, seed=1, **options)
    assert [tuple(m.shape) for m in five.maps][-1] == (5, 3, 5, 32)
    assert all(set(m.unique().tolist()) <= {0, 1} for m in five.maps)
    assert len(five.maps[-1].flatten(0, 2).unique(dim=0)) > 50
    alone = pipe([3], size=SIZE, steps=3, seed=1, first_index=3, **options)
    assert alone.images[0].tobytes() == five.images[3].tobytes()
    best = pipe([0], size=SIZE, steps=3, seed=1, sampler="best_of", candidates=2)
    assert best.maps[-1].shape == (1, 3, 5, 32)
    picture = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(SIZE)
    mask[:, 8:] = 1
    edited = pipe.inpaint(picture, mask, 1, seed=0, **options)
    assert not all(bool(keep.all()) for keep in edited.known.keep)
    for map_BhwG, given, keep in zip(
        edited.maps, edited.known.maps, edited.known.keep, strict=True
    ):
        assert torch.equal(map_BhwG[keep], given[keep])
    with pytest.raises(FlexvarError, match="have 32 parts, and mean codes .soft. are made of"):
        pipe([0], size=SIZE, soft=True)


def test_parts_are_drawn_each_by_its_own_number():
    logits = torch.tensor([[[[0.9, 0.1], [0.2, 0.8]]]]).log()
    assert draw.draw(logits, torch.tensor([[[0.5, 0.5]]])).tolist() == [[[0, 1]]]
    assert draw.draw(logits, torch.tensor([[[0.95, 0.1]]])).tolist() == [[[1, 0]]]


def test_known_tokens_that_do_not_fit_are_refused(tiny):
    layout = Layout.of(1, 2)
    keep = tuple(torch.ones(1, *grid, dtype=torch.bool) for grid in layout)
    maps = tuple(torch.zeros(1, *grid, 3, dtype=torch.int64) for grid in layout)
    with pytest.raises(FlexvarError, match="maps: expected one integer map per grid"):
        run(tiny, layout, {}, known=Known(maps, keep))
    with pytest.raises(FlexvarError, match="keep: expected one bool mask per grid"):
        run(tiny, layout, {}, known=Known(tuple(m[..., 0] for m in maps), maps))


class NoReading(TorchDispatchMode):
    """Raises where a number is read from a tensor, or a size depends on one."""

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function.name()
        for bad in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero"):
            assert bad not in name, name
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("way", [{}, {"top_p": 0.9}, {"soft": True}, *WAYS[2:]])
@pytest.mark.parametrize("backbone", ["transformer", "mamba"])
def test_the_loop_reads_nothing_from_the_device(backbone, way, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    pipe, layout = pipe_of(backbone=backbone), Layout.of(1, 2, 3)
    sampler = pipe.chosen({"guidance": 2.0, **way}).build(pipe.model.facts)
    keep = tuple(torch.rand(2, *grid) < 0.5 for grid in layout)
    known = Known(tuple(torch.zeros(2, *grid, dtype=torch.int64) for grid in layout), keep)
    with torch.inference_mode():
        shares = plan(
            pipe.model.conditioner, pipe.tokenizer, torch.tensor([0, 1]), layout, sampler,
            generators([(0, 0), (0, 1)]), known=known, images_per_call=2,
        )  # fmt: skip
        assert len(shares) == 1
        with NoReading():
            progress = loop.begin(pipe.model, shares[0])
            for _ in layout:
                loop.advance(pipe.model, pipe.tokenizer, sampler, shares[0], progress)
    assert len(progress.maps) == 3


def test_scales_after_the_last_that_is_asked_for_need_no_model(tiny):
    layout = Layout.of(1, 2, 3)
    maps = tuple(torch.zeros(1, *grid, dtype=torch.int64) for grid in layout)
    for whole, rows in (((0, 1, 1), [2]), ((1, 1, 0), [2, 2, 2]), ((1, 1, 1), [])):
        keep = tuple(
            torch.full((1, *grid), bool(one)) for grid, one in zip(layout, whole, strict=True)
        )
        assert run(tiny, layout, {"guidance": 2.0}, known=Known(maps, keep))[1] == rows


def test_a_command_has_the_options_of_its_sampler(tiny_dir, tmp_path, capsys):
    import inspect
    import json

    from flexvar.cli import main
    from flexvar.cli.generate import generate
    from flexvar.cli.sampling import sampler_of, with_sampler
    from flexvar.images import read_settings

    def options(*arguments):
        return set(inspect.signature(with_sampler(generate, arguments)).parameters)

    usual = set(inspect.signature(with_sampler(generate, None)).parameters)
    standard = {"guidance", "guidance_schedule", "temperature", "top_k", "top_p", "soft"}
    assert options() - usual == {*standard, "draw_sides"}
    assert "candidates" in options("--sampler", "best_of")
    assert "verifier" not in options("--sampler=best_of")
    folder = tmp_path / "model"
    folder.mkdir()
    presets = {"best": {"name": "best_of"}, "default": {}}
    (folder / "config.json").write_text(json.dumps({"presets": presets}))
    assert sampler_of(["--model", str(folder), "--preset", "best"]) == "best_of"
    assert sampler_of(["--model", str(folder)]) == "standard"
    assert sampler_of(["--model", str(tmp_path), "--preset", "best"]) == "standard"

    line = ["generate", "--model", str(tiny_dir), "--label", "1", "--size", "16", "--seed", "3"]
    line += ["--sampler", "best_of", "--candidates", "3", "--draw-sides", "1,2", "--out"]
    with pytest.raises(SystemExit) as ended:
        main([*line, str(tmp_path)])
    assert not ended.value.code
    settings = read_settings(tmp_path / "00000.png")
    assert (settings["sampler"], settings["candidates"]) == ("best_of", 3)
    assert settings["draw_sides"] == [1, 2]
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*line[:-5], "--candidate", "3"])
    assert ended.value.code == 2
    assert "--candidates" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main([*line[:-6], "--sampler", "beST_of"])
    assert ended.value.code == 2
    assert "Did you mean 'best_of'" in capsys.readouterr().err
