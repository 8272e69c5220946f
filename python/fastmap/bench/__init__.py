"""fastmap against its peers, in one run: ``fastmap bench``; the cases also drive ``bench/``."""

from fastmap.bench.suite import main

__all__ = ["main"]
