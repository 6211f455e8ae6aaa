"""The scan and its convolution: implementations against the plain reference, and who is chosen."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from flexvar_plugins.backbones import scan_kernels, ssd
from flexvar_plugins.backbones.scan_kernels import Package
from flexvar_plugins.backbones.ssd import Inputs

from flexvar.errors import PluginError

NAMES = ("x_BLHd", "dt_BLH", "rate_H", "write_BLN", "read_BLN", "skip_H", "state_BHdN")
# Largest difference allowed, relative to the largest number of the tensor (at least 1). bf16
# keeps 8 bits: 2^-9 per rounding, and a few roundings on the way.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
CPU = torch.device("cpu")


def make_inputs(
    length: int, *, batch=2, heads=3, dim=16, states=8, dtype=torch.float32, state=True, seed=0
) -> Inputs:
    """Inputs of the size a trained mixer has; read is scaled so that outputs are about 1."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return Inputs(
        x_BLHd=draw(batch, length, heads, dim).to(dtype),
        dt_BLH=F.softplus(draw(batch, length, heads) - 3),
        rate_H=-1 - 15 * torch.rand(heads, generator=generator),
        write_BLN=draw(batch, length, states).to(dtype),
        read_BLN=(draw(batch, length, states) / states**0.5).to(dtype),
        skip_H=draw(heads),
        state_BHdN=draw(batch, heads, dim, states) if state else None,
    )


def run(scan, inputs: Inputs, chunk_size=None) -> dict[str, torch.Tensor]:
    """Outputs, final state, and the gradients of all inputs under a random cotangent."""
    given = {name: getattr(inputs, name) for name in NAMES}
    leaves = {k: v.detach().clone().requires_grad_() for k, v in given.items() if v is not None}
    y_BLHd, state_BHdN = scan(Inputs(**leaves), chunk_size)
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (out.float() * torch.randn(out.shape, generator=generator).to(out.device)).sum()
        for out in (y_BLHd, state_BHdN)
    )
    loss.backward()
    results = {"y": y_BLHd, "final state": state_BHdN}
    return results | {f"gradient of {name}": leaf.grad for name, leaf in leaves.items()}


def assert_same(ours: dict, expected: dict, tolerance: float) -> None:
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert ours[name].dtype == value.dtype, name
        assert ours[name].shape == value.shape, name
        bound = tolerance * max(1.0, value.abs().max().item())
        difference = (ours[name].float() - value.float()).abs().max().item()
        assert difference <= bound, f"{name}: {difference} > {bound}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("state", [True, False])
@pytest.mark.parametrize("length", [1, 2, 3, 16, 17, 37, 100])
def test_chunked_agrees_with_the_reference_both_ways(length, state, dtype):
    inputs = make_inputs(length, dtype=dtype, state=state)
    assert_same(run(ssd.chunked, inputs, 16), run(ssd.reference, inputs), TOLERANCE[dtype])


@pytest.mark.parametrize("chunk_size", [16, 64, 256, None])
def test_chunk_size_does_not_change_the_result(chunk_size):
    inputs = make_inputs(130)
    assert_same(run(ssd.chunked, inputs, chunk_size), run(ssd.reference, inputs), 1e-4)


