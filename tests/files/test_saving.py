"""Saving: the config's own names, nothing it does not describe, and never half of two models."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch
from helpers import TINY, shake
from safetensors.torch import load_file, save_file

import flexvar
from flexvar import FlexvarError, Pipeline
from flexvar.files import UnwritableError, sweep, temporary_name, whole_file, whole_folder
from flexvar.weights import bare_name


def same(one, two):
    return all(
        torch.equal(a, b)
        for m, n in zip(one.parts.modules(), two.parts.modules(), strict=True)
        for a, b in zip(m.state_dict().values(), n.state_dict().values(), strict=True)
    )


class Wrapped(torch.nn.Module):
    """A module under another name, as torch.compile, DDP and checkpointing have it."""

    def __init__(self, inner, name):
        super().__init__()
        self.add_module(name, inner)


@pytest.mark.parametrize(
    "name",
    ["_orig_mod", "module", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "model"],
)
def test_wrappers_are_looked_through_wherever_they_stand(tiny, tmp_path, name):
    pipe = shake(Pipeline.from_config(TINY, seed=1))
    pipe.model.backbone.blocks[1] = Wrapped(pipe.model.backbone.blocks[1], name)
    pipe.parts.model = Wrapped(pipe.model, name)
    pipe.save_pretrained(tmp_path / "out")
    again = Pipeline.from_pretrained(tmp_path / "out")
    assert same(again, tiny)


def test_a_compiled_model_is_saved_as_itself(tiny, tmp_path):
    pipe = shake(Pipeline.from_config(TINY, seed=1))
    pipe.parts.model = torch.compile(pipe.model)
    pipe.save_pretrained(tmp_path / "out")
    assert same(Pipeline.from_pretrained(tmp_path / "out"), tiny)


def test_bare_names():
    assert bare_name("module.a._orig_mod.b") == "a.b"
    assert bare_name("a.module.b", {"a.module.b": 0}) == "a.module.b"
    assert bare_name("module.a.module.b", {"a.b": 0}) == "a.b"


def test_what_the_config_does_not_describe_is_refused_before_anything_is_written(tmp_path):
    pipe = Pipeline.from_config(TINY)
    pipe.model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(FlexvarError, match=r"Nothing is saved: the model .* 'extra\.bias'"):
        pipe.save_pretrained(tmp_path / "out")
    pipe = Pipeline.from_config(TINY)
    pipe.model.head.logits.weight = torch.nn.Parameter(torch.zeros(3, 64))
    with pytest.raises(FlexvarError, match=r"'head.logits.weight' with shape \(3, 64\), not \(61"):
        pipe.save_pretrained(tmp_path / "out")
    with torch.device("meta"):
        pipe = Pipeline.from_config(TINY)
    with pytest.raises(FlexvarError, match="without values, on the meta device"):
        pipe.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_of_another_save_are_refused(tiny_dir, tmp_path):
    other = shutil.copytree(tiny_dir, tmp_path / "other")
    tensors = load_file(other / "tokenizer.safetensors")
    save_file(
        {name: tensor + 1 for name, tensor in tensors.items()}, other / "tokenizer.safetensors"
    )
    with pytest.raises(FlexvarError, match=r"tokenizer.safetensors is not the file that config"):
        Pipeline.from_pretrained(other)
    config = json.loads((other / "config.json").read_text())
    del config["digests"]  # as earlier checkpoints are
    (other / "config.json").write_text(json.dumps(config))
    Pipeline.from_pretrained(other)


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_save_killed_over_another_model_never_loads_as_half_of_each(tmp_path):
    """Forty kill points, from the first file on; what is loaded is the one model or the other."""
    script = textwrap.dedent(
        """
        import os, sys, signal, itertools
        from helpers import TINY, shake
        from flexvar import Pipeline

        pipe = shake(Pipeline.from_config(TINY, seed=int(sys.argv[1])), seed=int(sys.argv[1]))
        step = itertools.count()

        def kill_at(name, function):
            def wrapped(*args, **kwargs):
                if next(step) == point:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)
            return wrapped

        real = {name: getattr(os, name) for name in ("replace", "fsync", "open", "unlink", "chmod")}
        for point in range(40):
            child = os.fork()
            if child == 0:
                for name, function in real.items():
                    setattr(os, name, kill_at(name, function))
                pipe.save_pretrained(sys.argv[2] + f"/{point}")
                os._exit(0)
            os.waitpid(child, 0)
        """
    )
    first = shake(Pipeline.from_config(TINY, seed=1), seed=1)
    second = shake(Pipeline.from_config(TINY, seed=2), seed=2)
    first.save_pretrained(tmp_path / "first")
    for point in range(40):
        shutil.copytree(tmp_path / "first", tmp_path / str(point))
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, "2", str(tmp_path)]
    subprocess.run(command, check=True, env=environment)
    seen = {"first": 0, "second": 0, "refused": 0}
    for point in range(40):
        folder = tmp_path / str(point)
        try:
            found = Pipeline.from_pretrained(folder)
        except FlexvarError as error:
            assert "a save was interrupted" in str(error)  # noqa: PT017
            seen["refused"] += 1
        else:
            assert same(found, first) or same(found, second)
            seen["first" if same(found, first) else "second"] += 1
        second.save_pretrained(folder)
        assert same(Pipeline.from_pretrained(folder), second)
        assert not list(folder.glob(".*.tmp"))
    assert seen["first"]
    assert seen["second"]
    assert seen["refused"]


def test_threads_share_no_temporary_name(tmp_path):
    failed = []

    def write(number):
        try:
            with whole_file(tmp_path / "same.txt") as temporary:
                temporary.write_text(str(number))
                time.sleep(0.002)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert [path.name for path in tmp_path.iterdir()] == ["same.txt"]


def test_what_killed_processes_left_is_swept_and_nothing_else(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine = temporary_name(tmp_path / "a.png")
    left = tmp_path / mine.name.replace(f"-{os.getpid()}-", f"-{dead.pid}-")
    others = [mine, left, tmp_path / ".hidden.tmp", tmp_path / "b.tmp"]
    for path in others:
        path.write_text("")
    folder = left.with_name(left.name.replace("a.png", "step"))
    folder.mkdir()
    sweep(tmp_path)
    assert not left.exists()
    assert not folder.exists()
    assert all(path.exists() for path in others if path != left)


def test_names_as_long_as_the_system_allows(tmp_path):
    with whole_file(tmp_path / ("n" * 250 + ".png")) as temporary:
        temporary.write_text("x")
    assert len(list(tmp_path.iterdir())) == 1


def test_loading_imports_no_compiler_and_makes_no_temporary_folder(tiny_dir, tmp_path):
    script = (
        "import os, sys; from flexvar import Pipeline; "
        f"Pipeline.from_pretrained({str(tiny_dir)!r}); Pipeline.from_pretrained('photos-mamba'); "
        "sys.exit(any(name.startswith('torch._dynamo') for name in sys.modules))"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", script], env=environment).returncode == 0
    assert not list(tmp_path.iterdir())


def test_loading_leaves_the_random_numbers_of_the_application(tiny_dir):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    Pipeline.from_pretrained(tiny_dir)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_depth_with_a_digit_too_many_ends_at_once(tiny_dir, tmp_path):
    folder = shutil.copytree(tiny_dir, tmp_path / "deep")
    config = json.loads((folder / "config.json").read_text())
    for key in ("depth", "width"):
        changed = json.loads(json.dumps(config))
        changed["model"]["backbone"][key] = 2147483648
        (folder / "config.json").write_text(json.dumps(changed))
        start = time.monotonic()
        with pytest.raises(FlexvarError, match="a digit too many|cannot be built|do not fit"):
            Pipeline.from_pretrained(folder)
        assert time.monotonic() - start < 20


def test_a_folder_appears_whole_takes_the_place_of_files_and_leaves_nothing_else(tmp_path):
    place = tmp_path / "made"
    with pytest.raises(ZeroDivisionError), whole_folder(place) as folder:
        (folder / "a").write_text(f"half {1 / 0}")
    assert list(tmp_path.iterdir()) == []
    for text in ("1", "2"):
        with whole_folder(place) as folder:
            assert folder.name == "made"
            (folder / "a").write_text(text)
            assert text == "1" or (place / "a").read_text() == "1"
        assert (place / "a").read_text() == text
    (place / "other").write_text("stays")
    with whole_folder(place) as folder:
        (folder / "b").write_text("3")
    assert sorted(path.name for path in place.iterdir()) == ["a", "b", "other"]
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    with pytest.raises(UnwritableError, match="Cannot write"), whole_folder(place / "a" / "b"):
        pass


def test_there_is_one_way_to_move_a_file_into_its_place():
    """Temporary-then-rename is easy to get half right, so it is written once."""
    root = Path(flexvar.__file__).parent
    found = {
        path.relative_to(root if folder == root else root.parent).as_posix()
        for folder in (root, root.parent / "plugins", root.parent / "benchmarks")
        for path in folder.rglob("*.py")
        if re.search(r"\bos\.(replace|rename)\(|shutil\.move\(", path.read_text("utf-8"))
    }
    assert found == {"files.py"}
