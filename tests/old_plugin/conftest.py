"""Without this distribution installed, its own tests are not collected."""

from importlib import metadata

try:
    metadata.distribution("flexvar-example")
    collect_ignore_glob = []
except metadata.PackageNotFoundError:
    collect_ignore_glob = ["tests/*"]
