"""The ablation suite: what it fits, what it trains, what it keeps, what it writes."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import command

from benchmarks.harness.suite import Options, Red
from flexvar.components import Facts
from flexvar.layout import Layout
from flexvar.model import NextScaleModel
from flexvar.sequence import fold_scales
from flexvar.training.guard import Interrupted
from flexvar.training.recipe import TokenizerRecipe
from flexvar.training.train import train
from studies.ablation import measure, plan, scaling, tables, trained
from studies.ablation import suite as ablation
from studies.ablation.full_over_residual import FullOverResidual
from studies.ablation.trained import Place

TINY = replace(
    plan.QUICK, digits_tokenizer_steps=4, digits_steps=3, classifier_steps=2, samples=1, traced=1
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("ablation"), TINY)


def tokenizer_run(name: str) -> plan.TokenizerRun:
    return next(run for run in plan.tokenizers(TINY) if run.name == name)


def model_run(name: str) -> plan.ModelRun:
    return next(run for run in plan.models(TINY) if run.name == name)


def test_an_exact_power_law_is_found_again() -> None:
    sizes = [0.001, 0.01, 0.1, 1.0, 2.0]
    law = scaling.fit(sizes, [(2.0 * size) ** -0.23 for size in sizes])
    assert law.exponent == pytest.approx(-0.23)
    assert law.factor == pytest.approx(2.0)
    assert law.correlation == pytest.approx(-1)
    assert law.low == pytest.approx(law.high, abs=1e-6)
    assert law(0.5) == pytest.approx(1.0)


def test_the_interval_holds_the_true_exponent_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    sizes = np.geomspace(1e-5, 1e-2, 6)
    held = 0
    for _ in range(300):
        law = scaling.fit(
            sizes.tolist(), (sizes**-0.2 * np.exp(0.02 * rng.normal(size=6))).tolist()
        )
        held += law.low <= -0.2 <= law.high
    assert 0.91 < held / 300 < 0.985


@pytest.mark.parametrize(
    ("sizes", "values", "message"),
    [
        ([1, 2], [1, 2], "3 points"),
        ([1, 2, 3], [1, 0, 1], "positive"),
        ([1, 1, 1], [1, 2, 3], "one size"),
    ],
)
def test_no_law_is_fitted_to_what_is_none(
    sizes: list[float], values: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        scaling.fit(sizes, values)


def test_every_published_figure_stands_beside_a_run() -> None:
    from studies.ablation import published

    names = {run.name for run in plan.models(plan.FULL)}
    for table in (published.TABLE_4, published.TABLE_5, published.TABLE_6):
        assert set(table) <= names
    assert len(plan.FULL.depths) >= 5


def test_names_are_unique_and_budgets_equal() -> None:
    runs = plan.models(plan.FULL)
    assert len({run.name for run in runs}) == len(runs)
    for prefix in ("digits: ", "photos: ", "scaling: "):
        group = [run.recipe for run in runs if run.name.startswith(prefix)]
        for key in ("steps", "batch_size", "optimiser", "ema", "data"):
            assert all(recipe[key] == group[0][key] for recipe in group), (prefix, key)


def test_backbones_asked_for_are_trained_alike_and_need_no_other_case() -> None:
    options = Options(quick=True, backbones=("mamba", "transformer"))
    found = ablation.cases(options)
    assert [case.name for case in found] == [
        "photos: backbone mamba",
        "photos: backbone transformer",
    ]
    assert all(case.settings["recipe"]["backbone"]["width"] == 32 for case in found)
    usual = ablation.cases(Options(quick=True))
    assert len({case.name for case in usual}) == len(usual)
    assert json.loads(json.dumps([dict(case.settings) for case in usual]))


def test_full_prediction_over_a_residual_codebook_decodes_the_last_map_alone() -> None:
    options = dict(plan.tokenizers(TINY)[1].recipe["tokenizer"])
    del options["name"]
    torch.manual_seed(0)
    tokenizer = FullOverResidual(
        FullOverResidual.Config.model_validate(options), facts=Facts(0, 0, 0, 0, 0)
    ).eval()
    layout = Layout.of(1, 2, 4)
    maps = tokenizer.encode(torch.rand(2, 3, 16, 16) * 2 - 1, layout)
    *_, latent = fold_scales(tokenizer, maps, layout)
    assert torch.equal(latent, tokenizer.lookup(maps[-1]))


def test_a_stopped_run_goes_on_and_a_finished_one_is_left_alone(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tokenizer_run(plan.D_RESIDUAL)
    recipe = {**run.recipe, "seed": place.seed}
    out = place.directory(f"tokenizer {run.name}", recipe)
    half = TokenizerRecipe.model_validate({**recipe, "out": str(out), "stop_after": 2})
    with pytest.raises(Interrupted):
        train(half, device="cpu", say=lambda line: None)
    assert trained.tokenizer(run, place) == out
    assert "going on after step 2" in capsys.readouterr().out
    before = (out / "log.jsonl").stat().st_mtime_ns
    assert trained.tokenizer(run, place) == out
    assert (out / "log.jsonl").stat().st_mtime_ns == before
    assert [line["step"] for line in trained.log(out, "train")] == [1, 2, 3, 4]


def test_another_recipe_or_seed_is_another_run(place: Place) -> None:
    recipe = dict(plan.tokenizers(TINY)[0].recipe)
    one = place.directory("x", recipe)
    assert one != place.directory("x", recipe | {"steps": 5})
    assert one != replace(place, seed=1).directory("x", recipe)


def test_figures_of_a_tokenizer_and_of_a_model(place: Place) -> None:
    figures = measure.tokenizer_figures(tokenizer_run(plan.D_RESIDUAL), place)
    assert 0 < figures["reconstructions"]["usage"] <= 1
    assert figures["reconstructions"]["rfid_offline"] > 0
    figures = measure.model_figures(model_run(f"digits: {plan.RESIDUAL}"), place)
    json.dumps(figures)  # a row
    # Untrained: no better than chance, give or take; bounded by what a code costs.
    assert figures["validation"]["loss"] == pytest.approx(np.log(128), rel=0.1)
    assert len(figures["validation"]["loss_by_scale"]) == len(plan.FIXED)
    assert [look["step"] for look in figures["trace"]] == [1, 2, 3]
    assert (place.root / figures["picture"]).is_file()


def test_a_model_that_steps_otherwise_is_red(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    run = model_run(f"digits: {plan.RESIDUAL}")
    trained.model(run, place)
    step = NextScaleModel.step

    def wrong(self: NextScaleModel, inputs_BLC: torch.Tensor | None, state: Any) -> torch.Tensor:
        return step(self, inputs_BLC, state) * 1.01

    monkeypatch.setattr(NextScaleModel, "step", wrong)
    with pytest.raises(Red, match="scale by scale and all at once differ"):
        measure.model_figures(run, place)


def train_one(root: Path) -> None:
    place = Place(root, TINY)
    trained.tokenizer(tokenizer_run(plan.D_RESIDUAL), place)


@pytest.mark.slow
def test_two_processes_that_want_one_run_train_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=train_one, args=(tmp_path,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(300)
    assert [process.exitcode for process in both] == [0, 0]
    (log,) = tmp_path.rglob("log.jsonl")
    assert [line["step"] for line in trained.log(log.parent, "train")] == [1, 2, 3, 4]


@pytest.mark.slow
def test_the_runner_trains_and_measures_a_case(tmp_path: Path) -> None:
    out, name = tmp_path / "rows.jsonl", f"tokenizer: {plan.D_RESIDUAL}"
    words = ["run", "ablation", "--quick", "--device", "cpu", "--filter", name, "--out", out]
    environment = {"FLEXVAR_ABLATION_RUNS": str(tmp_path)}
    done = command("benchmarks", *words, environment=environment)
    assert (tmp_path / "quick").is_dir()
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = map(json.loads, out.read_text().splitlines())
    assert found["case"] == name
    assert found["figures"]["reconstructions"]["psnr"] > 5
    assert tables.tokenizer_table(tables.by_case([found])).body


def row(case: str, seed: int, loss: float, size: float = 1e6) -> dict[str, Any]:
    scale = dict.fromkeys(("loss", "last_loss", "error", "last_error"), loss)
    figures = {
        "parameters": size, "backbone_parameters": size, "validation": scale, "training": loss,
        "samples": {"accuracy": 0.5, "recall": 0.5, "frechet": loss}, "images_per_second": 1.0,
    }  # fmt: skip
    return {"case": case, "settings": {"seed": seed}, "figures": figures}


def test_seeds_become_mean_and_deviation_and_the_latest_row_counts() -> None:
    case = f"digits: {plan.FULL_ONE}"
    rows = tables.by_case([row(case, 0, 9.0), row(case, 0, 1.0), row(case, 1, 3.0)])
    assert tables.cell(rows, case, "validation.loss", 2) == "2.00 ± 1.41"
    failed = {"case": case, "settings": {"seed": 2}, "error": "out of memory"}
    assert tables.cell(tables.by_case([failed]), case, "validation.loss") == "-"


def test_the_law_is_fitted_over_the_rows() -> None:
    rows = tables.by_case(
        row(f"scaling: transformer d{d}", 0, (2.0 * size / 1e9) ** -0.2, size)
        for d, size in enumerate((1e4, 1e5, 1e6, 1e7, 1e8), start=1)
    )
    assert tables.laws(rows)["loss"].exponent == pytest.approx(-0.2)
    assert "-0.200" in tables.markdown(tables.laws_table(rows))


def test_the_page_keeps_what_was_written_below_a_table(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from studies.ablation import page

    rows = [
        row(f"scaling: transformer d{d}", 0, (2.0 * size / 1e9) ** -0.2, size)
        for d, size in enumerate((1e4, 1e5, 1e6), start=1)
    ]
    path = page.write(rows, tmp_path, tmp_path)
    assert (tmp_path / "ablation-scaling.png").is_file()
    text = path.read_text()
    assert text.count(page.UNWRITTEN) == 1
    path.write_text(text.replace(page.UNWRITTEN, "It agrees."))
    again = page.write(rows, tmp_path, tmp_path).read_text()
    assert "It agrees." in again
    assert page.UNWRITTEN not in again


def test_a_missing_results_file_is_a_message(tmp_path: Path) -> None:
    done = command("studies.ablation", tmp_path / "none.jsonl")
    assert done.returncode == 2
    assert "No such file" in done.stderr
    assert "Traceback" not in done.stderr
