"""The hub: files of its repositories through its own library, and what goes wrong as messages.

Addresses, tokens, cache, offline mode and progress bars are huggingface-hub's: ``HF_ENDPOINT``,
``HF_TOKEN``, ``HF_HOME``, ``HF_HUB_OFFLINE``, ``HF_HUB_DISABLE_PROGRESS_BARS``. It is imported
when the hub is needed, never before.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexvar.errors import CheckpointError, reason, shown
from flexvar.weights import digest

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class Remote:
    """What the hub says of a file before it is downloaded; None where it says nothing."""

    size: int | None
    sha256: str | None


def cached(repository: str, name: str, revision: str = "main") -> Path | None:
    """Where a file lies in the hub's cache; no network is used."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def cache_folder() -> Path:
    """Where the hub's library keeps what it downloads."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def look(repository: str, name: str, revision: str = "main") -> Remote:
    """Size and sum of a file on the hub. Raises `CheckpointError` where it cannot be asked."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        found = get_hf_file_metadata(hf_hub_url(repository, name, revision=revision), token=None)
    except Exception as error:
        raise failure(error, f"{repository}/{name}", repository, revision) from None
    return Remote(found.size, _sha256(found.etag))


def download(repository: str, name: str, revision: str = "main") -> Path:
    """A file of the hub, in its cache. Raises `CheckpointError` where it cannot be had.

    A connection that breaks off is taken up where it ended, several times, by the hub's library.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except Exception as error:
        raise failure(error, f"{repository}/{name}", repository, revision) from None


def check(path: Path, expected: str | None) -> None:
    """Raise `CheckpointError`, and remove the file from the cache, if it has another SHA-256.

    expected: 64 hexadecimal digits; None for what the hub gave, which its cache names files by.
    """
    blob = path.resolve()
    wanted = expected or _sha256(blob.name)
    if wanted is None:
        return
    found = digest(path).removeprefix("sha256:")
    if found == wanted:
        return
    for place in {path, blob}:
        with suppress(OSError):
            place.unlink()
    raise CheckpointError(
        f"{path.name} is not the file that was published: its SHA-256 is {found}, expected "
        f"{wanted}. It was removed. Try once more; if it stays so, the file on the hub is another "
        "one, and should not be trusted."
    )


def snapshot(
    repository: str,
    revision: str | None,
    patterns: Sequence[str],
    *,
    whole: Callable[[Path], bool],
    newest: bool = False,
) -> Path:
    """The folder with a repository's files of these patterns, from the cache where it is whole.

    revision: a branch, tag or commit; the main branch unless given. whole: whether a folder of
    the cache has all that is needed. newest: ask the hub even so, whether there is a newer one.
    """
    from huggingface_hub import snapshot_download

    known: dict[str, Any] = {"revision": revision, "allow_patterns": list(patterns)}
    if not newest:
        with suppress(Exception):  # not in the cache: ask the hub
            found = Path(snapshot_download(repository, local_files_only=True, **known))
            if whole(found):
                return found
    try:
        return Path(snapshot_download(repository, **known))
    except Exception as error:
        raise failure(error, repository, repository, revision) from None


def upload(
    repository: str,
    folder: Path,
    *,
    revision: str | None,
    message: str,
    create: Mapping[str, Any],
) -> str:
    """Upload a folder to a repository, which is made if there is none; the address of the commit.

    create: options of ``HfApi.create_repo``. Raises `CheckpointError` where it cannot be done.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    name = repository
    try:
        name = api.create_repo(repository, exist_ok=True, **create).repo_id
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        done = api.upload_folder(
            repo_id=name,
            folder_path=str(folder),
            revision=revision,
            commit_message=message,
            # What an earlier upload had in other parts would be loaded with this one's.
            delete_patterns=["*.safetensors", "*.safetensors.index.json"],
        )
    except TypeError:
        raise
    except Exception as error:
        raise failure(error, name, name, revision, writing=True) from None
    return str(done)


