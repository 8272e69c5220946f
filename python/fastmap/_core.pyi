from typing import Any

import numpy as np
from numpy.typing import NDArray

OPS: dict[str, int]
RULES: dict[str, int]
GRADIENTS: dict[str, int]
DECAYS: dict[str, int]
XLA_HANDLERS: dict[str, object]  # capsules, by the function that they call

def catalog() -> list[dict[str, Any]]: ...
def info() -> dict[str, Any]: ...

class Program:
    def __init__(
        self, shape: tuple[int, ...], steps: list[tuple[int, bool, list[NDArray[np.float64]]]]
    ) -> None: ...
    # For a dtype: (map, inverted, constants of a call), of programs without arrays only.
    def steps(self, dtype: int) -> list[tuple[int, bool, bytes]]: ...
    # The same of any program, with tables that hold something of each row; None where infinite bounds make
    # different maps of its elements. Here constants, of which maps have so many bytes each;
    def constants(self, dtype: int, sizes: list[int]) -> list[tuple[int, bool, bytes]] | None: ...
    # and here two float64: the least and the greatest number that the way accepts, or clips to.
    def ranges(self, dtype: int, forward: bool, clips: bool) -> list[tuple[int, bool, bytes]] | None: ...

# A buffer of a call: program, dtype, shape, parameter row strides, then for x, grad and out the pointer
# (0: none) and the strides in bytes.
Segment = tuple[Any, ...]

# The results: the number of a segment with refused values, their count, the C-order index of the first.
def apply(op: int, segments: list[Segment], policy: int) -> tuple[int, int, int]: ...
def apply_arrays(op: int, program: Program | None, policy: int, x: object, out: object) -> bool: ...
def log_det(
    op: int, segments: list[Segment], rows: int, sums: int, value_op: int, policy: int
) -> tuple[int, int, int]: ...
def structured_catalog() -> list[dict[str, Any]]: ...
def structured_z_size(map: int, n: int) -> int: ...

# buffers: x, direction, grad, out, each (pointer, strides of the leading axes, strides of a row) or None. The
# last two are pointers to one float64 per row, or 0. Returns how many rows were refused, and the first.
def run_structured(
    map: int,
    op: int,
    tangent: bool,
    dtype: int,
    leading: tuple[int, ...],
    n: int,
    buffers: list[Any],
    grad_log_det: int,
    log_det: int,
) -> tuple[int, int]: ...

# subspace: n, m, seed, nonzeros, scale. Then whether theta is float64, and pointers; 0 for no start.
def expand(
    subspace: tuple[int, int, int, int, float], is_double: bool, start: int, z: int, theta: int
) -> None: ...
def project(subspace: tuple[int, int, int, int, float], is_double: bool, grad: int, grad_z: int) -> None: ...

class Stepper:
    # rows: program, parameter row strides, group, theta, gradient, z, moments or None. groups: rule, gradient
    # mode, clamp low, high, decay space, decoupled, weight decay, maximize, lr, beta1, beta2, eps, dampening,
    # number of the step, nesterov. Returns the number of a row that cannot be used, or -1.
    def __init__(self) -> None: ...
    def prepare(self, rows: list[tuple[Any, ...]], groups: list[tuple[Any, ...]]) -> int: ...
    def sum_of_squares(self, of_z: bool, rows: list[int]) -> float: ...
    def step(self, factor: float) -> None: ...

def advise_huge_pages(buffer: int, bytes: int) -> None: ...
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
