"""The page ``/docs``: the HTTP interface, from the schemas that requests are checked by."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from pydantic import BaseModel

from flexvar.web import openai, requests
from flexvar.web.studio import MOST_WAITING, Studio

ROUTES: list[tuple[str, str, type[BaseModel] | None]] = [
    ("POST /v1/images/generations", "Pictures of a prompt or class; waits for them.", openai.Asked),
    (
        "POST /v1/images/edits",
        "A form with the files image and mask beside these fields; generated where the mask is "
        "transparent, or white.",
        openai.Asked,
    ),
    ("GET /v1/models", "The models by name.", None),
    ("GET /api/models", "The models with classes, sizes and the options of their samplers.", None),
    (
        "POST /api/generate",
        "Starts a generation; answers 202 with the job's id.",
        requests.Generate,
    ),
    ("POST /api/edit", "Starts an edit; answers 202 with the job's id.", requests.Edit),
    ("POST /api/score", "Nats per cell and likeliest values of a picture.", requests.Score),
    (
        "GET /api/jobs/ID/events",
        "Server-sent events: queued, started, scale (with previews), then one of done, error, "
        "cancelled.",
        None,
    ),
    ("DELETE /api/jobs/ID", "Cancels a job, within the scale it is at.", None),
    ("GET /pictures/ID.png", "A picture with its settings in it.", None),
    ("POST /api/settings", "The settings in a PNG of flexvar, sent as the body.", None),
]


def documentation(studio: Studio) -> str:
    """The body of the page."""
    name = next(iter(studio.pipelines))
    example = json.dumps({"model": name, "prompt": "0", "n": 1, "seed": 0})
    parts = [
        "<h1>flexvar as a service</h1>",
        "<p>JSON in, JSON out. What is wrong is answered with a status of 4xx and "
        "<code>{&quot;error&quot;: {&quot;message&quot;: ...}}</code>. At most "
        f"{requests.MOST_IMAGES} pictures a request, {requests.MOST_SIDE} pixels a side, "
        f"{requests.MOST_BYTES // 2**20} MiB a request and {MOST_WAITING} waiting requests, "
        "then 429. Sizes are (height, width) under /api and WIDTHxHEIGHT under /v1.</p>",
        f"<pre>curl http://127.0.0.1:7860/v1/images/generations \\\n  -H 'Content-Type: "
        f"application/json' \\\n  -d '{escape(example)}'</pre>",
    ]
    for route, text, schema in ROUTES:
        parts.append(f"<h2><code>{escape(route)}</code></h2><p>{escape(text)}</p>")
        if schema is not None:
            parts.append(_table(schema.model_json_schema()))
    return "".join(parts)


def _table(schema: dict[str, Any]) -> str:
    rows = []
    for name, field in schema["properties"].items():
        limits = [
            f"{word} {field[key]}"
            for key, word in (("minimum", "from"), ("maximum", "to"), ("maxLength", "length to"))
            if key in field
        ]
        needed = "needed" if name in schema.get("required", ()) else str(field.get("default", ""))
        kind = " or ".join(
            str(part.get("type") or part.get("$ref", "").rpartition("/")[2])
            for part in field.get("anyOf", [field])
        )
        cells = (name, kind, ", ".join(limits), needed)
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "<tr><th>field</th><th>type</th><th>limits</th><th>default</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"
