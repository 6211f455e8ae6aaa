"""Finds plugins and answers for components by name; one broken plugin never stops another.

Plugins are the modules behind the entry points of group ``flexvar``. They are light manifests:
their hooks yield `Component` records, and a component's own module is imported only when it is
first built.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache, cached_property
from importlib import metadata
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import pluggy

from flexvar.errors import PluginError, one_line, reason, shown
from flexvar.plugin import hookspecs
from flexvar.plugin.component import HOOKS, OFFERS, Component, Offer
from flexvar.text import printable

GROUP = "flexvar"
FIRST_PARTY = "flexvar"
MOST_RECORDS = 1000


@dataclass(frozen=True, slots=True)
class Provided:
    """A component and where it comes from: distribution, and the entry point of its manifest."""

    kind: Offer
    component: Component
    distribution: str
    plugin: str = ""

    @property
    def qualified(self) -> str:
        """``distribution/name``, which always finds this component."""
        return f"{self.distribution}/{self.component.name}"

    @property
    def missing(self) -> tuple[str, ...]:
        """Required packages that cannot be found here (found is not yet importable)."""
        return tuple(name for name in self.component.requires if not _findable(name))


@dataclass(frozen=True, slots=True)
class Failure:
    """What a plugin could not do, with the whole traceback for who wants to see it."""

    plugin: str
    reason: str
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class _Source:
    distribution: str
    name: str
    load: Callable[[], object]

    @property
    def key(self) -> str:
        return f"{self.distribution}:{self.name}"


class Registry:
    """All components of all plugins. Discovery runs once, at the first question.

    ``FLEXVAR_DISABLE=a,b`` skips plugins by distribution, entry point, or both joined by ``:``,
    before they are imported. ``FLEXVAR_STRICT=1`` re-raises what is otherwise only recorded.
    """

    def __init__(self, *, discover: bool = True) -> None:
        self._discover = discover
        self._added: list[_Source] = []
        self._strict = os.environ.get("FLEXVAR_STRICT", "") not in ("", "0")
        disabled = os.environ.get("FLEXVAR_DISABLE", "").split(",")
        self._disabled = {_canonical(name.strip()) for name in disabled if name.strip()}

    def add(self, plugin: object, *, name: str = "plugin", distribution: str = "local") -> None:
        """Add a plugin object without installing it, for tests and notebooks."""
        if "_loaded" in self.__dict__:
            raise PluginError("Add plugins before the registry is first asked for a component.")
        self._added.append(_Source(_canonical(distribution), name, lambda: plugin))

    @property
    def components(self) -> tuple[Provided, ...]:
        """Everything on offer, first-party first, then by distribution; never by load order."""
        return self._loaded[0]

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Plugins that failed, wholly or in part, and names that clash."""
        return self._loaded[1]

    def names(self, kind: Offer, pattern: str = "*") -> list[str]:
        """Names of a kind's components that match a glob; a clashing name stands qualified."""
        _check_kind(kind)
        found = {self.name_of(p) for p in self.components if p.kind == kind}
        return sorted(name for name in found if fnmatchcase(name, pattern))

    def name_of(self, provided: Provided) -> str:
        """The shortest name that finds a component: its own, or qualified where that is taken."""
        name = provided.component.name
        rivals = [p for p in self.components if (p.kind, p.component.name) == (provided.kind, name)]
        own = [p for p in rivals if p.distribution == FIRST_PARTY] or rivals
        return name if own == [provided] else provided.qualified

    def find(self, kind: Offer, name: str) -> Provided:
        """The component of this name, plain or ``distribution/name``.

        Raises `PluginError` for an unknown name (with the nearest match, all choices and the
        plugins that failed) and for a name that several distributions offer.
        """
        _check_kind(kind)
        of_kind = [p for p in self.components if p.kind == kind]
        distribution, slash, plain = name.rpartition("/")
        asked = f"{_canonical(distribution)}/{plain}" if slash else name
        found = [p for p in of_kind if asked in (p.component.name, p.qualified)]
        found = [p for p in found if p.distribution == FIRST_PARTY] or found
        if len(found) == 1:
            return found[0]
        if found:
            ways = " or ".join(sorted({p.qualified for p in found}))
            if len({p.qualified for p in found}) == 1:
                raise PluginError(
                    f"{kind} {name!r} is offered twice by {found[0].distribution}; only a change "
                    "of that plugin can tell them apart."
                )
            raise PluginError(f"{kind} {name!r} is offered by several plugins; say {ways}.")
        raise PluginError(self._unknown(kind, name))

    def load(self, kind: Offer, name: str) -> Any:
        """The class of a component, or the module of a benchmark, imported now.

        Raises `PluginError` if it is unknown, lacks a package it requires, or does not import.
        """
        provided = self.find(kind, name)
        component = provided.component
        if provided.missing:
            raise PluginError(
                f"{kind} {name!r} needs {', '.join(provided.missing)}, which "
                f"{'is' if len(provided.missing) == 1 else 'are'} not installed."
            )
        module_name, _, attribute = component.target.partition(":")
        try:
            # What it prints is none of the command's output.
            with redirect_stdout(sys.stderr or StringIO()):
                module = importlib.import_module(module_name)
                found = getattr(module, attribute) if attribute else module
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"{kind} {name!r} of {provided.distribution} cannot be imported from "
                f"{component.target!r}: {type(error).__name__}: {reason(error)}"
            ) from error
        return found

    def _unknown(self, kind: Offer, name: str) -> str:
        choices = self.names(kind)
        near = get_close_matches(name, choices, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        text = f"Unknown {kind} {name!r}.{hint} Choices: {', '.join(choices) or 'none'}."
        if self.failures:
            # A mistake that a plugin makes in every hook is one mistake.
            failed = "; ".join(dict.fromkeys(f"{f.plugin} ({f.reason})" for f in self.failures))
            text += f" Plugins that failed: {failed}. See `flexvar plugins --traceback`."
        return text

    @cached_property
    def _loaded(self) -> tuple[tuple[Provided, ...], tuple[Failure, ...]]:
        provided: list[Provided] = []
        failures: list[Failure] = []
        installed, unreadable = _installed() if self._discover else ([], [])
        for source, error in unreadable:
            failures.append(self._failure(source, error))
        for source in [*installed, *self._added]:
            names = (source.distribution, source.name, source.key)
            if self._disabled & {_canonical(name) for name in names}:
                continue
            # Standard output belongs to the command: `flexvar plugins --json` is read by programs.
            with redirect_stdout(sys.stderr or StringIO()):
                try:
                    hooks = _hooks(source.load(), source.key)
                except BaseException as error:
                    failures.append(self._failure(source, error))
                    continue
                for kind, hook in hooks:
                    try:
                        records = _records(hook, kind)
                    except BaseException as error:
                        failures.append(self._failure(source, error))
                        continue
                    provided += [
                        Provided(kind, r, source.distribution, source.name) for r in records
                    ]
        provided.sort(key=lambda p: (p.kind, p.distribution != FIRST_PARTY, p.qualified))
        failures += _clashes(provided)
        return tuple(provided), tuple(sorted(failures, key=lambda f: f.plugin))

    def _failure(self, source: _Source, error: BaseException) -> Failure:
        if self._strict or isinstance(error, KeyboardInterrupt):
            raise error
        said = reason(error)
        name = type(error).__name__
        told = printable("".join(traceback.format_exception(error)), lines=True)
        return Failure(source.key, said if said == name else f"{name}: {said}", told)


def _hooks(plugin: object, name: str) -> list[tuple[Offer, Callable[[], object]]]:
    """The hooks that a plugin implements, by what they offer.

    In a manager of its own, so that no plugin is compared with another. Raises for an unknown
    hook, and where there is none.
    """
    manager = pluggy.PluginManager("flexvar")
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, name=name)
    manager.check_pending()
    found = [
        (kind, hook.function)
        for kind in OFFERS
        for hook in getattr(manager.hook, HOOKS[kind]).get_hookimpls()
    ]
    if not found:
        raise TypeError(
            "it implements no hook; decorate flexvar_backbones() and the like with "
            "@flexvar.hookimpl"
        )
    return found


