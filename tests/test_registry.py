"""Discovery: one broken plugin never stops another, and every miss says what there is."""

import sys
import textwrap

import pytest

from flexvar import Component, Registry, available, hookimpl
from flexvar.errors import PluginError


class Good:
    @hookimpl
    def flexvar_backbones(self):
        yield Component(name="good", target="collections:OrderedDict", summary="Fine")


class RaisesHalfWay:
    @hookimpl
    def flexvar_backbones(self):
        yield Component(name="half", target="collections:OrderedDict")
        raise RuntimeError("out of ideas")

    @hookimpl
    def flexvar_schedules(self):
        yield Component(name="whole", target="collections:OrderedDict")


class Misspelt:
    @hookimpl
    def flexvar_backbone(self):
        yield Component(name="lost", target="collections:OrderedDict")


class TakesAName:
    @hookimpl
    def flexvar_backbones(self):
        yield Component(name="transformer", target="collections:OrderedDict")


class WrongRecord:
    @hookimpl
    def flexvar_backbones(self):
        return [("name", "target")]


def registry(*plugins):
    result = Registry()
    for number, plugin in enumerate(plugins):
        result.add(plugin, name="p", distribution=f"dist{number}")
    return result


def reasons(found: Registry) -> str:
    return "\n".join(f"{f.plugin}: {f.reason}" for f in found.failures)


def test_first_party_components():
    assert {"multiscale", "residual"} <= set(available("tokenizer"))
    assert available("backbone", "trans*") == ["transformer"]
    assert available("schedule", "nothing*") == []
    with pytest.raises(PluginError, match="Unknown kind 'engine'. Kinds: tokenizer, backbone"):
        available("engine")


def test_broken_plugins_are_named_and_stop_nothing():
    found = registry(RaisesHalfWay(), Misspelt(), WrongRecord(), Good())
    names = found.names("backbone")
    assert {"good", "transformer"} <= set(names)
    assert not {"half", "lost"} & set(names)
    assert "whole" in found.names("schedule")
    text = reasons(found)
    assert "dist0:p: RuntimeError: out of ideas" in text
    assert "dist1:p: PluginValidationError: unknown hook 'flexvar_backbone'" in text
    assert "dist2:p: TypeError: flexvar_backbones yielded ('name', 'target')" in text
    assert all("Traceback" in f.traceback for f in found.failures)


def test_a_miss_says_the_nearest_the_choices_and_what_failed():
    found = registry(RaisesHalfWay(), Good())
    with pytest.raises(PluginError) as caught:
        found.find("backbone", "goood")
    text = str(caught.value)
    assert "Unknown backbone 'goood'. Did you mean 'good'?" in text
    assert "transformer" in text
    assert "dist0:p (RuntimeError: out of ideas)" in text


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_clashes(order):
    pair = [Good(), type("Other", (Good,), {})()]
    found = Registry()
    for number in order:
        found.add(pair[number], name="p", distribution=f"dist{number}")
    with pytest.raises(PluginError, match="several plugins; say dist0/good or dist1/good"):
        found.find("backbone", "good")
    assert found.find("backbone", "dist1/good").distribution == "dist1"
    assert "good" not in found.names("backbone")
    assert "dist0/good" in found.names("backbone")
    assert "dist0: the name of its backbone 'good' is also dist1's" in reasons(found)


def test_first_party_names_cannot_be_taken():
    found = registry(TakesAName())
    assert found.find("backbone", "transformer").distribution == "flexvar"
    assert found.find("backbone", "dist0/transformer").distribution == "dist0"
    assert "ask for 'dist0/transformer' instead" in reasons(found)


def test_strict_raises(monkeypatch):
    monkeypatch.setenv("FLEXVAR_STRICT", "1")
    with pytest.raises(RuntimeError, match="out of ideas"):
        registry(RaisesHalfWay()).names("backbone")


@pytest.mark.parametrize("name", ["dist0", "p", "dist0:p", " other , dist0"])
def test_disable(monkeypatch, name):
    monkeypatch.setenv("FLEXVAR_DISABLE", name)
    assert "good" not in registry(Good()).names("backbone")


