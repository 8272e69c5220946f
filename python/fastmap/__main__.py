"""``python -m fastmap``: the command line."""

from fastmap.cli import main

main()
