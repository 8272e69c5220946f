"""Arrays of a library that nobody knows: this module."""

from __future__ import annotations

from typing import Any


class Foreign:
    """An array that offers DLPack and nothing else, in the memory of another one; None: out of reach."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def __dlpack__(self, **options: Any) -> Any:
        if self.values is None:
            raise BufferError("on another device")
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0) if self.values is None else self.values.__dlpack_device__()


class ForeignByInterface:
    """The older way, without DLPack."""

    def __init__(self, values: Any) -> None:
        self.values = values

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.values.__cuda_array_interface__


def from_dlpack(x: Any) -> Foreign:
    """As libraries take arrays of others."""
    return Foreign(x)