def test_missing_packages_and_broken_targets():
    class Plugin:
        @hookimpl
        def flexvar_backbones(self):
            yield Component(name="needy", target="a:B", requires=("no_such_package_here",))
            yield Component(name="gone", target="no_such_module_here:B")

    found = registry(Plugin())
    with pytest.raises(
        PluginError, match="'needy' needs no_such_package_here, which is not installed"
    ):
        found.load("backbone", "needy")
    with pytest.raises(PluginError, match="'gone' of dist0 cannot be imported from"):
        found.load("backbone", "gone")
    assert found.find("backbone", "needy").missing == ("no_such_package_here",)


def test_adding_too_late():
    found = registry(Good())
    found.names("backbone")
    with pytest.raises(PluginError, match="before the registry is first asked"):
        found.add(Good())


def install(folder, name, body, entry="plugin"):
    """A distribution as an installer leaves it: a module and its metadata."""
    (folder / f"{name}.py").write_text(textwrap.dedent(body))
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[flexvar]\n{entry} = {name}\n")


def test_installed_plugins(tmp_path, monkeypatch):
    install(tmp_path, "zz_raises", "raise ImportError('no engine')")
    install(tmp_path, "zz_exits", "import sys; sys.exit('bye')")
    install(
        tmp_path,
        "zz_works",
        """
        from flexvar import Component, hookimpl

        @hookimpl
        def flexvar_positions():
            yield Component(name="zz", target="collections:OrderedDict")
        """,
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = Registry()
    assert "zz" in found.names("position")
    text = reasons(found)
    assert "zz-raises:plugin: ImportError: no engine" in text
    assert "zz-exits:plugin: SystemExit: bye" in text
    for name in ("zz_raises", "zz_exits", "zz_works"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "older", ["zz_twice-0.9.dist-info", "zz_twice-0.9-py3.11.egg-info", "zz_twice.egg-info"]
)
def test_an_older_one_behind_it_on_the_path_is_passed_over(tmp_path, monkeypatch, older):
    folders = [tmp_path / "new", tmp_path / "old"]
    for folder in folders:
        folder.mkdir()
        install(folder, "zz_twice", "raise ImportError('found')", entry=folder.name)
    (folders[1] / "zz_twice-1.0.dist-info").rename(folders[1] / older)
    file = "METADATA" if older.endswith("dist-info") else "PKG-INFO"
    (folders[1] / older / "METADATA").rename(folders[1] / older / file)
    for folder in reversed(folders):
        monkeypatch.syspath_prepend(str(folder))
    failed = [f.plugin for f in Registry().failures if f.plugin.startswith("zz-twice")]
    assert failed == ["zz-twice:new"]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"name": 3}, "name, target and summary of"),
        ({"name": ""}, "name, target and summary of"),
        ({"name": "a/b"}, "may hold no slash, comma or space"),
        ({"summary": None}, "name, target and summary of"),
        ({"requires": "torch"}, "requires of 'x' has to be a tuple of import names"),
        ({"target": "no_colon"}, "is not 'module:Class'"),
    ],
)
def test_malformed_records_are_that_plugins_failure(record, reason):
    class Plugin:
        @hookimpl
        def flexvar_backbones(self):
            yield Component(**{"name": "x", "target": "a:B", **record})

    found = registry(Plugin(), Good())
    assert "good" in found.names("backbone")
    assert reason in reasons(found)


def test_a_hook_without_its_decorator_is_named():
    class Plugin:
        def flexvar_backbones(self):
            yield Component(name="x", target="a:B")

    assert "implements no hook; decorate flexvar_backbones()" in reasons(registry(Plugin()))


def test_distributions_are_compared_as_packaging_does(monkeypatch):
    found = Registry()
    found.add(Good(), name="p", distribution="My_Plugin.x")
    assert found.find("backbone", "My_Plugin.x/good") == found.find("backbone", "my-plugin-x/good")
    monkeypatch.setenv("FLEXVAR_DISABLE", "my_plugin.X")
    skipped = Registry()
    skipped.add(Good(), name="p", distribution="My-Plugin-x")
    assert "good" not in skipped.names("backbone")


def test_requirements_are_looked_up_without_importing_them():
    class Plugin:
        @hookimpl
        def flexvar_backbones(self):
            yield Component(name="x", target="a:B", requires=("xml.dom.minidom",))

    sys.modules.pop("xml.dom.minidom", None)
    assert registry(Plugin()).find("backbone", "x").missing == ()
    assert "xml.dom.minidom" not in sys.modules
