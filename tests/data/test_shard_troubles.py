"""Shards as they are found: nothing changes a label or drops a picture without being counted."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import time
import warnings
from pathlib import Path

import pytest
from test_unchanged import png, tar

from flexvar import FlexvarError
from flexvar.cli.data import data as data_command
from flexvar.data import DataConfig, Dataset, batches, open_data
from flexvar.data.report import Survey, survey
from flexvar.data.tar import MOST_MEMBER

pytest.importorskip("webdataset")
Members = list[tuple[str, bytes]]


def opened(path: Path, members: Members, **options: object) -> tuple[Dataset, list[str], list[str]]:
    """The training set of a shard, what it warns of, and the lines of ``flexvar data``."""
    if members:
        tar(path / "a.tar", members)
    config = DataConfig(source=str(path), **{"size": 8, "val_fraction": 0, **options})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = open_data(config, augment=False)
    found: Survey = survey(config)
    return dataset, [str(one.message) for one in caught], found.notes + found.unreadable


def samples(dataset: Dataset) -> list[tuple[str, str]]:
    """(key, class name) of each picture, as training reads it."""
    raws = list(dataset.pictures.in_order())  # type: ignore[union-attr]
    assert len(raws) == len(dataset)
    return [(raw.name.split(": ", 1)[1], dataset.class_names[raw.label]) for raw in raws]


def pairs(names: list[str], *, kind: str = "cls") -> Members:
    return [
        part
        for i, name in enumerate(names)
        for part in ((f"{name}.pgm", png(i)), (f"{name}.{kind}", f"c{i % 2}".encode()))
    ]


def test_names_with_several_dots_keep_their_labels(tmp_path: Path) -> None:
    dataset, _, notes = opened(tmp_path, pairs(["22.05", "22.06", "img_v1.0", "img_v1.1", "9"]))
    assert samples(dataset) == [
        ("22.05", "c0"),
        ("22.06", "c1"),
        ("img_v1.0", "c0"),
        ("img_v1.1", "c1"),
        ("9", "c0"),
    ]
    line = "2 names that agree up to their first dot and are samples of their own, for example 22"
    assert line in notes


def test_names_with_several_dots_and_no_labels_are_all_there(tmp_path: Path) -> None:
    members = [(f"clip.{i:04d}.pgm", png(i)) for i in range(6)]
    dataset, _, _ = opened(tmp_path, members)
    assert [key for key, _ in samples(dataset)] == [f"clip.{i:04d}" for i in range(6)]


def test_second_pictures_of_a_sample_are_counted(tmp_path: Path) -> None:
    members = [("x.a.pgm", png(0)), ("x.b.pgm", png(1)), ("x.cls", b"cat")]
    dataset, warned, notes = opened(tmp_path, members)
    assert samples(dataset) == [("x", "cat")]
    line = "1 pictures that are not the first of their sample: left out, for example x"
    assert line in notes
    assert any(line in one for one in warned)


@pytest.mark.parametrize("labels_first", [False, True])
def test_pictures_and_labels_apart(tmp_path: Path, labels_first: bool) -> None:
    members = pairs([f"{i:02d}" for i in range(5)])
    members.sort(key=lambda part: part[0].endswith("cls") != labels_first)
    dataset, warned, notes = opened(tmp_path, members)
    assert samples(dataset) == [(f"{i:02d}", f"c{i % 2}") for i in range(5)]
    assert not warned
    assert any(one.startswith("5 pictures whose label does not stand beside them") for one in notes)


def test_litter_is_no_sample_and_makes_no_class(tmp_path: Path) -> None:
    litter = [
        ("._1.pgm", b"mac"),
        ("dir/._2.pgm", b"mac"),
        ("__MACOSX/dir/3.pgm", b"mac"),
        ("dir/@eaDir/4.pgm/SYNO.jpg", b"nas"),
        ("dir/.hidden.cls", b"x"),
    ]
    dataset, warned, notes = opened(tmp_path, litter + pairs(["dir/1", "dir/2"]))
    assert samples(dataset) == [("dir/1", "c0"), ("dir/2", "c1")]
    assert notes == [
        "5 files that other programs leave behind: left out, for example ._1.pgm",
    ]
    assert not warned


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_links_are_followed_within_a_shard_or_counted(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        for name, data in (("d/1.pgm", png(1)), ("d/1.cls", b"cat")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
        file.addfile(link("d/2.pgm", "d/1.pgm", tarfile.LNKTYPE))
        file.addfile(link("d/2.cls", "d/1.cls", tarfile.LNKTYPE))
        file.addfile(link("d/3.pgm", "../d/1.pgm", tarfile.SYMTYPE))
        file.addfile(link("d/3.cls", "1.cls", tarfile.SYMTYPE))
        file.addfile(link("d/4.pgm", "/etc/passwd", tarfile.SYMTYPE))
        file.addfile(link("d/5.pgm", "", tarfile.FIFOTYPE))
    dataset, warned, notes = opened(tmp_path, [])
    assert samples(dataset) == [("d/1", "cat"), ("d/2", "cat"), ("d/3", "cat")]
    raws = list(dataset.pictures.in_order())  # type: ignore[union-attr]
    assert {raw.data for raw in raws} == {png(1)}
    assert any("1 links that lead to no earlier file of their shard" in one for one in warned)
    assert any("1 members that are neither files nor links: left out" in one for one in notes)


@pytest.mark.parametrize("label", [b"", None, b"-1", b"null"], ids=repr)
def test_a_picture_without_a_class_among_numbered_ones_shifts_nothing(
    tmp_path: Path, label: bytes | None
) -> None:
    members = []
    for i in range(12):
        kind, text = ("json", b'{"label": %d}' % i) if label == b"null" else ("cls", b"%d" % i)
        members += [(f"{i:02d}.pgm", png(i)), (f"{i:02d}.{kind}", text)]
    members.append(("bare.pgm", png(77)))
    if label == b"null":
        members.append(("bare.json", b'{"label": null}'))
    elif label is not None:
        members.append(("bare.cls", label))
    dataset, warned, notes = opened(tmp_path, members)
    assert dataset.class_names == tuple(map(str, range(12)))
    assert samples(dataset) == [(f"{i:02d}", str(i)) for i in range(12)]
    assert len(warned) == 1
    assert re_line("1 pictures .*(without a label|below zero).*: left out", notes)


def re_line(pattern: str, lines: list[str]) -> bool:
    import re

    return any(re.search(pattern, line) for line in lines)


def test_a_picture_without_a_class_among_named_ones_is_left_out(tmp_path: Path) -> None:
    members = [*pairs(["1", "2"]), ("3.pgm", png(3))]
    dataset, warned, _ = opened(tmp_path, members)
    assert dataset.class_names == ("c0", "c1")
    assert re_line("1 pictures without a label, among others with one: left out", warned)
    chosen, warned, _ = opened(tmp_path, members, classes=("c0", "pictures"))
    assert samples(chosen) == [("1", "c0"), ("3", "pictures")]
    assert not warned


@pytest.mark.parametrize("text", [b"100000000", b"9" * 30, b"9" * 5000], ids=len)
@pytest.mark.parametrize("kind", ["cls", "json"])
def test_a_huge_class_number_is_refused_at_once(tmp_path: Path, text: bytes, kind: str) -> None:
    data = text if kind == "cls" else b'{"label": %s}' % text
    if len(text) > 4000:
        # Longer than a label may be, or than Python reads: no label at all.
        members = [*pairs(["0"]), ("1.pgm", png(1)), (f"1.{kind}", data)]
        dataset, warned, _ = opened(tmp_path, members)
        assert dataset.class_names == ("c0",)
        assert re_line("labels (of more than 1000 characters|that are no JSON)", warned)
        return
    tar(
        tmp_path / "a.tar",
        [("0.pgm", png(0)), ("0.cls", b"1"), ("1.pgm", png(1)), (f"1.{kind}", data)],
    )
    start = time.perf_counter()
    with pytest.raises(FlexvarError, match="occurs as a class number, but there are only 2"):
        open_data(DataConfig(source=str(tmp_path), size=8))
    assert time.perf_counter() - start < 1


def test_marks_floats_and_other_encodings_of_numbers(tmp_path: Path) -> None:
    texts: list[tuple[str, bytes]] = [
        ("cls", b"\xef\xbb\xbf0\r\n"),
        ("cls", "1".encode("utf-16")),
        ("json", b'\xef\xbb\xbf{"label": 1}'),
        ("json", b'{"label": 2.0}'),
        ("json", b'{"label": null, "cls": 2}'),
        ("cls", b" 1.0 "),
    ]
    members = [
        part
        for i, (kind, text) in enumerate(texts)
        for part in ((f"{i}.pgm", png(i)), (f"{i}.{kind}", text))
    ]
    dataset, warned, _ = opened(tmp_path, members)
    assert dataset.class_names == ("0", "1", "2")
    assert [name for _, name in samples(dataset)] == ["0", "1", "1", "2", "2", "1"]
    assert not warned


def test_names_that_look_like_floats_stay_names(tmp_path: Path) -> None:
    members = [
        (f"{i}.{kind}", data)
        for i in range(2)
        for kind, data in (("pgm", png(i)), ("cls", f"{i}.0".encode()))
    ]
    assert opened(tmp_path, members)[0].class_names == ("0.0", "1.0")


@pytest.mark.parametrize(
    "label", [b"{", b"[" * 100_000, b'{"label": [1]}', b'{"label": NaN}', b"\xff\xfe\x00"], ids=len
)
def test_labels_that_are_none(tmp_path: Path, label: bytes) -> None:
    members = [*pairs(["a"]), ("b.pgm", png(1)), ("b.json", label)]
    dataset, warned, _ = opened(tmp_path, members)
    assert samples(dataset) == [("a", "c0")]
    assert re_line("1 pictures without a label", warned)


def test_members_beyond_the_bound_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    tar(path, pairs(["0", "1"]))
    info = tarfile.TarInfo("huge.pgm")
    info.size = MOST_MEMBER + 1
    body = path.read_bytes()[: 4 * 1024]
    with path.open("wb") as file:
        file.write(body + info.tobuf())
        file.truncate(len(body) + 512 + 2**29 + 1024)
    dataset, warned, _ = opened(tmp_path, [])
    assert len(samples(dataset)) == 2
    assert re_line("1 files of more than 256 MiB: left out, for example huge.pgm", warned)


def test_a_bomb_ends_its_shard(tmp_path: Path) -> None:
    tar(tmp_path / "plain", pairs(["0", "1"]))
    info = tarfile.TarInfo("2.bin")
    info.size = 2**40
    with gzip.open(tmp_path / "a.tar.gz", "wb", compresslevel=1) as file:
        file.write((tmp_path / "plain").read_bytes()[: 4 * 1024] + info.tobuf())
        for _ in range(320):
            file.write(bytes(2**20))
    config = DataConfig(source=str(tmp_path / "a.tar.gz"), size=8, val_fraction=0)
    found = survey(config)
    assert sum(found.counts["train"].values()) == 2
    assert re_line("unpacks to more than 200 times its size", found.unreadable)


def test_pipes_and_devices_are_no_shards(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "zero.tar").symlink_to("/dev/zero")
    dataset, _, notes = opened(tmp_path, pairs(["0"]))
    assert len(samples(dataset)) == 1
    assert re_line(r"pipe\.tar cannot be read to its end: it is no file", notes)
    assert re_line(r"zero\.tar cannot be read to its end: it is no file", notes)


@pytest.mark.parametrize("where", ["middle", "behind"])
def test_garbage_between_members_or_behind_the_end_is_said(tmp_path: Path, where: str) -> None:
    tar(tmp_path / "a.tar", pairs([str(i) for i in range(6)]))
    data = (tmp_path / "a.tar").read_bytes()
    if where == "middle":
        # The header of the seventh member: a picture and its label take two blocks each.
        data = data[: 6 * 1024] + b"#" * 512 + data[6 * 1024 + 512 :]
    else:
        data += data
    (tmp_path / "a.tar").write_bytes(data)
    dataset, _, notes = opened(tmp_path, [])
    assert len(samples(dataset)) == (3 if where == "middle" else 6)
    assert re_line("no header at byte 6144" if where == "middle" else "more behind its end", notes)


def test_files_of_one_name_keep_the_first(tmp_path: Path) -> None:
    members = [("a.pgm", png(0)), ("a.pgm", png(1)), ("a.cls", b"x"), ("a.cls", b"y")]
    dataset, warned, _ = opened(tmp_path, members)
    assert samples(dataset) == [("a", "x")]
    assert re_line("2 files whose name came before in their sample", warned)


def test_numbers_and_words_mixed_are_said(tmp_path: Path) -> None:
    members = [*pairs(["a"]), ("b.pgm", png(1)), ("b.cls", b"7")]
    dataset, warned, _ = opened(tmp_path, members)
    assert dataset.class_names == ("7", "c0")
    assert re_line("1 labels that are words, among others that are numbers", warned)


def test_a_list_of_class_names_is_text(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", [("0.pgm", png(0)), ("0.cls", b"1")])
    config = DataConfig(source=str(tmp_path), size=8, val_fraction=0)
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfant\r\nbee\r\n")
    assert open_data(config).class_names == ("ant", "bee")
    (tmp_path / "classes.txt").write_bytes(os.urandom(64) + b"\xff\0")
    with pytest.raises(FlexvarError, match="is no list of class names"):
        open_data(config)


def test_notes_reach_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tar(tmp_path / "a.tar", [*pairs(["0", "1"]), ("bare\n.pgm", png(2))])
    data_command(str(tmp_path), size="8")
    assert "1 pictures without a label, among others with one: left out" in capsys.readouterr().out


def test_batches_still_run_with_workers(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", pairs([f"1.{i}" for i in range(6)]))
    config = DataConfig(source=str(tmp_path), size=8, val_fraction=0)
    found = [
        next(batches(open_data(config), batch_size=4, seed=0, workers=n)).labels_B.tolist()
        for n in (0, 1)
    ]
    assert found[0] == found[1]
    assert json.dumps(found)
