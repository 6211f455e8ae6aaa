"""Every command as a process: what it writes, what it says, and exit code 2 for bad input."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import command
from helpers import GOLDEN
from PIL import Image
from safetensors.torch import load_file

from flexvar import Pipeline
from flexvar.cli import main
from flexvar.images import read_settings

SHELL = [sys.executable, "-m", "flexvar"]


def run(*arguments, code=0, **environment):
    done = command("flexvar", *arguments, environment={"COLUMNS": "100", **environment})
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_generate(tiny_dir, tmp_path):
    arguments = ["--model", tiny_dir, "--label", "3", "--label", "cat", "--size", "16x24"]
    arguments += ["--steps", "4", "--guidance", "2", "--top-k", "30", "--seed", "7", "--num", "2"]
    done = run("generate", *arguments, "--out", tmp_path / "a", "--batch", "3")
    assert "4 images of 16x24 px" in done.stdout
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["00000.png", "00001.png", "00002.png", "00003.png", "grid.png"]
    assert Image.open(tmp_path / "a" / "00003.png").size == (24, 16)
    stored = read_settings(tmp_path / "a" / "00003.png")
    assert (stored["label"], stored["seed"], stored["index"]) == ("cat", 7, 1)
    run("generate", *arguments, "--out", tmp_path / "b", "--batch", "1")
    for name in files[:4]:
        one, two = (Image.open(tmp_path / folder / name).tobytes() for folder in "ab")
        assert one == two


def test_generate_explicit_steps_in_bf16(tiny_dir, tmp_path):
    run("generate", "--model", tiny_dir, "--label", 0, "--steps", "1,2,3x5", "--dtype", "bf16",
        "--out", tmp_path)  # fmt: skip
    assert Image.open(tmp_path / "00000.png").size == (20, 12)
    assert not (tmp_path / "grid.png").exists()


def test_convert_then_generate(tmp_path):
    tokenizer = load_file(GOLDEN / "flexvar" / "tokenizer.safetensors")
    model = load_file(GOLDEN / "flexvar" / "transformer.safetensors")
    torch.save({"model": tokenizer}, tmp_path / "FlexVAE.pth")
    torch.save(model, tmp_path / "FlexVARd2.pth")
    done = run("convert", "--tokenizer", tmp_path / "FlexVAE.pth", "--model",
               tmp_path / "FlexVARd2.pth", "--out", tmp_path / "out")  # fmt: skip
    assert "depth 2, width 64, num_heads 2" in done.stdout
    done = run("generate", "--model", tmp_path / "out", "--label", 3, "--size", "64x96", "--steps",
               4, "--preset", "released", "--out", tmp_path / "pictures")  # fmt: skip
    assert "Warning: 64x96 px is far from" in done.stderr
    assert read_settings(tmp_path / "pictures" / "00000.png")["guidance"] == 2.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--label", "3", "--size", "18x16"],
            "18 is no multiple of the stride 4; the nearest is 16 or 20",
        ),
        (["--label", "9"], "label: got 9; this model has 5 classes"),
        (["--label", "bird"], "there is no class 'bird'"),
        ([], "There is no label"),
        (["--label", "3", "--steps", "0"], "steps: got 0"),
        (["--label", "3", "--steps", "many"], "--steps: got 'many'"),
        (["--label", "3", "--steps=--3"], "--steps: got '--3'"),
        (["--label", "3", "--steps", "²"], "--steps: got '²'"),
        (["--label", "3", "--size", "²x64"], "--size: got '²x64'"),
        (["--label", "³"], "there is no class '³'"),
        (["--label", "3", "--size", "big"], "--size: got 'big'"),
        (["--label", "3", "--preset", "best"], "preset: there is no 'best'"),
        (["--label", "3", "--device", "abacus"], "device: abacus cannot be used here"),
        (["--label", "3", "--dtype", "int4"], "dtype: got int4"),
        (["--label", "3", "--num", "0"], "--num: got 0"),
        (["--label", "3", "--out", __file__], "is a file; name a directory"),
        (["--label", "3", "--model", "nowhere"], "There is no checkpoint nowhere"),
    ],
)
def test_bad_input(tiny_dir, tmp_path, arguments, message):
    done = run("generate", "--model", tiny_dir, "--out", tmp_path / "x", *arguments, code=2)
    assert message in done.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 640.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_memory_that_runs_out_is_a_message(tiny_dir, tmp_path, error, capsys, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Pipeline, "__call__", fail)
    command = ["generate", "--model", str(tiny_dir), "--label", "cat", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 2
    assert "Error: memory ran out (" in capsys.readouterr().err
    monkeypatch.setattr(Pipeline, "__call__", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # a fault of ours keeps its traceback
        main(command)


def test_unknown_options_and_commands():
    assert "No such option" in run("generate", "--lable", "3", code=2).stderr
    assert "No such command" in run("genrate", code=2).stderr


@pytest.mark.parametrize("command", [[], ["generate"], ["convert"], ["plugins"], ["doctor"]])
def test_help(command):
    text = run(*command, "--help").stdout
    assert "Usage: " in text
    if command:
        assert "Example: flexvar" in text


def test_plugins():
    text = run("plugins").stdout
    assert "multiscale" in text
    assert "sdpa or flash" in text
    data = json.loads(run("plugins", "--json").stdout)
    kinds = {part["kind"] for part in data["components"]}
    assert {"tokenizer", "backbone", "position", "schedule", "conditioner"} <= kinds
    disabled = run("plugins", FLEXVAR_DISABLE="flexvar:builtin").stdout
    assert "multiscale" not in disabled


def test_doctor():
    text = run("doctor").stdout
    assert "flash      no   flash_attn: ModuleNotFoundError" in text or "flash      yes" in text
    assert "auto on cpu in bfloat16: sdpa" in text
    data = json.loads(run("doctor", "--json").stdout)
    kernels = {k["name"]: k for k in data["backbones"]["transformer"]["kernels"]}
    assert kernels["sdpa"]["available"]
    assert kernels["flash"]["available"] or "pip install" in kernels["flash"]["install"]


def test_help_and_plugins_import_no_torch():
    for arguments in (["--help"], ["plugins"]):
        code = (
            "import sys; from flexvar.cli import main\n"
            f"try: main({arguments!r})\nexcept SystemExit: pass\n"
            "sys.exit(3 if 'torch' in sys.modules else 0)"
        )
        assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def processor_seconds(*command):
    """Seconds of processor time of a command, the least of five runs: other work slows a clock."""
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return min(times)


def test_help_and_plugins_are_quick():
    # 0.4 s where this was written, of which typer and rich took 0.3 s: a yardstick that is as slow
    # as the machine.
    yardstick = processor_seconds("-c", "import typer, typer.rich_utils, pydantic")
    for arguments in (["--help"], ["plugins"]):
        assert processor_seconds("-m", "flexvar", *arguments) < 2 * yardstick


def test_version():
    from flexvar import __version__

    assert run("--version").stdout.strip() == f"flexvar {__version__}"


def test_the_installed_script_is_the_module():
    script = Path(sys.executable).parent / "flexvar"
    if not script.exists():
        pytest.skip("the package is not installed with its script")
    assert subprocess.run([script, "--version"], capture_output=True).returncode == 0
