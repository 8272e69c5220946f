RUNTIME: int  # the version of CUDA that the module was built with, 13000 for 13.0

# RuntimeError where there is no driver or no GPU, with what is missing.
def device_count() -> int: ...

Address = tuple[int, int]  # on the device, 0 for none, and the code of the dtype

# out = op(x) factor + addend on a stream of a device; no factor and no addend where the address is 0. args
# are those of Program.steps for the map and the dtype.
def launch(
    device: int,
    stream: int,
    map: int,
    op: int,
    args: bytes,
    n: int,
    x: Address,
    factor: Address,
    addend: Address,
    out: Address,
) -> None: ...

# The same with constants for each element: the address of their table (Program.constants), whose rows are of
# args_bytes by map; and the dimensions of x, from the last one on: lengths, and rows from one to the next.
def launch_rows(
    device: int,
    stream: int,
    map: int,
    op: int,
    args: int,
    dims: list[tuple[int, int]],
    n: int,
    x: Address,
    factor: Address,
    addend: Address,
    out: Address,
) -> None: ...
def args_bytes(dtype: int) -> list[int]: ...

# A sum in three steps: rows of n elements, in blocks of 4096, to 32 float64 lanes for each block; these to
# one float64 for each block; and neighbours of n to (n + 1) // 2, until there is one for each row.
def sum_lanes(device: int, stream: int, dtype: int, x: int, lanes: int, rows: int, n: int) -> None: ...
def sum_fold(device: int, stream: int, lanes: int, out: int, blocks: int) -> None: ...
def sum_pairs(device: int, stream: int, source: int, out: int, rows: int, n: int) -> None: ...

# The step of an optimizer in two parts, of a CudaCounts and a CudaStep as csrc/engine/cuda.hpp has them: the
# constants of its tensors, which are then counted; and tensors that share a map, or one with a table.
def count_steps(device: int, stream: int, dtype: int, counts: bytes) -> None: ...
def step(device: int, stream: int, map: int, dtype: int, tensors: bytes, args: bytes) -> None: ...
def step_rows(
    device: int,
    stream: int,
    map: int,
    dtype: int,
    tensors: bytes,
    args: int,
    dims: list[tuple[int, int]],
) -> None: ...

# The squares of their gradients, added up to 32 float64 lanes for each block of 2048 bytes of a gradient, in
# the type that is computed in; then sum_fold and sum_pairs.
def squares(
    device: int, stream: int, map: int, dtype: int, tensors: bytes, lanes: int, args: bytes
) -> None: ...
def square_rows(
    device: int,
    stream: int,
    map: int,
    dtype: int,
    tensors: bytes,
    lanes: int,
    args: int,
    dims: list[tuple[int, int]],
) -> None: ...
