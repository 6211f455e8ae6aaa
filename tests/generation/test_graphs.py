"""Recorded graphs give what eager generation gives; on a CPU a replay is a call on their memory."""

from __future__ import annotations

import copy
import os
import warnings

import pytest
import torch
from flexvar_plugins.backbones.adaln import AdaLnBackbone
from helpers import TINY, shake
from PIL import Image

from flexvar import FlexvarError, Pipeline
from flexvar.generation import engine, graphs
from flexvar.generation.graphs import Graphs, Rehearsal, Unrecordable
from flexvar.generation.loop import Generated

# A thorough run takes more: FLEXVAR_TEST_SEEDS=50.
SEEDS = int(os.environ.get("FLEXVAR_TEST_SEEDS", "2"))
BACKBONES = {
    "transformer": TINY["backbone"],
    "mamba": {"name": "mamba", "depth": 2, "width": 32, "state_size": 8},
}
SIZES = ((12, 20), (16, 16), (4, 28))
SAMPLERS = {
    "standard": {"top_k": 20, "top_p": 0.9},
    "top_p alone": {"top_p": 0.8},
    "likeliest": {"top_k": 1},
    "no guidance": {"guidance": 0.0},
    "soft": {"soft": True},
    "released": {"sampler": {"name": "released", "draw_sides": (1, 2)}},
    "interval": {"sampler": {"name": "interval", "guidance_to": 0.5}},
    "best_of": {"sampler": "best_of"},
    "masked": {"sampler": "masked"},
    "ssg": {"sampler": "ssg"},
}


@pytest.fixture(scope="module", params=BACKBONES)
def pipe(request):
    return shake(Pipeline.from_config(TINY | {"backbone": BACKBONES[request.param]}, seed=1))


def recorded(pipe, **options):
    """The same model with graphs, none recorded yet."""
    other = copy.copy(pipe)
    other._warned = set()
    other.graphs = engine.graphs_of(other, Rehearsal())
    return other


def same(one, other):
    tokens = all(torch.equal(a, b) for a, b in zip(one.maps, other.maps, strict=True))
    return tokens and torch.equal(one.images, other.images)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_draws_the_same_replayed(pipe, name):
    other = recorded(pipe)
    for seed in range(SEEDS):
        size, labels = SIZES[seed % len(SIZES)], [[1], [0, 3], [None]][seed % 3]
        given = {"size": size, "steps": 3, "seed": seed, "output": "tensor", **SAMPLERS[name]}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # At its first call a kind of request is recorded, at the next ones replayed.
            for call in [labels] if seed else [labels, [2], [4, 4]]:
                assert same(other(call, **given), pipe(call, **given))
    assert len(other.graphs) == min(SEEDS, len(SIZES))


def test_every_edit_is_the_same_replayed(pipe):
    other = recorded(pipe)
    picture = Image.radial_gradient("L").resize((20, 12)).convert("RGB")
    mask = Image.new("L", picture.size, 0)
    mask.paste(255, (2, 2, 10, 9))
    for seed in range(SEEDS):
        given = {"seed": seed, "output": "tensor", "steps": 3}
        for ask in (
            lambda one: one.inpaint(picture, mask, 1, **given),  # noqa: B023
            lambda one: one.inpaint(picture, mask, 2, num=2, top_k=9, **given),  # noqa: B023
            lambda one: one.outpaint(picture, (1, 1.5), 1, fill="smooth", **given),  # noqa: B023
            lambda one: one.edit(picture, (0, 0, 8, 8), 1, **given),  # noqa: B023
            lambda one: one.refine(picture, (24, 40), 1, **given),  # noqa: B023
        ):
            assert same(ask(other), ask(pipe))
    assert len(other.graphs) > 2


def test_a_kind_of_request_is_recorded_once_and_the_oldest_goes(pipe):
    other, said = recorded(pipe), []
    other.graphs = Graphs(Rehearsal(), most=2, say=said.append)
    given = {"seed": 0, "output": "tensor", "steps": 2}
    for size in (8, 12, 8, 12, 16, 12, 8):
        other([1], size=size, **given)
    assert [line.split(" in ")[0] for line in said] == [
        "recorded 1 row of 1, 2", "recorded 1 row of 1, 3", "recorded 1 row of 1, 4",
        "recorded 1 row of 1, 2",
    ]  # fmt: skip
    assert len(other.graphs) == 2
    other([1], size=8, guidance=1.5, **given)
    assert len(said) == 5
    # A copy has its weights elsewhere.
    assert len(copy.deepcopy(other).graphs) == 0


