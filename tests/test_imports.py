"""Who imports whom: no circles in the core, and nothing of a plugin or a released model in it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLUGINS = ("flexvar_plugins", "flexvar_zoo")
# Names of files and models that were released; papers and methods may be named.
RELEASED = re.compile(r"FlexVAE|FlexVARd\d|flexvar-d\d|vae_ch\d|var_d\d|vq_ds\d|infinity_\w+b")


def modules(*folders: str) -> dict[str, Path]:
    found = {}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((Path(folder).name, *parts))
            found[name.removesuffix(".__init__")] = path
    return found


def imported(nodes: Iterable[ast.AST], known: Iterable[str]) -> Iterator[str]:
    """The known modules that some code imports where it stands: not inside functions."""
    for node in nodes:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in known else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from imported(ast.iter_child_nodes(node), known)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Modules that import each other, by removing those that import nobody that is left."""
    left = dict(graph)
    while True:
        ends = [name for name, needs in left.items() if not needs & left.keys()]
        if not ends:
            return [sorted(left)] if left else []
        for name in ends:
            del left[name]


def test_no_two_modules_of_the_core_import_each_other() -> None:
    known = modules("flexvar")
    graph = {
        name: {
            other
            for other in imported(ast.parse(path.read_text(encoding="utf-8")).body, known)
            if other in known and other != name
        }
        for name, path in known.items()
    }
    assert graph["flexvar.model"] >= {"flexvar.layout", "flexvar.components"}
    assert circles(graph) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c", "d"]]


def test_the_core_knows_no_plugin_and_no_released_model() -> None:
    found = {}
    for name, path in modules("flexvar").items():
        text = path.read_text(encoding="utf-8")
        words = [plugin for plugin in PLUGINS if re.search(rf"\b{plugin}\b", _code(text))]
        words += RELEASED.findall(text)
        if words:
            found[name] = words
    # The command that converts shows released files as examples.
    found.pop("flexvar.cli.convert", None)
    assert found == {}


def _code(text: str) -> str:
    """The code without its docstrings, which may point to a plugin for an example."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(value=0)
    return ast.unparse(tree)


def test_the_zoo_builds_on_the_core_and_the_built_in_plugins_which_know_nothing_of_it() -> None:
    for path in modules("plugins/flexvar_plugins").values():
        assert "flexvar_zoo" not in path.read_text(encoding="utf-8"), path
