"""``python -m flexvar``: the command line."""

from flexvar.cli import main

main()
