"""Compares flexvar's kernels with torch's own steps in Triton's interpreter, on the CPU, in fp32.

Run by test_kernels.py as a process of its own with TRITON_INTERPRET=1. One by one, then inside
whole models: the same tokens and pictures, and the same gradients of a training step.
"""

from __future__ import annotations

import copy
import sys
from collections import Counter
from typing import Any
from unittest import mock

import torch
from helpers import TINY, shake
from torch.utils._python_dispatch import TorchDispatchMode

from flexvar import Layout, Pipeline
from flexvar.generation import engine
from flexvar.ops import fusion

CPU = torch.device("cpu")
MODELS = {
    "transformer": {},
    "rotated": {
        "backbone": {"name": "transformer", "depth": 2, "width": 96, "num_heads": 3,
                     "shared_modulation": True},
        "position": "rotary2d",
    },
    "mamba": {"backbone": {"name": "mamba", "depth": 2, "width": 32, "state_size": 8}},
}  # fmt: skip


class Ran(TorchDispatchMode):
    """How often each of flexvar's operators ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "flexvar":
            self.names[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def one_by_one() -> None:
    for name, one in sorted(fusion.KNOWN.items()):
        if name == "linear_gelu":
            continue  # cuBLASLt's, whose GELU is another one on a CPU
        worst = 0.0
        for arguments in one.cases(torch.Generator().manual_seed(0)):
            ours, plain = (
                fusion.results(one, way, arguments, CPU, torch.float32)
                for way in (one.fused, one.plain)
            )
            assert ours.keys() == plain.keys()
            for what in plain:
                apart = fusion._apart(
                    ours[what], plain[what], one.slack * fusion.TOLERANCE[torch.float32]
                )
                assert apart <= 1, (name, what, apart)
                worst = max(worst, apart)
        print(f"{name}: {worst:.2g} of the tolerance")


def in_whole_models(names: list[str]) -> None:
    for name in names:
        pipe = shake(Pipeline.from_config(TINY | MODELS[name], seed=1))
        other = copy.deepcopy(pipe)
        engine.use_kernels(other, True)
        given = {"size": (12, 20), "steps": 3, "seed": 0, "output": "tensor", "guidance": 2.0}
        for sampling in ({"top_k": 20, "top_p": 0.9, "temperature": 1.3}, {"top_k": 1}):
            expected = pipe([1, 3], **given, **sampling)
            with fusion.trusted("cpu"), Ran() as ran:
                found = other([1, 3], **given, **sampling)
            for one, more in zip(expected.maps, found.maps, strict=True):
                assert torch.equal(one, more), (name, sampling)
            torch.testing.assert_close(found.images, expected.images, atol=2e-5, rtol=0)
            print(name, sampling, dict(ran.names))
        assert_gradients(name, pipe, other)
        assert_regions(name, pipe, other)


def assert_gradients(name: str, pipe: Pipeline, other: Pipeline) -> None:
    layout = Layout.of(1, 2, (3, 5))
    inputs_BLC = torch.randn(2, layout.tokens - 1, 8, generator=torch.Generator().manual_seed(0))
    gradients = []
    for one in (pipe, other):
        model = one.model
        with fusion.trusted("cpu"), Ran() as ran, torch.inference_mode(False):
            model(one.collate([1, 2]), inputs_BLC, layout).square().mean().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    assert ran.names["norm_backward"] > 2
    for weight, expected in gradients[0].items():
        found = gradients[1][weight]
        assert (found is None) == (expected is None), weight
        if expected is not None:
            scale = float(expected.abs().max())
            torch.testing.assert_close(found, expected, atol=1e-4 * scale + 1e-9, rtol=1e-4)
    print(name, "gradients agree", dict(ran.names))


def assert_regions(name: str, pipe: Pipeline, other: Pipeline) -> None:
    """Compiled blocks hold the kernels that agreed, and stay one graph each."""
    frames = []

    def backend(graph: Any, inputs: Any) -> Any:
        frames.append(graph)
        return graph.forward

    given = {"size": (12, 20), "steps": 3, "seed": 0, "output": "tensor", "top_k": 20}
    engine.compile_regions(other.model, engine.regional(backend))
    agreed = {(one, "cpu"): fusion.Verdict(True, "agrees") for one in fusion.KNOWN}
    with mock.patch.dict(fusion._verdicts, agreed):
        found = other([1], **given)
    engine.compile_regions(other.model, None)
    for one, more in zip(pipe([1], **given).maps, found.maps, strict=True):
        assert torch.equal(one, more), name
    targets = {str(node.target) for graph in frames for node in graph.graph.nodes}
    inside = sorted(target for target in targets if target.startswith("flexvar."))
    assert "flexvar.residual_norm.default" in inside, targets
    print(name, "regions hold", inside)


if __name__ == "__main__":
    from flexvar.plugin import default_registry

    known = default_registry()
    for kind, component in (
        ("backbone", "transformer"),
        ("backbone", "mamba"),
        ("tokenizer", "multiscale"),
    ):
        known.load(kind, component)
    wanted = sys.argv[1:]
    if not wanted:
        one_by_one()
    in_whole_models(wanted or list(MODELS))
