"""Linear layers: the fused product agrees with torch's steps, and is left where it cannot serve."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor

from flexvar.ops import linear as module
from flexvar.ops.linear import Linear, keep_ordered, linear, ordered_bytes, plain

FUSES = bool(module._fused_dtypes())


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 24), (2, 7, 24), (3, 24), (24,)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=["fp32", "bf16"]
)
def test_agrees_with_torchs_own_steps(
    shape: tuple[int, ...],
    bias: bool,
    gelu: bool,
    dtype: torch.dtype,
    tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LEAST", 1)
    monkeypatch.setattr(module, "LEAST_GELU", 1)
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype)
    weight, offset = torch.randn(40, 24, dtype=dtype), torch.randn(40, dtype=dtype)
    with torch.no_grad():
        made = linear(x, weight, offset if bias else None, gelu=gelu)
    expected = plain(x, weight, offset if bias else None, gelu=gelu)
    assert made.dtype == dtype
    assert made.shape == (*shape[:-1], 40)
    torch.testing.assert_close(made, expected, atol=tolerance * 5, rtol=tolerance)


def test_gradients_are_those_of_the_plain_steps() -> None:
    layer = Linear(6, 5, gelu=True)
    x = torch.randn(2, 3, 6, requires_grad=True)
    layer(x).sum().backward()
    expected = torch.autograd.grad(plain(x, layer.weight, layer.bias, gelu=True).sum(), x)[0]
    assert x.grad is not None
    torch.testing.assert_close(x.grad, expected)
    assert layer.weight.grad is not None


@pytest.mark.skipif(not FUSES, reason="oneDNN's operator cannot be had here")
def test_fuses_only_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    plainly: list[Tensor] = []

    def record(x: Tensor, *rest: object, **more: bool) -> Tensor:
        plainly.append(x)
        return x

    monkeypatch.setattr(module, "plain", record)
    monkeypatch.setattr(module, "LEAST", 6 * 4)
    x, weight = torch.ones(2, 3), torch.ones(4, 3)
    with torch.no_grad():
        linear(x, weight, None)
        assert not plainly
        for other in (x.double(), x[:0], x.to("meta")):
            linear(other, weight, None)
        with torch.autocast("cpu", torch.bfloat16):
            linear(x, weight, None)
        assert len(plainly) == 4
    linear(x, weight, None)
    assert len(plainly) == 5
    with torch.no_grad():
        linear(x[:1], weight, None)  # too small to be worth it
    assert len(plainly) == 6


@pytest.mark.skipif(not FUSES, reason="oneDNN's operator cannot be had here")
@pytest.mark.parametrize("dtype", sorted(module._fused_dtypes(), key=str), ids=str)
def test_weights_in_onednns_order_give_the_same_bits_and_follow_changes(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST_WEIGHT", 64 * 48)
    torch.manual_seed(0)
    layer = Linear(64, 48, gelu=True).to(dtype).eval()
    whole, small = torch.nn.Sequential(layer, Linear(48, 4).to(dtype)), torch.randn(5, 64).to(dtype)
    assert ordered_bytes(whole) == layer.weight.nbytes
    keep_ordered(whole, True)

    def check(one: Linear) -> None:
        with torch.inference_mode():
            expected = linear(small, one.weight, one.bias, gelu=True)
            assert torch.equal(one(small), expected)

    check(layer)
    first = layer._copy
    check(layer)
    assert first is not None
    assert layer._copy is first
    with torch.no_grad():
        layer.weight.mul_(2)
    check(layer)
    assert layer._copy is not first
    layer.weight.data = torch.randn(48, 64).to(dtype)
    check(layer)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        with torch.no_grad():
            other.weight.mul_(3)
        check(other)
    assert whole[1]._copy is None
    keep_ordered(whole, False)
    assert layer._copy is None
    check(layer)
    assert layer._copy is None
    monkeypatch.setattr(module, "MOST_ORDERED", 64)
    keep_ordered(whole, True)
    assert not layer.ordered
    assert ordered_bytes(whole) == 0


@pytest.mark.skipif(not FUSES, reason="oneDNN's operator cannot be had here")
@pytest.mark.parametrize("change", ["fused optimizer", "in place", "other memory", "turned"])
def test_weights_that_change_without_a_version_are_put_in_order_again(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST_WEIGHT", 64 * 48)
    torch.manual_seed(0)
    layer, x = Linear(64, 48).eval(), torch.randn(5, 64)
    keep_ordered(layer, True)
    with torch.inference_mode():
        layer(x)
    assert layer._copy is not None
    version = layer.weight._version
    if change == "fused optimizer":
        layer(x).square().sum().backward()
        torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True).step()
    elif change == "in place":
        layer.weight.data.mul_(2)
    elif change == "other memory":
        layer.weight.data = torch.randn(48, 64)
    else:
        layer.weight.data = torch.randn(64, 48).t()
    assert layer.weight._version == version
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), plain(x, layer.weight, layer.bias))


def test_a_layer_that_is_trained_keeps_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_WEIGHT", 1)
    layer, x = Linear(8, 4), torch.randn(2, 8)
    keep_ordered(layer, True)
    with torch.no_grad():
        layer.train()(x)
    layer.eval()(x).sum().backward()
    assert layer._copy is None
