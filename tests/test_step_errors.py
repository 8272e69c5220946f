"""What a step must refuse, one row per condition: by a clear error, before anything is written."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parameter import Parameter, UninitializedParameter

import fastmap as fm
import fastmap.torch as ft

SHAPE = (4, 3)
pytestmark = [  # what torch says of kinds of tensors that are only made here to be refused
    pytest.mark.filterwarnings("ignore:Sparse CSR"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors"),
    pytest.mark.filterwarnings("ignore:.*quantize"),
]


def start(shape=SHAPE, dtype=torch.float32):
    n = int(np.prod(shape))
    return (torch.arange(n, dtype=torch.float64).reshape(shape) / (n + 1) + 0.05).to(dtype)


def trained_pair(dtype=torch.float32):
    """An optimizer of two parameters after one step, ready for another one."""
    w, v = Parameter(start(dtype=dtype)), Parameter(start(dtype=dtype) + 1)
    optimizer = ft.Adam([("w", w), ("v", v)], 0.01, map="log")
    for p in (w, v):
        p.grad = torch.ones_like(p)
    optimizer.step()
    return optimizer, w, v


def bits(x):
    return x.detach().contiguous().view(torch.uint8).numpy().tobytes() if x.ndim else float(x)


def fake(x):
    with FakeTensorMode() as mode:
        return mode.from_tensor(x)


def freed(x):
    x.untyped_storage().resize_(0)
    return x


class Marked(torch.Tensor):
    """A subclass, whose memory may mean anything."""


def set_grad(make):
    """A row that gives v another gradient, whatever torch thinks of it."""

    def spoil(optimizer, w, v):
        given = make(v)
        rows_of = optimizer._rows

        def rows(mask):
            rows, groups, moved = rows_of()
            rows[1] = (*rows[1][:4], given, *rows[1][5:])
            return rows, groups, moved

        optimizer._rows = rows

    return spoil


def set_state(**make):
    def spoil(optimizer, w, v):
        state = optimizer.state[v]
        for key, of in make.items():
            state[key] = of(state[key])

    return spoil


def set_data(make):
    def spoil(optimizer, w, v):
        v.data = make(v.data)

    return spoil


def set_option(**options):
    def spoil(optimizer, w, v):
        optimizer.param_groups[0].update(options)

    return spoil


def share(get):
    """A row in which memory has two uses."""

    def spoil(optimizer, w, v):
        target, source = get(optimizer, w, v)
        target.data = source.detach()

    return spoil


def wide(x):
    return torch.cat([x, x], 1)[:, ::2]


STEPS = {
    # A dtype, or a combination of them, that there is no kernel for.
    "integer gradient": (set_grad(lambda v: v.int()), TypeError, "v: gradient: dtype torch.int32 .* may be"),
    "complex gradient": (set_grad(lambda v: v.to(torch.complex64)), TypeError, "v: gradient: dtype"),
    "conjugate gradient": (set_grad(lambda v: v.to(torch.complex64).conj()), TypeError, "v: gradient: dtype"),
    "8-bit gradient": (set_grad(lambda v: v.to(torch.float8_e4m3fn)), TypeError, "v: gradient: dtype"),
    "float64 gradient of float32": (
        set_grad(lambda v: v.double()),
        TypeError,
        "v: gradient of dtype torch.float64 for torch.float32; theta and gradient may be",
    ),
    "model made double": (set_data(torch.Tensor.double), TypeError, "v: gradient of dtype torch.float32 for"),
    "z cast down": (
        set_state(z=torch.Tensor.bfloat16),
        TypeError,
        "v: its state 'z' has dtype torch.bfloat16",
    ),
    "z cast up": (set_state(z=torch.Tensor.double), TypeError, "v: its state 'z' has dtype torch.float64"),
    "moments in float16": (
        set_state(exp_avg=torch.Tensor.half, exp_avg_sq=torch.Tensor.half),
        TypeError,
        "v: its state 'exp_avg' has dtype torch.float16",
    ),
    "moments of two dtypes": (
        set_state(exp_avg_sq=torch.Tensor.bfloat16),
        TypeError,
        "v: its state 'exp_avg_sq' has dtype torch.bfloat16",
    ),
    # Shapes.
    "gradient of another shape": (
        set_grad(lambda v: torch.ones(3, 4)),
        ValueError,
        r"v: gradient of shape \(3",
    ),
    "gradient that would broadcast": (set_grad(lambda v: torch.ones(3)), ValueError, "v: gradient of shape"),
    "parameter of another shape": (set_data(lambda t: t[:2]), ValueError, "v: gradient of shape .* for"),
    "z of another shape": (set_state(z=lambda z: z[:1]), ValueError, "v: its state 'z' has another layout"),
    "moment of another shape": (
        set_state(exp_avg=lambda m: m.reshape(3, 4)),
        ValueError,
        "v: its state 'exp_avg' has another layout",
    ),
    # Layouts. (Gradients, which are only read, may have any strides.)
    "expanded parameter": (set_data(lambda t: t[:1].expand(4, 3)), ValueError, "v: its memory is not dense"),
    "strided parameter": (set_data(wide), ValueError, "v: its memory is not dense"),
    "transposed parameter": (
        set_data(lambda t: t.t().contiguous().t()),
        ValueError,
        "v: its state 'z' has another layout",
    ),
    "expanded z": (
        set_state(z=lambda z: z[:1].expand(4, 3)),
        ValueError,
        "v: its state 'z' has another layout",
    ),
    "transposed moment": (
        set_state(exp_avg_sq=lambda m: m.t().contiguous().t()),
        ValueError,
        "v: its state 'exp_avg_sq' has another layout",
    ),
    "strided moment": (set_state(exp_avg=wide), ValueError, "v: its state 'exp_avg' has another layout"),
    # Memory with two uses.
    "gradient in its parameter": (share(lambda o, w, v: (v.grad, v)), ValueError, "v: its memory overlaps"),
    "gradient in z": (share(lambda o, w, v: (v.grad, o.state[v]["z"])), ValueError, "v: its memory overlaps"),
    "parameter in z": (share(lambda o, w, v: (v, o.state[v]["z"])), ValueError, "v: its memory overlaps"),
    "one buffer for both moments": (
        share(lambda o, w, v: (o.state[v]["exp_avg"], o.state[v]["exp_avg_sq"])),
        ValueError,
        "v: its memory overlaps",
    ),
    "z of another parameter": (
        share(lambda o, w, v: (o.state[v]["z"], o.state[w]["z"])),
        ValueError,
        "v: its memory overlaps",
    ),
    "parameters tied by their data": (share(lambda o, w, v: (v, w)), ValueError, "v: its memory overlaps"),
    "gradient in another parameter": (
        share(lambda o, w, v: (v.grad, w)),
        ValueError,
        "[vw]: its memory overlap",
    ),
    # Tensors that are not plain memory.
    "sparse gradient": (set_grad(lambda v: v.detach().to_sparse()), TypeError, "v: gradient: layout.*sparse"),
    "CSR gradient": (
        set_grad(lambda v: v.detach().to_sparse_csr()),
        TypeError,
        "v: gradient: layout torch.sparse_csr",
    ),
    "negative bit": (
        set_grad(lambda v: torch._neg_view(v.detach())),
        TypeError,
        r"v: gradient: has the negative bit set; call resolve_neg\(\)",
    ),
    "quantised gradient": (
        set_grad(lambda v: torch.quantize_per_tensor(v.detach(), 0.1, 0, torch.qint8)),
        TypeError,
        "v: gradient: dtype torch.qint8",
    ),
    "nested gradient": (
        set_grad(lambda v: torch.nested.nested_tensor([torch.ones(3), torch.ones(2)])),
        TypeError,
        "v: gradient: nested tensor",
    ),
    "fake gradient": (set_grad(fake), TypeError, "v: gradient: tensor subclass FakeTensor"),
    "gradient of a subclass": (
        set_grad(lambda v: v.detach().as_subclass(Marked)),
        TypeError,
        "v: gradient: tensor subclass Marked",
    ),
    "zero tensor without memory": (
        set_grad(lambda v: torch._efficientzerotensor(SHAPE)),
        ValueError,
        "v: gradient: has no memory",
    ),
    "gradient that was freed": (
        set_grad(lambda v: freed(v.detach().clone())),
        ValueError,
        "v: gradient: has no memory",
    ),
    "parameter that was freed": (set_data(lambda t: freed(t.clone())), ValueError, "v: has no memory"),
    "z that was freed": (
        set_state(z=lambda z: freed(z.clone())),
        ValueError,
        "v: its state 'z': has no memory",
    ),
    # Devices.
    "gradient on another device": (
        set_grad(lambda v: torch.ones(SHAPE, device="meta")),
        ValueError,
        "v: gradient: device meta is not supported",
    ),
    "z on another device": (
        set_state(z=lambda z: z.to("meta")),
        ValueError,
        "v: its state 'z': device meta is not supported",
    ),
    # Options that went bad since they were given.
    "lr negative": (set_option(lr=-0.1), ValueError, "lr: must not be negative"),
    "lr NaN": (set_option(lr=float("nan")), ValueError, "lr: must not be negative, got nan"),
    "lr infinite": (set_option(lr=torch.tensor(torch.inf)), ValueError, "lr: "),
    "eps negative": (set_option(eps=-1.0), ValueError, "eps: "),
    "beta of 1": (set_option(betas=(0.9, 1.0)), ValueError, "betas: "),
    "weight decay NaN": (set_option(weight_decay=float("nan")), ValueError, "weight_decay: "),
    "step 0": (set_state(step=lambda step: step * 0 - 1), ValueError, "step: must be a number of .*, got -1"),
    "step infinite": (set_state(step=lambda step: step + torch.inf), ValueError, "step: must be .*, got inf"),
}


@pytest.mark.parametrize("row", STEPS)
def test_a_step_is_refused_before_anything_is_written(row):
    spoil, error, text = STEPS[row]
    optimizer, w, v = trained_pair()
    spoil(optimizer, w, v)
    watched = [w.data, w.grad]
    watched += [x for p in (w, v) for x in optimizer.state[p].values()]
    watched += [v.data] if v.data.numel() and v.data.data_ptr() else []
    watched = [x for x in watched if x.device.type == "cpu" and (x.ndim == 0 or x.data_ptr())]
    before = [bits(x) for x in watched]
    with pytest.raises(error, match=text):
        optimizer.step()
    assert [bits(x) for x in watched] == before


def test_float32_gradients_of_float64_parameters_are_refused():
    optimizer, _, v = trained_pair(torch.float64)
    before = [bits(x) for x in (v, *optimizer.state[v].values())]
    v.grad_dtype = None
    v.grad = torch.ones(SHAPE)
    with pytest.raises(TypeError, match=r"v: gradient of dtype torch\.float32 for torch\.float64; theta and"):
        optimizer.step()
    assert [bits(x) for x in (v, *optimizer.state[v].values())] == before


def test_moments_in_bfloat16_of_float64_parameters_are_refused():
    with pytest.raises(
        TypeError, match=r"moments_dtype: torch\.bfloat16 for params\[0\] of dtype torch\.float64"
    ):
        ft.Adam([Parameter(start(dtype=torch.float64))], map="log", moments_dtype=torch.bfloat16)
    optimizer, _, v = trained_pair(torch.float64)
    for key in ("exp_avg", "exp_avg_sq"):
        optimizer.state[v][key] = optimizer.state[v][key].bfloat16()
    before = [bits(x) for x in (v, *optimizer.state[v].values())]
    with pytest.raises(TypeError, match=r"v: its state 'exp_avg' has dtype torch\.bfloat16"):
        optimizer.step()
    assert [bits(x) for x in (v, *optimizer.state[v].values())] == before


def inference_tensor():
    with torch.inference_mode():
        return start()


PARAMETERS = {
    "integers": (
        lambda: start().int(),
        TypeError,
        "dtype torch.int32 is not supported; theta and gradient may",
    ),
    "complex": (lambda: start().to(torch.complex64), TypeError, "dtype torch.complex64"),
    "8 bits": (lambda: start().to(torch.float8_e4m3fn), TypeError, "dtype torch.float8_e4m3fn"),
    "meta": (lambda: start().to("meta"), ValueError, "device meta is not supported"),
    "sparse": (lambda: start().to_sparse(), TypeError, "layout torch.sparse_coo"),
    "CSR": (lambda: start().to_sparse_csr(), TypeError, "layout torch.sparse_csr"),
    "quantised": (
        lambda: torch.quantize_per_tensor(start(), 0.1, 0, torch.qint8),
        TypeError,
        "dtype torch.qint8",
    ),
    "nested": (
        lambda: torch.nested.nested_tensor([torch.ones(3), torch.ones(2)]),
        TypeError,
        "nested tensor",
    ),
    "fake": (lambda: fake(start()), TypeError, "tensor subclass FakeTensor"),
    "subclass": (lambda: start().as_subclass(Marked), TypeError, "tensor subclass Marked"),
    "negative bit": (lambda: torch._neg_view(-start()), TypeError, "has the negative bit"),
    "inference": (inference_tensor, RuntimeError, "is an inference tensor"),
    "strided": (lambda: wide(start()), ValueError, "its memory is not dense"),
    "expanded": (lambda: start((1, 3)).expand(4, 3), ValueError, "its memory is not dense"),
    "freed": (lambda: freed(start()), ValueError, "has no memory"),
    "lazy": (UninitializedParameter, ValueError, "is not initialised yet"),
    "outside the domain": (
        lambda: start() - 0.2,
        fm.DomainError,
        r"2 of 12 values are outside the domain \(0, inf\) of Log.* first at index \(0, 0\)",
    ),
    "NaN": (
        lambda: start().index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(torch.nan)),
        fm.DomainError,
        r"1 of 12 values is outside the domain .* first at index \(1, 2\) \(value nan\)",
    ),
}


@pytest.mark.parametrize("row", PARAMETERS)
def test_a_parameter_is_refused_by_its_name(row):
    make, error, text = PARAMETERS[row]
    given = make()
    p = given if isinstance(given, Parameter) or row == "inference" else Parameter(given, requires_grad=False)
    good = Parameter(start())
    optimizer = ft.Adam([("good", good)], map="log")
    before = bits(optimizer.state[good]["z"])
    with pytest.raises(error, match=rf"^w: {text}"):
        optimizer.add_param_group({"params": [("w", p)]})
    assert list(optimizer.state) == [good]
    assert len(optimizer.param_groups) == 1
    assert bits(optimizer.state[good]["z"]) == before


def test_leaves_only_and_each_once():
    p = Parameter(start())
    with pytest.raises(ValueError, match="non-leaf"):
        ft.Adam([p * 2], map="log")
    with (
        pytest.warns(UserWarning, match="duplicate"),
        pytest.raises(ValueError, match=r"w: is in the group twice"),
    ):
        ft.Adam([("v", p), ("w", p)], map="log")
    with pytest.raises(ValueError, match="more than one parameter group"):
        ft.Adam([{"params": [p]}, {"params": [p]}], map="log")
    # Tied modules have one parameter, once.
    one, two = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    two.weight = one.weight
    optimizer = ft.Adam(torch.nn.Sequential(one, two).parameters())
    assert len(optimizer.state) == 3
    two(one(torch.ones(3))).sum().backward()
    optimizer.step()


def test_what_only_is_read_may_lie_anyhow():
    optimizer, w, v = trained_pair()
    reference, x, y = trained_pair()
    w.grad, x.grad = torch.ones(1).expand(SHAPE), torch.ones(SHAPE)
    shared = torch.ones(4, 6)
    v.grad, y.grad = shared[:, ::2], torch.ones(SHAPE)
    optimizer.step()
    reference.step()
    w.grad = v.grad = shared[:, 3:]  # one gradient of two parameters
    optimizer.step()
    reference.step()
    with torch.inference_mode():
        w.grad = torch.ones(SHAPE)
    optimizer.step()
    reference.step()
    assert bits(w) == bits(x)
    assert bits(v) == bits(y)


def test_an_optimizer_made_or_used_in_inference_mode_works():
    p, q = Parameter(start()), Parameter(start())
    with torch.inference_mode():
        optimizer = ft.Adam([p], map="log")
    reference = ft.Adam([q], map="log")
    assert not any(x.is_inference() for x in optimizer.state[p].values())
    for _ in range(2):
        p.grad, q.grad = torch.ones(SHAPE), torch.ones(SHAPE)
        with torch.inference_mode():
            optimizer.step()
        reference.step()
    assert bits(p) == bits(q)


def change(key, of):
    def spoil(saved):
        saved["state"][1][key] = of(saved["state"][1][key])

    return spoil


@pytest.mark.parametrize(
    ("spoil", "error", "text"),
    [
        (change("z", lambda z: z[:1, :1]), ValueError, r"'z' of v is \(1, 1\), expected \(4, 3\)"),
        (change("exp_avg", lambda m: m.t()), ValueError, r"'exp_avg' of v is \(3, 4\)"),
        (change("exp_avg_sq", lambda m: None), ValueError, "'exp_avg_sq' of v is NoneType"),
        (lambda saved: saved["param_groups"][0]["params"].pop(), ValueError, "groups of parameters differ"),
        (
            lambda saved: saved["param_groups"][0].update(map={"map": "log2"}),
            ValueError,
            "saved with the map",
        ),
        (lambda saved: saved["param_groups"][0].update(lr=-1.0), ValueError, "lr: must not be negative"),
        (lambda saved: saved.pop("state"), ValueError, "state_dict: is damaged, .*'state'"),
        (lambda saved: saved["param_groups"].append({}), ValueError, "state_dict: is damaged"),
        (lambda saved: saved["state"].update({0: 1}), ValueError, "state_dict: is damaged"),
        (lambda saved: saved["state"][0].update(step=10**400), ValueError, "state_dict: is damaged"),
        (lambda saved: saved["state"][0].update(step=-1), ValueError, "steps of w are no counts"),
        (
            lambda saved: saved["state"][0].update(step=torch.ones(2)),
            ValueError,
            "steps of w are no counts",
        ),
        (
            lambda saved: saved["state"][0].update(exp_avg=torch.zeros(SHAPE).to_sparse()),
            ValueError,
            "'exp_avg' of w is torch.sparse_coo",
        ),
        (
            lambda saved: saved["state"][0].update(other=torch.zeros(SHAPE).to_sparse()),
            ValueError,
            "'other' of w is torch.sparse_coo",
        ),
        (
            lambda saved: saved["param_groups"][0]["params"].__setitem__(0, torch.zeros(2).to_sparse()),
            ValueError,
            "neither numbers nor names",
        ),
        (
            lambda saved: saved["param_groups"][0].update(maximize=torch.zeros(0)),
            ValueError,
            "state_dict: is damaged",
        ),
        (
            lambda saved: saved["param_groups"][0].update(moments_dtype=1),
            TypeError,
            "moments_dtype: expected",
        ),
    ],
)
def test_a_checkpoint_is_refused_before_anything_is_taken_over(spoil, error, text):
    optimizer, w, v = trained_pair()
    saved = optimizer.state_dict()
    saved["state"] = {n: dict(state) for n, state in saved["state"].items()}
    spoil(saved)
    optimizer.step()
    before = [bits(x) for p in (w, v) for x in (p, *optimizer.state[p].values())]
    lr = optimizer.param_groups[0]["lr"]
    with pytest.raises(error, match=text):
        optimizer.load_state_dict(saved)
    assert [bits(x) for p in (w, v) for x in (p, *optimizer.state[p].values())] == before
    assert optimizer.param_groups[0]["lr"] == lr
    optimizer.step()


def test_steps_without_end_saturate():
    """A z of any size gives a theta in the closed domain, and no NaN."""
    for m, high in (("log", torch.inf), (fm.Interval(0, 2), 2.0), (fm.Softplus(), torch.inf)):
        for sign in (-1.0, 1.0):
            p = Parameter(start())
            optimizer = ft.SGD([p], 1e37, map=m)
            for _ in range(3):
                p.grad = torch.full(SHAPE, sign)
                optimizer.step()
            assert ((p >= 0) & (p <= high)).all()


def read_only():
    out = np.zeros(SHAPE, np.float32)
    out.flags.writeable = False
    return out


CALLS = {  # of the functions of maps: theta, out
    "read-only": (lambda: start().numpy(), read_only, ValueError, "out: the array is read-only"),
    "out of integers": (start, lambda: start().int(), TypeError, "out: dtype"),
    "out of another dtype": (start, lambda: start().double(), TypeError, "out: dtype"),
    "out of another shape": (start, lambda: start((3, 4)), ValueError, "out: shape"),
    "strided out": (start, lambda: wide(start()), ValueError, "out: the array is not contiguous"),
    "expanded out": (
        start,
        lambda: start((1, 3)).expand(4, 3),
        ValueError,
        "out: the array is not contiguous",
    ),
    "out that requires grad": (start, lambda: Parameter(start()), RuntimeError, "out: requires grad"),
    "theta that requires grad": (
        lambda: Parameter(start()),
        start,
        RuntimeError,
        "out: cannot be used while",
    ),
    "inference out": (start, inference_tensor, RuntimeError, "out: is an inference tensor"),
    "another device": (start, lambda: start().to("meta"), ValueError, "out: device meta"),
    "theta on another device": (lambda: start().to("meta"), start, ValueError, "theta: device meta"),
    "another kind": (start, lambda: start().numpy(), TypeError, "out: expected a torch tensor"),
    "tensor for an array": (lambda: start().numpy(), start, TypeError, "out: expected a NumPy array"),
    "complex": (lambda: start().to(torch.complex64).conj(), start, TypeError, "theta: dtype"),
    "negative bit": (lambda: torch._neg_view(-start()), start, TypeError, "theta: has the negative bit"),
    "sparse": (lambda: start().to_sparse(), start, TypeError, "theta: layout torch.sparse_coo"),
    "quantised": (PARAMETERS["quantised"][0], start, TypeError, "theta: dtype torch.qint8"),
    "nested": (PARAMETERS["nested"][0], start, TypeError, "theta: nested tensor"),
    "fake": (lambda: fake(start()), start, TypeError, "theta: tensor subclass FakeTensor"),
    "freed": (lambda: freed(start()), start, ValueError, "theta: has no memory"),
    "zero tensor": (lambda: torch._efficientzerotensor(SHAPE), start, ValueError, "theta: has no memory"),
    "freed out": (start, lambda: freed(start()), ValueError, "out: has no memory"),
}


@pytest.mark.parametrize("row", CALLS)
def test_a_call_is_refused_before_anything_is_written(row):
    make, make_out, error, text = CALLS[row]
    theta, out = make(), make_out()
    watched = [
        x for x in (theta, out) if isinstance(x, torch.Tensor) and type(x) in (torch.Tensor, Parameter)
    ]
    watched = [
        x
        for x in watched
        if not x.is_nested and x.layout is torch.strided and x.device.type == "cpu" and not x.is_quantized
    ]
    watched = [x for x in watched if not x.is_complex() and not x._is_zerotensor() and x.data_ptr()]
    before = [bits(x.clone()) for x in watched]
    with pytest.raises(error, match=text):
        fm.forward(theta, "log", out=out)
    assert [bits(x.clone()) for x in watched] == before


def test_memory_of_calls_with_two_uses():
    theta = start((10,))
    kept = bits(theta)
    with pytest.raises(ValueError, match="out: overlaps theta"):
        fm.forward(theta[:6], "log", out=theta[4:])
    space = fm.Space(a=fm.Param(low=0, shape=4), b=fm.Param(low=0, shape=4))
    out = torch.zeros(6)
    with pytest.raises(ValueError, match="out: the buffers of"):
        fm.forward({"a": theta[:4], "b": theta[4:8]}, space, out={"a": out[:4], "b": out[2:]})
    assert bits(theta) == kept
    assert not out.any()
    assert fm.forward(theta, "log", out=theta) is theta  # in place is in order


@pytest.mark.skipif(sys.platform != "linux", reason="maps one file many times, by Linux's mmap")
def test_more_elements_than_32_bits_count():
    """2³¹ + 4101 elements in 48 MiB: memory that repeats, where every visit of an element leaves its mark."""
    chunk, n = 1 << 23, 2**31 + 4101
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    mapped = []

    def repeated(item, dtype):
        size, times = chunk * item, -(-n // chunk)
        file = os.memfd_create("fastmap")
        os.ftruncate(file, size)
        base = libc.mmap(
            None, size * times, mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, -1, 0
        )
        assert base not in (None, ctypes.c_void_p(-1).value)
        mapped.append((base, size * times))
        for i in range(times):
            fixed = mmap.MAP_SHARED | 0x10  # MAP_FIXED; above MAP_NORESERVE
            at = libc.mmap(base + i * size, size, mmap.PROT_READ | mmap.PROT_WRITE, fixed, file, 0)
            assert at == base + i * size
        os.close(file)
        array = np.frombuffer((ctypes.c_char * (n * item)).from_address(base), np.dtype(f"i{item}"))
        return torch.from_numpy(array).view(dtype)

    threads = fm.get_num_threads()
    fm.set_num_threads(1)  # the same element lies in many blocks
    try:
        p = Parameter(torch.zeros(8, dtype=torch.bfloat16))
        optimizer = ft.SGD([p], 1.0)
        p.data, optimizer.state[p]["z"] = repeated(2, torch.bfloat16), repeated(4, torch.float32)
        p.grad = torch.ones(1, dtype=torch.bfloat16).expand(n)
        optimizer.step()
        visits = torch.full((chunk,), float(n // chunk))
        visits[: n % chunk] += 1
        assert torch.equal(optimizer.state[p]["z"][:chunk], -visits)
        assert torch.equal(p.detach()[:chunk].float(), -visits.bfloat16().float())
    finally:
        fm.set_num_threads(threads)
        del p, optimizer
        for base, size in mapped:
            libc.munmap(base, size)
