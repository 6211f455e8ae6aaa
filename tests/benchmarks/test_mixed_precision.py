"""In mixed precision the kernel is chosen by what products run in, and held against the plain."""

import pytest
import torch
from flexvar_plugins.backbones import attention, scan_kernels

from benchmarks.harness import models, parity
from benchmarks.harness.suite import Red
from flexvar import Layout, Pipeline
from tests.helpers import TINY

LAYOUT = Layout.of(1, 2, (2, 3))


def pipeline(**backbone):
    pipe = Pipeline.from_config({**TINY, "backbone": {"depth": 2, "width": 64, **backbone}})
    models.stir(pipe.model, 0)
    return pipe


@pytest.mark.parametrize(("name", "module"), [("transformer", attention), ("mamba", scan_kernels)])
def test_kernel_follows_autocast(name, module, monkeypatch):
    asked = []
    pipe = pipeline(name=name)
    choose = module.choose

    def record(implementation, device, dtype):
        asked.append(dtype)
        return choose(implementation, device, dtype)

    monkeypatch.setattr(module, "choose", record)
    tried = parity.trial(pipe, LAYOUT, 2)
    for autocast, expected in ((False, torch.float32), (True, torch.bfloat16)):
        asked.clear()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            pipe.model(tried.labels_B, tried.inputs_BLC, LAYOUT)
            pipe.model.backbone.implementation()
        assert asked == [expected, expected]


@pytest.mark.parametrize("name", ["transformer", "mamba"])
def test_gradients_under_autocast(name):
    found = parity.check_gradients(pipeline(name=name), LAYOUT, dtype="bf16")
    assert found["gradients"]["greatest"] <= found["gradients"]["tolerance"]
    for what in ("logits", "gradients"):
        assert 0 < found["bf16"][what]["rms_to_fp32"] <= found["bf16"][what]["tolerance"] < 0.2


def test_kernel_without_fp32_is_held_under_autocast_alone(monkeypatch):
    """A stand-in for a kernel as flash-attn's, which refuses fp32: a sound one and a wrong one."""
    right = attention.sdpa

    def only_half(q, k, v, scale):
        assert v.dtype == torch.bfloat16, "no fp32 here"
        return right(q, k, v, scale)

    def wrong(q, k, v, scale):
        return only_half(q, k, v, 3 * scale)

    monkeypatch.setattr(attention, "require", lambda name: None)
    monkeypatch.setattr(attention, "choose", lambda name, device, dtype: name)
    monkeypatch.setitem(attention.KERNELS, "flash", only_half)
    pipe = pipeline(name="transformer", implementation="flash")
    found = parity.check_gradients(pipe, LAYOUT, dtype="bf16")
    assert found["compared"] == "under autocast alone"
    monkeypatch.setitem(attention.KERNELS, "flash", wrong)
    with pytest.raises(
        Red, match="under bf16 autocast the (logits|gradients) are .* those of 'eager'"
    ):
        parity.check_gradients(pipe, LAYOUT, dtype="bf16")