def test_a_result_outlives_the_next_replay(pipe):
    other = recorded(pipe)
    given = {"size": 12, "steps": 2, "seed": 0, "output": "tensor"}
    first = other([1], **given)
    second = other([1], **given)
    before = [one.clone() for one in (*second.maps, second.images)]
    other([3], **{**given, "seed": 5})
    assert all(
        torch.equal(a, b) for a, b in zip((*second.maps, second.images), before, strict=True)
    )
    assert same(first, second)


def test_new_weights_are_never_answered_by_an_old_graph(pipe):
    other = recorded(copy.deepcopy(pipe))
    given = {"size": 12, "steps": 2, "seed": 0, "output": "tensor"}
    other([1], **given)
    with torch.no_grad():
        other.model.start_embedding.add_(1)  # in place: the graph reads it
    assert same(other([1], **given), Pipeline(other.parts, other.config)([1], **given))
    other.model.start_embedding = torch.nn.Parameter(other.model.start_embedding.detach() - 3)
    assert same(other([1], **given), Pipeline(other.parts, other.config)([1], **given))
    assert len(other.graphs) == 2
    other.to("bf16")
    assert len(other.graphs) == 0


def test_memory_that_is_not_brought_up_to_date_is_noticed(pipe, monkeypatch):
    """The check at recording sees a number that stuck: here the random ones are not copied in."""
    every = graphs.tensors
    monkeypatch.setattr(
        graphs, "tensors", lambda share: [t for t in every(share) if t is not share.uniform]
    )
    other = recorded(pipe)
    given = {"size": 12, "steps": 2, "output": "tensor", "temperature": 3.0}
    with pytest.warns(UserWarning, match=r"No graph of 1 row of 1, 3.*tokens other"):
        found = other([1], seed=0, **given)
    assert same(found, pipe([1], seed=0, **given))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(other([1], seed=1, **given), pipe([1], seed=1, **given))
    assert len(other.graphs) == 0


def test_what_cannot_be_recorded_runs_without_and_says_why_once(pipe):
    class Fails:
        device = False

        def record(self, work):
            raise RuntimeError("operation not permitted when stream is capturing\nat 0x1")

    other = recorded(pipe)
    other.graphs = engine.graphs_of(other, Fails())
    given = {"size": 8, "steps": 2, "output": "tensor"}
    with pytest.warns(UserWarning, match="which runs without: operation not permitted") as found:
        results = [other([1], seed=seed, **given) for seed in range(3)]
    assert len(found) == 1
    for seed, result in enumerate(results):
        assert same(result, pipe([1], seed=seed, **given))


def test_single_scales_are_looked_at_without_a_graph(pipe):
    other, seen = recorded(pipe), []
    given = {"size": 8, "steps": 2, "seed": 0, "output": "tensor"}
    other([1], on_scale=lambda step, latent, maps: seen.append(step), **given)
    assert seen == [0, 1]
    assert len(other.graphs) == 0


def test_reads_and_copies_are_named_before_a_device_would_refuse_them():
    number = torch.ones(3)
    with graphs._Outside(strict=False) as outside:
        other = number + torch.ones(3)
        assert bool(other.sum() > 0)
    assert [tensor is number for tensor in outside.found.values()] == [True]
    with pytest.raises(Unrecordable, match="reads a number"), graphs._Outside(strict=True):
        bool((number + 1).sum() > 0)
    strict = graphs._Outside(strict=True)
    with pytest.raises(Unrecordable, match="copies between cpu and meta"), strict:
        number.to("meta")
    made, other = (Generated((), number, number + apart) for apart in (0, 1))
    with pytest.raises(Unrecordable, match="picture is up to 1"):
        graphs._check(made, other)


def counted(frames):
    def backend(graph, example_inputs):
        frames.append(graph)
        return graph.forward

    return backend


