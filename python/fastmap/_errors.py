"""Errors of the package's own."""

from __future__ import annotations

from collections.abc import Iterable


class DomainError(ValueError):
    """Values for which a map is not defined.

    Attributes
    ----------
    argument : str
        The argument at fault.
    count : int
        How many of its values are invalid.
    index : tuple of int
        The index of the first of them.
    """

    def __init__(self, message: str, argument: str, count: int, index: tuple[int, ...]) -> None:
        super().__init__(message)
        self.argument = argument
        self.count = count
        self.index = index

    def __reduce__(self) -> tuple[type[DomainError], tuple[object, ...]]:
        return type(self), (str(self), self.argument, self.count, self.index)


def one_of(argument: str, value: str, choices: Iterable[str]) -> str:
    """The value, if it is one of the choices; else ValueError."""
    if value not in choices:
        raise ValueError(f"{argument}: expected one of {', '.join(choices)}; got {value!r}")
    return value
