"""Released models by name: downloaded from a stand-in of the hub, checked, converted, kept."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import GOLDEN
from hub_stand_in import Hub, serving, sha256
from safetensors.torch import load_file

from flexvar import Component, FlexvarError, Pipeline, Registry, hookimpl
from flexvar.cli import main
from flexvar.components import ReleasedFile, ReleasedModel
from flexvar.convert import convert
from flexvar.plugin import default_registry
from flexvar.pull import pull

ROOT = Path(__file__).parent.parent
FLEXVAR, VAR = "jiaosiyu1999/FlexVAR", "FoundationVision/var"


def thousand(model: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A golden model with ImageNet's thousand classes, its own ones again and again."""
    classes = model["class_emb.weight"][:-1]
    rows = classes.repeat(1000 // len(classes) + 1, 1)[:1000]
    return {**model, "class_emb.weight": torch.cat([rows, model["class_emb.weight"][-1:]])}


def saved(data: object) -> bytes:
    file = io.BytesIO()
    torch.save(data, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def released() -> dict[str, dict[str, bytes]]:
    """The golden checkpoints under the real names, wrapped as the real files are."""
    parts = {
        name: [
            load_file(GOLDEN / name / f"{part}.safetensors")
            for part in ("tokenizer", "transformer")
        ]
        for name in ("flexvar", "var")
    }
    (vae, flexvar), (vae_var, var) = parts["flexvar"], parts["var"]
    return {
        FLEXVAR: {
            "FlexVAE.pth": saved({"model": vae}),
            "FlexVARd16-epo179.pth": saved({"trainer": {"var_wo_ddp": thousand(flexvar)}}),
        },
        VAR: {"vae_ch160v4096z32.pth": saved(vae_var), "var_d16.pth": saved(thousand(var))},
    }


@pytest.fixture
def hub(released, monkeypatch, tmp_path):
    """The stand-in with the released files; caches are empty, and waiting is short."""
    from huggingface_hub import constants, file_download

    with serving() as hub:
        for repository, files in released.items():
            hub.put(repository, files)
        for name, value in (
            ("ENDPOINT", hub.address),
            (
                "HUGGINGFACE_CO_URL_TEMPLATE",
                hub.address + "/{repo_id}/resolve/{revision}/{filename}",
            ),
            ("HF_HUB_CACHE", str(tmp_path / "hub")),
            ("HF_HUB_DISABLE_XET", True),
        ):
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(file_download.time, "sleep", lambda _: None)
        monkeypatch.setenv("FLEXVAR_CACHE", str(tmp_path / "cache"))
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1")
        yield hub


def by_hand(released, tmp_path: Path, repository: str = FLEXVAR) -> Pipeline:
    paths = []
    for name, data in released[repository].items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(data)
    return convert(tokenizer=paths[0], model=paths[1])


def left(tmp_path: Path) -> list[Path]:
    """Files in both caches, but for the hub's own notes."""
    found = (*tmp_path.glob("cache/**/*"), *tmp_path.glob("hub/**/blobs/*"))
    return [path for path in found if path.is_file()]


def registry_of(*models: tuple[str, ReleasedModel]) -> Registry:
    """The installed plugins, and one that knows these models."""
    for name, model in models:
        setattr(sys.modules[__name__], name, model)

    class Plugin:
        @hookimpl
        def flexvar_released(self):
            for name, _ in models:
                yield Component(name=name, target=f"{__name__}:{name}")

    registry = Registry()
    registry.add(Plugin())
    return registry


def test_pull_and_generate_by_name(hub: Hub, released, tmp_path, capsys):
    main_of = ["pull", "flexvar-d16"]
    with pytest.raises(SystemExit) as end:
        main(main_of)
    assert end.value.code == 0
    said = capsys.readouterr().out
    size = sum(map(len, released[FLEXVAR].values()))
    assert f"({size:,} bytes) from {FLEXVAR} (license MIT)" in said
    assert f"flexvar-d16 is here: {tmp_path / 'cache' / 'released' / 'flexvar-d16'}" in said

    asked = len(hub.asked)
    pipe = Pipeline.from_pretrained("flexvar-d16")
    assert len(hub.asked) == asked, "what is here needs no network"
    other = by_hand(released, tmp_path)
    for label in ("golden retriever", "207", 207):
        ours = pipe(label, seed=3, steps=[1, 2, 3], output="tensor")
        theirs = other(207, seed=3, steps=[1, 2, 3], output="tensor")
        assert all(torch.equal(a, b) for a, b in zip(ours.maps, theirs.maps, strict=True))

    out = tmp_path / "out"
    arguments = ["generate", "--model", "flexvar-d16", "--label", "Tinca Tinca", "--steps", "1,2,3"]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--seed", "3", "--out", str(out)])
    assert end.value.code == 0
    assert (out / "00000.png").is_file()

    with pytest.raises(SystemExit):
        main(["pull"])
    rows = {row.split()[0]: row.split()[1] for row in capsys.readouterr().out.splitlines() if row}
    assert rows["flexvar-d16"] == "here"
    assert rows["var-d36"] == "-"


def test_a_name_in_from_pretrained_pulls_it_and_says_how_much_that_is(hub, released, capsys):
    pipe = Pipeline.from_pretrained("flexvar-d16")
    size = sum(map(len, released[FLEXVAR].values()))
    assert f"({size:,} bytes)" in capsys.readouterr().err
    assert len(pipe.class_names) == 1000
    assert len(set(pipe.class_names)) == 1000
    assert pipe.values("crane bird", None) == [134]
    assert pipe.values(["tabby cat", "tabby"], None) == [281, 281]
    with pytest.raises(FlexvarError, match=r"several classes; say 134 .*, 517 "):
        pipe.values("Crane", None)
    with pytest.raises(FlexvarError, match="Did you mean 'golden retriever'"):
        pipe.values("goldn retriever", None)


def test_as_a_process_with_the_addresses_of_the_hubs_library(hub: Hub, tmp_path):
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(tmp_path / "home"),
        "FLEXVAR_CACHE": str(tmp_path / "mine"),
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, "-m", "flexvar", "pull", "flexvar-d16"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine/released/flexvar-d16/model.safetensors").is_file()
    environment |= {"HF_HUB_OFFLINE": "1"}
    command[-1] = "flexvar-d20"
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "is not in the cache, and HF_HUB_OFFLINE forbids the network" in done.stderr


def test_a_download_that_breaks_off_goes_on_where_it_ended(hub: Hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)
    hub.breaks["FlexVAE.pth"] = [1000, 2000]
    pull("flexvar-d16", default_registry())
    ranges = [asked[2] for asked in hub.downloads("FlexVAE.pth")]
    assert ranges == ["", "bytes=1000-", "bytes=3000-"]


def test_a_download_that_fails_leaves_nothing_half_written(hub: Hub, released, tmp_path):
    hub.breaks["FlexVARd16-epo179.pth"] = [100] * 20
    with pytest.raises(FlexvarError, match="cannot be reached, or broke off"):
        pull("flexvar-d16", default_registry())
    whole = sha256(released[FLEXVAR]["FlexVAE.pth"])
    assert [path.name for path in left(tmp_path)] == [whole]
    hub.breaks.clear()
    pull("flexvar-d16", default_registry())
    assert len(hub.downloads("FlexVAE.pth")) == 1, "what is in the cache is not downloaded twice"


def test_another_file_than_the_published_one_is_not_downloaded(hub: Hub, tmp_path):
    with pytest.raises(FlexvarError, match=r"its size is .*, expected 436075834\. Nothing was"):
        pull("var-d16", default_registry())
    assert not hub.downloads()
    assert not left(tmp_path)


def var_like(tokenizer_sha: str | None, size: int | None = None) -> ReleasedModel:
    return ReleasedModel(
        files=(
            ReleasedFile("tokenizer", VAR, "vae_ch160v4096z32.pth", size, sha256=tokenizer_sha),
            ReleasedFile("model", VAR, "var_d16.pth"),
        ),
        license="MIT",
        source="nowhere",
    )


def test_var_with_its_sums(hub: Hub, released, tmp_path):
    data = released[VAR]["vae_ch160v4096z32.pth"]
    registry = registry_of(("mine", var_like(sha256(data), len(data))))
    pipe = Pipeline.from_pretrained("mine", registry=registry)
    other = by_hand(released, tmp_path, VAR)
    ours, theirs = (one(7, seed=1, output="tensor") for one in (pipe, other))
    assert torch.equal(ours.maps[-1], theirs.maps[-1])
    assert (tmp_path / "cache/released/local--mine/origin.json").is_file()


def test_wrong_sum_before_and_after_the_download(hub: Hub, tmp_path):
    registry = registry_of(("mine", var_like("0" * 64)))
    with pytest.raises(
        FlexvarError, match="its SHA-256 is .*, expected 0000.*Nothing was download"
    ):
        pull("mine", registry)
    # A hub that says one sum and sends other bytes.
    hub.sums["vae_ch160v4096z32.pth"] = "0" * 64
    with pytest.raises(FlexvarError, match="not the file that was published.*It was removed"):
        pull("mine", registry)
    assert not left(tmp_path)


def test_no_room(hub: Hub, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10_000))
    with pytest.raises(FlexvarError, match=r"not enough room at .*: .* MB are needed, 10 kB are"):
        pull("flexvar-d16", default_registry())
    assert not hub.downloads()
    assert not left(tmp_path)


def test_the_disk_fills_up_on_the_way(hub: Hub, tmp_path, monkeypatch):
    from flexvar import checkpoint

    def full(tensors, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(FlexvarError, match="Cannot write .*No space left on device"):
        pull("flexvar-d16", default_registry())
    assert not list((tmp_path / "cache/released").iterdir())


def test_offline(hub: Hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FlexvarError, match="not in the cache, and HF_HUB_OFFLINE forbids"):
        Pipeline.from_pretrained("flexvar-d16")
    assert not hub.asked
    Pipeline.from_pretrained("photos")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    pull("flexvar-d16", default_registry())
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    # The files are in the hub's cache: they are converted again without it.
    assert len(Pipeline.from_pretrained("flexvar-d16").class_names) == 1000


def test_no_hub_no_repository_no_file(hub: Hub, monkeypatch, tmp_path):
    from huggingface_hub import constants

    with pytest.raises(FlexvarError, match=f"'{FLEXVAR}' has no file 'FlexVARd20-epo249.pth'"):
        pull("flexvar-d20", default_registry())
    hub.repositories[FLEXVAR].gated = True
    with pytest.raises(FlexvarError, match="asks for consent to its terms. Open http://127"):
        pull("flexvar-d16", default_registry())
    del hub.repositories[FLEXVAR]
    with pytest.raises(FlexvarError, match=f"has no repository '{FLEXVAR}', or it is private"):
        pull("flexvar-d16", default_registry())
    for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_TEMPLATE"):
        value = getattr(constants, name).replace(hub.address, "http://127.0.0.1:9")
        monkeypatch.setattr(constants, name, value)
    with pytest.raises(FlexvarError, match=r"the hub at http://127.0.0.1:9 cannot be reached"):
        pull("flexvar-d16", default_registry())
    assert not left(tmp_path)


def test_unknown_names():
    with pytest.raises(FlexvarError, match=r"There is no released model 'flexvar-d61'. Did you"):
        pull("flexvar-d61", default_registry())
    with pytest.raises(FlexvarError, match="There is no checkpoint flexvar-d61.*Did you mean flex"):
        Pipeline.from_pretrained("flexvar-d61")