def test_width_of_depth_16_at_680_tokens():
    inputs = make_inputs(680, batch=1, heads=32, dim=64, states=128, state=False)
    with torch.no_grad():
        (y, state), (y_ref, state_ref) = ssd.chunked(inputs), ssd.reference(inputs)
    torch.testing.assert_close(y, y_ref, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(state, state_ref, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scan", [ssd.reference, ssd.chunked])
def test_the_final_state_continues_the_sequence(scan):
    whole = make_inputs(59)
    y_whole, state_whole = scan(whole, 16)
    parts, state, start = [], whole.state_BHdN, 0
    for count in (1, 2, 16, 17, 23):
        cut = slice(start, start + count)
        sequences = {name: getattr(whole, name)[:, cut] for name in NAMES if "BL" in name}
        y, state = scan(replace(whole, **sequences, state_BHdN=state), 16)
        parts.append(y)
        start += count
    torch.testing.assert_close(torch.cat(parts, dim=1), y_whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(state, state_whole, atol=1e-4, rtol=1e-4)


def test_the_reference_is_the_recurrence():
    inputs = make_inputs(3, batch=1, heads=1, dim=8, states=8)
    (y_BLHd, _), state = ssd.reference(inputs), inputs.state_BHdN[0, 0]
    for t in range(3):
        dt, x = inputs.dt_BLH[0, t, 0], inputs.x_BLHd[0, t, 0]
        state = torch.exp(dt * inputs.rate_H[0]) * state
        state = state + dt * torch.outer(x, inputs.write_BLN[0, t])
        y = state @ inputs.read_BLN[0, t] + inputs.skip_H[0] * x
        torch.testing.assert_close(y_BLHd[0, t, 0], y)


@pytest.mark.parametrize("scan", [ssd.reference, ssd.chunked])
def test_fast_decay_over_a_long_chunk_stays_finite_both_ways(scan):
    # The decay over the chunk underflows, and its inverse would overflow.
    inputs = replace(make_inputs(64), dt_BLH=torch.full((2, 64, 3), 5.0))
    for name, value in run(scan, inputs, 64).items():
        assert value.isfinite().all(), name


@pytest.mark.parametrize("scan", [ssd.reference, ssd.chunked])
def test_scan_changes_none_of_its_inputs(scan):
    inputs = make_inputs(37)
    before = {name: getattr(inputs, name).clone() for name in NAMES}
    scan(inputs, 16)
    for name, value in before.items():
        assert torch.equal(getattr(inputs, name), value), name


@pytest.mark.parametrize("width", [2, 3, 4])
def test_convolution_is_causal_and_its_tail_continues_it(width):
    x_BLE, weight, bias = torch.randn(2, 11, 5), torch.randn(5, width), torch.randn(5)
    padded_BEL = F.pad(x_BLE.transpose(1, 2), (width - 1, 0))
    expected = F.silu(F.conv1d(padded_BEL, weight[:, None], bias, groups=5)).transpose(1, 2)
    y_BLE, tail = ssd.convolve(x_BLE, weight, bias, None)
    torch.testing.assert_close(y_BLE, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(tail, x_BLE[:, 1 - width :])
    parts, tail = [], None
    for part in x_BLE.split([1, 2, 1, 7], dim=1):
        y, tail = ssd.convolve(part, weight, bias, tail)
        assert tail.shape == (2, width - 1, 5)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, atol=1e-5, rtol=1e-5)


def test_convolution_tail_of_a_single_token_begins_with_zeros():
    x_BLE = torch.randn(1, 1, 8)
    _, tail = ssd.convolve(x_BLE, torch.randn(8, 4), torch.randn(8), None)
    assert torch.equal(tail, F.pad(x_BLE, (0, 0, 2, 0)))


def test_named_implementation_that_is_absent_says_what_to_install(monkeypatch):
    monkeypatch.setattr(scan_kernels, "probe", lambda name: Package(reason=f"{name}: No module"))
    with pytest.raises(PluginError, match=r"'kernels'.*mamba_ssm: No module.*pip install.*'torch'"):
        scan_kernels.require("kernels")
    with pytest.raises(PluginError, match=r"'fla'.*pip install fla-core.*'torch'"):
        scan_kernels.require("fla")
    for name in ("auto", "reference", "torch"):
        scan_kernels.require(name)


@pytest.fixture
def fresh_choice():
    scan_kernels.choose.cache_clear()
    yield
    scan_kernels.choose.cache_clear()


@pytest.mark.usefixtures("fresh_choice")
def test_auto_takes_kernels_where_they_can_run(monkeypatch, caplog):
    monkeypatch.setattr(scan_kernels, "probe", lambda name: Package((print,)))
    cuda = torch.device("cuda")
    with caplog.at_level("INFO", logger="flexvar"):
        assert scan_kernels.choose("auto", CPU, torch.bfloat16) == "torch"
        assert scan_kernels.choose("auto", cuda, torch.float32) == "torch"
        assert scan_kernels.choose("auto", cuda, torch.bfloat16) == "kernels"
        assert scan_kernels.choose("auto", cuda, torch.bfloat16) == "kernels"
    assert [record.message.split(" ")[1] for record in caplog.records] == [
        "torch",
        "torch",
        "kernels",
    ]
    assert "runs on CUDA only, the model is on cpu" in caplog.text
    assert "TF32" in caplog.text


@pytest.mark.usefixtures("fresh_choice")
def test_auto_without_packages_says_why(monkeypatch, caplog):
    monkeypatch.setattr(scan_kernels, "probe", lambda name: Package(reason=f"{name}: No module"))
    with caplog.at_level("INFO", logger="flexvar"):
        assert scan_kernels.choose("auto", torch.device("cuda"), torch.bfloat16) == "torch"
    assert "mamba_ssm: No module; causal_conv1d: No module" in caplog.text


@pytest.mark.usefixtures("fresh_choice")
@pytest.mark.parametrize("name", ["kernels", "fla"])
def test_named_kernels_do_not_run_on_a_cpu(name):
    with pytest.raises(PluginError, match=f"'{name}' cannot run here: it runs on CUDA only"):
        scan_kernels.choose(name, CPU, torch.float32)


@pytest.fixture
def fake_package(tmp_path, monkeypatch):
    """A mamba_ssm whose top imports the compiled kernels of Mamba-1, as the real one does."""
    if importlib.util.find_spec("mamba_ssm") is not None:
        pytest.skip("the real mamba_ssm is here")
    folder = tmp_path / "mamba_ssm" / "ops" / "triton"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.py").touch()
    (tmp_path / "mamba_ssm" / "__init__.py").write_text("import selective_scan_cuda\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    scan_kernels.probe.cache_clear()
    yield folder / "ssd_combined.py"
    scan_kernels.probe.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "mamba_ssm"]:
        del sys.modules[name]


def test_probe_imports_mamba_without_mamba_1s_kernels(fake_package):
    fake_package.write_text("def mamba_chunk_scan_combined(): pass\n")
    (function,) = scan_kernels.probe("mamba_ssm").functions
    assert function.__name__ == "mamba_chunk_scan_combined"
    assert "selective_scan_cuda" not in sys.modules


def test_probe_keeps_the_reason_of_a_failed_import(fake_package):
    fake_package.write_text("raise OSError('libcudart.so is missing')\n")
    assert scan_kernels.probe("mamba_ssm").reason == "mamba_ssm: OSError: libcudart.so is missing"
    assert "selective_scan_cuda" not in sys.modules


def fake_scan(x, dt, A, B, C, chunk_size, D, initial_states, return_final_states):
    """mamba-ssm's documented interface over the reference."""
    assert return_final_states
    assert B.shape[2] == C.shape[2] == 1
    assert chunk_size & (chunk_size - 1) == 0
    return ssd.reference(Inputs(x, dt, A, B[:, :, 0], C[:, :, 0], D, initial_states))


def fake_convolution(x, weight, bias, initial_states, return_final_states, activation):
    """causal-conv1d's documented interface; it wants channels last and strides in eights."""
    assert return_final_states
    assert activation == "silu"
    for tensor in (x, initial_states):
        assert tensor.stride(1) == 1
        assert tensor.stride(0) % 8 == tensor.stride(2) % 8 == 0
        assert tensor.dtype == weight.dtype == bias.dtype
    joined = torch.cat([initial_states, x], dim=2)
    y = F.silu(F.conv1d(joined, weight[:, None], bias, groups=x.shape[1]))
    return y, joined[:, :, 1 - weight.shape[1] :]


def fake_linear_attention(q, k, v, g, scale, initial_state, output_final_state):
    """fla's documented interface: state (B,H,N,d); no step sizes, no skip."""
    assert scale == 1.0
    assert output_final_state
    heads = v.shape[2]
    state = initial_state if initial_state is not None else v.new_zeros(())
    outputs = []
    for t in range(v.shape[1]):
        written = k[:, t, :, :, None] * v[:, t, :, None, :]
        state = g[:, t].exp()[..., None, None] * state + written
        outputs.append(torch.einsum("bhn,bhnd->bhd", q[:, t], state))
    assert q.shape[2] == k.shape[2] == heads
    return torch.stack(outputs, dim=1), state


FAKES = {
    "mamba_ssm": fake_scan,
    "causal_conv1d": fake_convolution,
    "fla": fake_linear_attention,
}


@pytest.mark.parametrize("scan", [scan_kernels.kernel_scan, scan_kernels.fla_scan])
@pytest.mark.parametrize("state", [True, False])
@pytest.mark.parametrize("length", [1, 17])
def test_calls_of_the_scan_kernels_follow_their_interface(monkeypatch, scan, state, length):
    monkeypatch.setattr(scan_kernels, "probe", lambda name: Package((FAKES[name],)))
    inputs = make_inputs(length, state=state)
    assert_same(run(scan, inputs), run(ssd.reference, inputs), 1e-4)


@pytest.mark.parametrize("length", [1, 2, 9])
def test_calls_of_the_convolution_kernel_follow_its_interface(monkeypatch, length):
    monkeypatch.setattr(scan_kernels, "probe", lambda name: Package((FAKES[name],)))
    weight, bias, tail = torch.randn(16, 4), torch.randn(16), torch.randn(2, 3, 16)
    x_BLE = torch.randn(2, length, 21)[..., 3:19]  # a slice with odd strides, as of a projection
    for before in (None, tail):
        ours = scan_kernels.kernel_convolve(x_BLE, weight, bias, before)
        for value, expected in zip(ours, ssd.convolve(x_BLE, weight, bias, before), strict=True):
            torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-5)


def test_mamba_ssms_own_kernels_agree_in_tritons_interpreter():
    for package in ("triton", "mamba_ssm", "transformers"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    script = Path(__file__).with_name("triton_parity.py")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "agree" in done.stdout


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def on_gpu(inputs: Inputs) -> Inputs:
    moved = {name: getattr(inputs, name) for name in NAMES}
    return Inputs(**{k: None if v is None else v.cuda() for k, v in moved.items()})


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 3, 256, 680])
@pytest.mark.parametrize("name", ["torch", "kernels", "fla"])
def test_scans_agree_on_a_gpu_both_ways(name, length, dtype):
    if reason := scan_kernels.why_not_installed(name):
        pytest.skip(reason)
    inputs = on_gpu(make_inputs(length, heads=4, dim=64, states=128, dtype=dtype))
    tolerance = TOLERANCE[dtype]
    if name != "torch" and dtype == torch.float32:
        tolerance = 5e-3  # Triton multiplies fp32 as TF32, 10 bits, unless told otherwise
    assert_same(run(scan_kernels.KERNELS[name].scan, inputs), run(ssd.reference, inputs), tolerance)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("length", [1, 2, 3, 256])
def test_convolutions_agree_on_a_gpu(length):
    if reason := scan_kernels.why_not_installed("kernels"):
        pytest.skip(reason)
    leaves = [torch.randn(*shape, device="cuda") for shape in ((2, length, 64), (64, 4), (64,))]
    tail = torch.randn(2, 3, 64, device="cuda")
    results = []
    for convolve in (ssd.convolve, scan_kernels.kernel_convolve):
        inputs = [leaf.clone().requires_grad_() for leaf in (*leaves, tail)]
        y, after = convolve(*inputs)
        (y.square().sum() + after.square().sum()).backward()
        results.append([y, after, *(leaf.grad for leaf in inputs)])
    for ours, expected in zip(*reversed(results), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
