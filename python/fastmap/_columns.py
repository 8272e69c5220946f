"""Columns of data frames: what comes in as one goes out as one."""

from __future__ import annotations

import sys
from typing import Any

from fastmap._native import FloatArray


def like(x: Any, result: FloatArray) -> Any:
    """The result in the container of x, with its index and names; no library is imported for it."""
    pandas, polars, arrow = (sys.modules.get(name) for name in ("pandas", "polars", "pyarrow"))
    if pandas is not None:
        if isinstance(x, pandas.Series):
            return pandas.Series(result, index=x.index, name=x.name, copy=False)
        if isinstance(x, pandas.DataFrame):
            return pandas.DataFrame(result, index=x.index, columns=x.columns, copy=False)
    if polars is not None:
        if isinstance(x, polars.Series):
            return polars.Series(x.name, result)
        if isinstance(x, polars.DataFrame):
            return polars.DataFrame(result, schema=x.columns)
    if arrow is not None and isinstance(x, arrow.Array | arrow.ChunkedArray):
        return arrow.array(result)
    return result
