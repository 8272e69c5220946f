"""Optional dependencies, imported when used."""

from __future__ import annotations

import importlib
from typing import Any


def need(module: str, extra: str) -> Any:
    """The module; where it is missing, an ImportError that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module} is needed for this: pip install 'fastmap[{extra}]'", name=module
        ) from error
