"""``flexvar web``: the playground, a page in the browser."""

from __future__ import annotations

from typing import Annotated

import typer

from flexvar.cli import options
from flexvar.cli.output import say


def web(
    model: Annotated[
        list[str] | None,
        typer.Argument(
            help="Checkpoint directories, bundled names or hub ids.",
            show_default="every bundled model",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond this machine a token is asked for.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 7860,
    device: Annotated[str, typer.Option(help="cpu, cuda ...; auto is CUDA if any.")] = "auto",
    dtype: Annotated[str, typer.Option(help="fp32, bf16, fp16, or int8 on a CPU.")] = "fp32",
    compile_: options.Compile = False,
    open_browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in a browser.")
    ] = False,
) -> None:
    """Draw with a model in the browser: generate, edit, compare, and an HTTP interface.

    The page's address stands on a line of its own. Programs find the interface described at /docs.

    Example: flexvar web photos photos-mamba
    """
    from flexvar.errors import FlexvarError

    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise FlexvarError(
            f"The playground needs the extra web ({error}): pip install 'flexvar[web]'."
        ) from None
    from pathlib import Path

    from flexvar.locate import bundled_names
    from flexvar.pipeline import Pipeline
    from flexvar.web.serve import serve

    if not 0 <= port < 65536:
        raise FlexvarError(f"--port: got {port}; expected 0 to 65535.")
    names = model or bundled_names()
    if not names:
        raise FlexvarError("No model comes with this build; name one: flexvar web DIR.")
    pipelines = {}
    for name in names:
        say(f"{name} ...")
        pipe = Pipeline.from_pretrained(name, device=device, dtype=dtype)
        if compile_:
            say(str(pipe.compile()))
        pipelines[Path(name).name] = pipe
    serve(pipelines, host=host, port=port, open_browser=open_browser, say=say)