def _records(hook: Callable[[], object], kind: Offer) -> list[Component]:
    """The checked records of a hook. Raises for anything but some of them."""
    name, found = getattr(hook, "__name__", HOOKS[kind]), hook()
    if isinstance(found, Coroutine):
        found.close()
        raise TypeError(f"{name} is a coroutine; define it with def, not async def")
    if isinstance(found, Component) or not isinstance(found, Iterable):
        raise TypeError(
            f"{name} returned {shown(found)}; yield flexvar.Component records, or return a list "
            "of them"
        )
    records = list(islice(found, MOST_RECORDS + 1))
    if len(records) > MOST_RECORDS:
        raise ValueError(f"{name} yields more than {MOST_RECORDS} records")
    _check_records(name, records, kind)
    return records


def _installed() -> tuple[list[_Source], list[tuple[_Source, BaseException]]]:
    """Entry points of the group, and what stands in the way of reading one's metadata.

    A distribution that is broken and none of ours is passed over; the same name in two
    distributions stays two plugins.
    """
    sources: dict[tuple[str, str], _Source] = {}
    unreadable: list[tuple[_Source, BaseException]] = []
    seen: set[str] = set()
    for place in _distributions():
        known = _folder_name(place) or _distribution_name(place)
        if known in seen:
            continue  # another one of that name stands before it on the path
        seen.add(known)
        try:
            for entry in _entries(place):
                source = _Source(_distribution_name(place), entry.name, entry.load)
                sources.setdefault((source.key, entry.value), source)
        except Exception as error:
            source = _Source(_distribution_name(place), "entry_points.txt", lambda: None)
            unreadable.append((source, error))
    ordered = sorted(sources.values(), key=lambda s: (s.distribution != FIRST_PARTY, s.key))
    return ordered, unreadable


