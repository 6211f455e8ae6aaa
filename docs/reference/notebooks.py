"""Runs a notebook's cells and keeps what they show, and writes a notebook as a page.

    python docs/reference/notebooks.py docs/notebooks/*.ipynb

runs each from top to bottom in a folder of its own, in this process, and writes the outputs into
it: what was printed, and of the last line its picture or its repr. The cells are plain Python.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

Notebook = dict[str, Any]


def read(path: Path) -> Notebook:
    """A notebook as its file has it."""
    found: Notebook = json.loads(path.read_text(encoding="utf-8"))
    return found


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """The working directory is this one until the end."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def execute(notebook: Notebook, folder: Path) -> list[list[dict[str, Any]]]:
    """The outputs of every code cell, run one after another in ``folder``."""
    names: dict[str, Any] = {"__name__": "__main__"}
    with inside(folder):
        return [
            _outputs("".join(cell["source"]), names)
            for cell in notebook["cells"]
            if cell["cell_type"] == "code"
        ]


def _outputs(source: str, names: dict[str, Any]) -> list[dict[str, Any]]:
    """What a cell prints and shows."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
    found: list[dict[str, Any]] = []
    if text := printed.getvalue():
        found.append({"output_type": "stream", "name": "stdout", "text": text})
    if value is not None:
        data = {"text/plain": repr(value)}
        if isinstance(value, Image.Image):
            png = io.BytesIO()
            value.save(png, format="PNG", optimize=True)
            data = {
                "image/png": base64.b64encode(png.getvalue()).decode(),
                "text/plain": f"<picture of {value.width}x{value.height} pixels>",
            }
        found.append(
            {"output_type": "execute_result", "execution_count": None, "data": data, "metadata": {}}
        )
    return found


def fill_in(notebook: Notebook, outputs: list[list[dict[str, Any]]]) -> Notebook:
    """The notebook with these outputs of its code cells."""
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, (cell, found) in enumerate(zip(code, outputs, strict=True), start=1):
        cell["execution_count"] = number
        for one in found:
            if one["output_type"] == "execute_result":
                one["execution_count"] = number
        cell["outputs"] = found
    return notebook


def page(notebook: Notebook, name: str) -> tuple[str, dict[str, bytes]]:
    """The notebook in Markdown, and its pictures by the names of their files."""
    lines, pictures = [], {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            lines += [source, ""]
            continue
        lines += ["```python", source, "```", ""]
        for output in cell["outputs"]:
            data = output.get("data", {"text/plain": output.get("text")})
            if "image/png" in data:
                file = f"{name}-{len(pictures)}.png"
                pictures[file] = base64.b64decode(data["image/png"])
                lines += [f"![{data['text/plain'].strip('<>')}]({file})", ""]
            else:
                lines += ["```text", data["text/plain"].rstrip(), "```", ""]
    lines += [f"The notebook itself: [{name}.ipynb]({name}.ipynb)."]
    return "\n".join(lines), pictures


def main() -> None:
    """Run the notebooks named and write their outputs into them."""
    for path in map(Path, sys.argv[1:]):
        notebook = read(path)
        with tempfile.TemporaryDirectory() as folder:
            outputs = execute(notebook, Path(folder))
        text = json.dumps(fill_in(notebook, outputs), indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