def check_room(wanted: Mapping[Path, int]) -> None:
    """Raise `CheckpointError` where folders together take more bytes than their disks have."""
    disks: dict[int, tuple[Path, int]] = {}
    for folder, size in wanted.items():
        place = folder
        while not place.exists() and place != place.parent:
            place = place.parent
        disk = place.stat().st_dev
        disks[disk] = (disks.get(disk, (place, 0))[0], disks.get(disk, (place, 0))[1] + size)
    for place, size in disks.values():
        free = shutil.disk_usage(place).free
        if size > free:
            raise CheckpointError(
                f"There is not enough room at {place}: {in_bytes(size)} are needed, "
                f"{in_bytes(free)} are free. Make room, or name other places: HF_HOME for "
                "downloads, FLEXVAR_CACHE for what is made of them."
            )


def in_bytes(size: int) -> str:
    """A number of bytes for people: 1.25 GB, 290 MB, 12 kB."""
    for unit, scale, digits in (("GB", 10**9, 2), ("MB", 10**6, 0), ("kB", 10**3, 0)):
        if size >= scale:
            return f"{size / scale:.{digits}f} {unit}"
    return f"{size} bytes"


def failure(
    error: BaseException, what: str, repository: str, revision: str | None, *, writing: bool = False
) -> CheckpointError:
    """What went wrong between here and the hub, and what to do about it."""
    from huggingface_hub import constants, errors

    chain = list(_chain(error))
    address = constants.ENDPOINT
    place = shown(repository)

    def one(kind: type[BaseException]) -> BaseException | None:
        return next((e for e in chain if isinstance(e, kind)), None)

    status = next((s for e in chain if (s := _status(e)) is not None), None)
    text = f"{what}: the hub at {address} cannot be reached, or broke off ({reason(chain[-1])}). "
    text += "Try again; what is in the cache already is not downloaded twice."
    full = next((e for e in chain if isinstance(e, OSError) and e.errno in _NO_ROOM), None)
    login = "log in by `hf auth login`, or give a token as HF_TOKEN"
    if full is not None:
        text = (
            f"{what} could not be written to {constants.HF_HUB_CACHE}: {reason(full)}. Make room, "
            "or name another place as HF_HOME."
        )
    elif one(errors.OfflineModeIsEnabled):
        text = (
            f"{what} is not in the cache, and HF_HUB_OFFLINE forbids the network. Unset it, or "
            "copy the hub's cache from a machine that has it."
        )
    elif one(errors.GatedRepoError):
        text = (
            f"{what}: the owner of {place} asks for consent to its terms. Open "
            f"{address}/{repository}, agree, and {login}."
        )
    elif one(errors.RevisionNotFoundError):
        text = f"The repository {place} has no revision {shown(revision or 'main')}."
    elif one(errors.HFValidationError):
        text = f"{place} is no name of a repository; expected owner/name."
    elif status == 401 and writing:
        text = f"The hub takes nothing for {place} without a token: {login}."
    elif status == 403 or (status == 401 and not one(errors.RepositoryNotFoundError)):
        text = f"{what}: the token in use may not do this ({status}). To use another, {login}."
    elif one(errors.RepositoryNotFoundError):
        text = f"The hub at {address} has no repository {place}, or it is private: {login}."
    elif (missing := one(errors.EntryNotFoundError)) and not isinstance(
        missing, errors.LocalEntryNotFoundError
    ):
        text = f"The repository {place} has no file {shown(what.removeprefix(repository + '/'))}."
    elif status is not None:
        text = f"{what}: the hub at {address} answered {status} ({reason(chain[0])})."
    elif type(error).__module__ == "builtins" and not isinstance(error, OSError):
        text = f"{what}: {reason(error)}"
    if writing:
        text = (
            f"push_to_hub: the hub did not take {place}: {text} save_pretrained writes a directory "
            "instead."
        )
    return CheckpointError(text)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _sha256(etag: str | None) -> str | None:
    """The SHA-256 that an etag of the hub is, of a large file; None for one of a small file."""
    text = os.fspath(etag or "")
    return text if re.fullmatch(r"[0-9a-f]{64}", text) else None