def test_compiled_blocks_draw_the_same_and_can_be_undone(pipe):
    torch._dynamo.reset()
    frames, other = [], copy.deepcopy(pipe)
    assert engine.compile_regions(other.model, engine.regional(counted(frames)))
    for seed in range(SEEDS):
        given = {"steps": 3, "seed": seed, "output": "tensor", "top_k": 20}
        assert same(
            other([1], size=SIZES[seed % 3], **given), pipe([1], size=SIZES[seed % 3], **given)
        )
    # One graph for a single token and one for more, of each region; none for a block, none for a
    # size.
    assert 0 < len(frames) <= 6
    engine.compile_regions(other.model, None)
    regions = [name for m in other.model.modules() for name in getattr(m, "REGIONS", ())]
    assert not any(name in vars(m) for m in other.model.modules() for name in regions)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("times", "on"), [((2.0, 1.0), True), ((1.0, 2.0), False), ((1.0, 1.0), False)]
)
def test_a_cpu_keeps_what_is_faster(pipe, monkeypatch, times, on):
    left = list(times)
    monkeypatch.setattr(engine, "_seconds_of_a_picture", lambda session: left.pop(0))
    other = copy.deepcopy(pipe)
    found = other.compile()
    assert (found.regions, found.graphs) == (on, False)
    assert f"{times[0]:.3g} s a picture without" in str(found)
    block = next(m for m in other.model.modules() if hasattr(m, "REGIONS"))
    assert (block.REGIONS[0] in vars(block)) == on
    other.compile("off")
    assert block.REGIONS[0] not in vars(block)


def test_a_machine_that_cannot_compile_says_so_and_goes_on(pipe, monkeypatch):
    def seconds(session):
        if any(name in vars(m) for m in session.model.modules() for name in ("gated",)) or any(
            "before_attention" in vars(m) for m in session.model.modules()
        ):
            raise RuntimeError("no C++ compiler\nmore")
        return 1.0

    monkeypatch.setattr(engine, "_seconds_of_a_picture", seconds)
    other = copy.deepcopy(pipe)
    other._warned = set()
    assert str(other.compile()).startswith("not compiled: blocks cannot be compiled here (no C++")
    with pytest.warns(UserWarning, match="cannot be compiled here: no C"):
        other.compile("regions")
    with pytest.raises(FlexvarError, match="graphs are recorded on CUDA"):
        other.compile("graphs")
    with pytest.raises(FlexvarError, match="mode: got 'fast'; expected auto"):
        other.compile("fast")


def test_a_backbone_without_regions_needs_to_know_nothing(monkeypatch):
    monkeypatch.delattr(AdaLnBackbone, "compile_regions")
    pipe = Pipeline.from_config(
        TINY | {"backbone": {"name": "mvar", "depth": 1, "width": 32}}, seed=1
    )
    assert "its backbone names no regions" in str(pipe.compile())
    other = recorded(pipe)
    given = {"size": (12, 20), "steps": 3, "seed": 0, "output": "tensor"}
    for label in (1, 2):
        assert same(other([label], **given), pipe([label], **given))
    assert len(other.graphs) == 1


def test_commands_compile_and_say_what_was_chosen(tiny_dir, tmp_path, monkeypatch, capsys):
    from flexvar.cli import main

    asked = []

    def compiled(self, mode="auto"):
        asked.append(mode)
        return engine.Compiled(False, False, "a trial", 0.5)

    monkeypatch.setattr(Pipeline, "compile", compiled)
    out = tmp_path / "out"
    common = ["--model", str(tiny_dir), "--device", "cpu", "--steps", "2", "--seed", "0"]
    for command in (
        ["generate", "--label", "1", "--size", "8", "--out", str(out), "--compile", *common],
        ["evaluate", "--num", "1", "--metrics", "none", "--size", "8", "--compile",
         "--out", str(tmp_path / "evaluated"), *common],
    ):  # fmt: skip
        with pytest.raises(SystemExit) as end:
            main(command)
        assert not end.value.code, capsys.readouterr().err
        said = capsys.readouterr()
        assert "not compiled: a trial (0.5 s)" in said.out + said.err
    assert asked == ["auto"] * 2
