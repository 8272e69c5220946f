from typing import Any

OPS: dict[str, int]

def catalog() -> list[dict[str, Any]]: ...
def info() -> dict[str, Any]: ...
def check_params(map: int, dtype: int, params: tuple[float, ...]) -> None: ...
def apply(
    op: int,
    map: int,
    dtype: int,
    params: tuple[float, ...],
    n: int,
    x: int,
    grad: int,
    out: int,
    policy: int,
) -> tuple[int, int]: ...
def apply_arrays(
    op: int, map: int, params: tuple[float, ...], policy: int, x: object, out: object
) -> bool: ...
def log_det(
    op: int,
    map: int,
    dtype: int,
    params: tuple[float, ...],
    rows: int,
    n: int,
    x: int,
    sums: int,
    value_op: int,
    out: int,
    policy: int,
) -> tuple[int, int]: ...
def advise_huge_pages(buffer: int, bytes: int) -> None: ...
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