def _distributions() -> Iterator[metadata.Distribution]:
    found = metadata.distributions()
    while True:
        try:
            yield next(iter(found))
        except StopIteration:
            return
        except Exception:
            return  # a folder on the path that cannot be listed


def _distribution_name(place: metadata.Distribution) -> str:
    try:
        name = place.metadata["Name"]
    except Exception:
        name = None  # no metadata, or not in UTF-8
    if not isinstance(name, str) or not name.strip():
        # Installers name its folder name-version.dist-info.
        name = str(getattr(getattr(place, "_path", None), "name", "")).partition("-")[0]
    return _canonical(one_line(name)) or "unknown"


def _folder_name(place: metadata.Distribution) -> str:
    """The name in a folder ``name-version.dist-info``; empty for another one.

    To parse the metadata of all that is installed takes longer than all else of a start.
    """
    folder = str(getattr(getattr(place, "_path", None), "name", ""))
    if not folder.endswith(".dist-info"):
        return ""
    return _canonical(one_line(folder.removesuffix(".dist-info").rpartition("-")[0]))


def _entries(place: metadata.Distribution) -> list[metadata.EntryPoint]:
    """The entry points of our group; none for a file without it, however broken."""
    try:
        text = place.read_text("entry_points.txt")
    except UnicodeDecodeError:
        raw = Path(str(getattr(place, "_path", "")), "entry_points.txt").read_bytes()
        if f"[{GROUP}]".encode() not in raw:
            return []
        raise
    except Exception:
        return []
    entries, ours = [], False
    for line in (text or "").splitlines():
        line = line.strip()
        if line.startswith("["):
            ours = re.fullmatch(rf"\[\s*{GROUP}\s*\]", line) is not None
        elif ours and line and not line.startswith(("#", ";")):
            name, equals, value = (part.strip() for part in line.partition("="))
            if not (name and equals and value):
                raise ValueError(f"{shown(line)} is no entry point; expected name = module")
            entries.append(metadata.EntryPoint(name, value, GROUP))
    return entries


def _check_records(hook: str, records: Iterable[object], kind: Offer) -> None:
    seen: set[str] = set()
    for record in records:
        if not isinstance(record, Component):
            raise TypeError(f"{hook} yielded {shown(record)}, expected flexvar.Component records")
        texts = (record.name, record.target, record.summary)
        if not all(isinstance(text, str) for text in texts) or not record.name:
            raise TypeError(f"{hook}: name, target and summary of {shown(record)} have to be text")
        if any(printable(text) != text for text in texts):
            raise ValueError(f"{hook}: the texts of {shown(record)} cannot be printed in a line")
        if set(record.name) & set("/, "):
            raise ValueError(f"{hook}: the name {record.name!r} may hold no slash, comma or space")
        if not isinstance(record.requires, tuple | list) or not all(
            isinstance(package, str) for package in record.requires
        ):
            raise TypeError(
                f"{hook}: requires of {record.name!r} has to be a tuple of import names, such as "
                f"('scipy',); found {shown(record.requires)}"
            )
        if record.name in seen:
            raise ValueError(f"{hook} yields the name {record.name!r} twice")
        module, colon, attribute = record.target.partition(":")
        if kind == "benchmark":
            if not module or colon:
                raise ValueError(f"{hook}: target {record.target!r} is not the name of a module")
        elif not (module and colon and attribute):
            raise ValueError(f"{hook}: target {record.target!r} is not 'module:Class'")
        seen.add(record.name)


def _clashes(provided: list[Provided]) -> list[Failure]:
    """One record per component whose plain name does not reach it."""
    groups: dict[tuple[Offer, str], list[Provided]] = {}
    for p in provided:
        groups.setdefault((p.kind, p.component.name), []).append(p)
    result = []
    for (kind, name), group in groups.items():
        if len(group) == 1:
            continue
        own = [p for p in group if p.distribution == FIRST_PARTY]
        for p in group:
            if p in own:
                continue
            others = ", ".join(o.distribution for o in group if o is not p)
            result.append(
                Failure(
                    p.distribution,
                    f"the name of its {kind} {name!r} is also {others}'s; "
                    f"ask for {p.qualified!r} instead",
                )
            )
    return result


def _check_kind(kind: str) -> None:
    if kind not in OFFERS:
        raise PluginError(f"Unknown kind {kind!r}. Kinds: {', '.join(OFFERS)}.")


def _canonical(name: str) -> str:
    """A distribution's name as packaging compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _findable(name: str) -> bool:
    try:
        # The top-level package alone: to find a module in it would import it.
        return importlib.util.find_spec(name.partition(".")[0]) is not None
    except Exception:
        return False  # a finder of somebody else's, or a module half imported


@cache
def default_registry() -> Registry:
    """The registry of the installed plugins, made at the first question of this process."""
    return Registry()
