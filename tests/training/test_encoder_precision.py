"""What pictures are encoded in while a model trains, and what is said of it."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from flexvar.config import parse
from flexvar.data import Batch
from flexvar.ops import precision
from flexvar.training import ModelRecipe, train
from flexvar.training.model_stage import ModelStage

from .conftest import model_options


def lines_of(trained_tokenizer: Path, tmp_path: Path, **changes: object) -> list[str]:
    said: list[str] = []
    recipe = parse(
        ModelRecipe, model_options(trained_tokenizer, tmp_path / "run", steps=1, **changes)
    )
    train(recipe, device="cpu", dry_run=True, say=said.append)
    return said


def test_a_run_says_how_many_tokens_an_encoder_in_bf16_keeps(
    trained_tokenizer: Path, tmp_path: Path
) -> None:
    said = lines_of(trained_tokenizer, tmp_path, encoder_precision="bf16")
    (line,) = [line for line in said if line.startswith("encoder in bf16")]
    shares = [float(share) for share in re.findall(r"([0-9.]+)%", line)]
    assert len(shares) == 2
    assert all(20 < share <= 100 for share in shares)
    exact = lines_of(trained_tokenizer, tmp_path)
    assert not any("encoder" in line for line in exact)


def test_kernels_are_taken_in_training_where_the_recipe_says_so(
    trained_tokenizer: Path, tmp_path: Path
) -> None:
    for wanted in (False, True):
        options = model_options(trained_tokenizer, tmp_path / "run", kernels=wanted)
        stage = ModelStage(parse(ModelRecipe, options), 4)
        model = stage.players["main"].module
        able = {module.fused for module in model.modules() if hasattr(type(module), "fused")}
        assert able == {wanted}
        assert not any(getattr(one, "fused", False) for one in stage.tokenizer.modules())


def test_batches_reach_a_gpu_without_being_waited_for(monkeypatch) -> None:
    asked = []

    def pinned(tensor: torch.Tensor) -> torch.Tensor:
        asked.append("pinned")
        return tensor

    def there(tensor: torch.Tensor, device: torch.device, **options: bool) -> torch.Tensor:
        asked.append(options)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
    monkeypatch.setattr(torch.Tensor, "to", there)
    batch = Batch(torch.zeros(1, 3, 4, 4), torch.zeros(1, dtype=torch.int64))
    batch.to(torch.device("cuda"))
    assert asked == ["pinned", {"non_blocking": True}]
    batch.to(torch.device("cpu"))
    assert asked[2:] == [{}]


def test_convolutions_are_exact_where_tokens_are_decided() -> None:
    convolutions = torch.backends.cudnn.conv
    before = convolutions.fp32_precision
    with precision.exact_convolutions():
        assert convolutions.fp32_precision == "ieee"
    assert convolutions.fp32_precision == before
