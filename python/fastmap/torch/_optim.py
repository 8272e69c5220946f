"""Optimizers of torch whose parameters move in a mapped space, in one native pass per step."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from itertools import compress
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, TypedDict

import torch
from torch import Tensor

from fastmap import _core, _native, _shards, _torch_cuda
from fastmap._errors import DomainError, one_of
from fastmap._functional import forward, inverse, inverse_jacobian, jacobian
from fastmap._map import Map, MapLike, resolve
from fastmap._numpy_map import NumPyMap
from fastmap._shards import is_sharded
from fastmap._structured import StructuredMap
from fastmap.maps import Identity
from fastmap.torch import _cuda_step
from fastmap.torch._rows import RowSurgery, own_counts

if TYPE_CHECKING:
    from typing_extensions import Unpack

_STORED = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_SUPPORTED = (
    "theta and gradient may be float32, bfloat16 or float16 with z in float32, or all float64; moments are "
    "stored as z, or in bfloat16 where z is float32"
)


_MOST_STEPS = 2.0**63  # as the engine counts them


def computed_dtype(p: Tensor) -> torch.dtype:
    """What z is kept in beside a parameter."""
    return torch.float64 if p.dtype is torch.float64 else torch.float32


def is_z(p: Tensor, group: Mapping[str, Any]) -> bool:
    """Whether a parameter is its own z, which then has no buffer: nothing is mapped, and nothing rounded."""
    return isinstance(group["map"], Identity) and p.dtype is computed_dtype(p)


class Options(TypedDict, total=False):
    """The keywords that all mapped optimizers take; see `MappedOptimizer`."""

    map: MapLike | None
    gradient: Literal["chain", "dual", "clamped"]
    clamp: tuple[float, float]
    decay_space: Literal["theta", "z", "none"]
    moments_dtype: torch.dtype | None
    maximize: bool
    max_norm: float | None
    norm_space: Literal["theta", "z"]
    nonfinite: Literal["ignore", "skip", "raise"]
    on_edit: Literal["resync", "raise"]
    foreach: bool | None
    fused: bool | None
    capturable: bool
    differentiable: bool


class MappedOptimizer(RowSurgery, torch.optim.Optimizer):
    """What the mapped optimizers share. theta stays the ``nn.Parameter``; z and the moments live here.

    A step pulls the gradient back to z = f(theta), moves z by the rule and writes theta = f⁻¹(z), for all
    parameters in one native pass. Parameters without a map need no z beside them: what they cost in memory is
    what they cost in torch. `lr` is in units of z: with `Log` a relative change. See `convert_lr`.

    Parameters
    ----------
    params : iterable
        Parameters, named parameters or groups, as in torch. A group may have options of its own, ``map`` too.
    rule : dict
        The options of the rule.
    map : Map or str, optional
        The map of all parameters. None: the identity.
    gradient : {"chain", "dual", "clamped"}
        How the gradient in theta becomes one in z: times dtheta/dz; as it is (mirror descent: with `Log` the
        exponentiated gradient); or times dtheta/dz held inside `clamp`.
    clamp : (float, float)
        The least and the largest derivative of "clamped".
    decay_space : {"theta", "z", "none"}
        What weight decay shrinks: the parameter, or z (which a `Log` would draw to theta = 1).
    moments_dtype : torch.dtype, optional
        ``torch.bfloat16`` halves the memory of the moments; not with float64. Default: as z, float32 (float64
        for float64).
    maximize : bool
        Ascend instead.
    max_norm : float, optional
        Scale the gradients of all parameters so that their norm is at most this.
    norm_space : {"theta", "z"}
        Whose gradient that norm is of.
    nonfinite : {"ignore", "skip", "raise"}
        What a gradient with NaN or infinity does: spoil what it belongs to, as in torch; skip the whole step
        (`skipped` counts them); or raise before anything is written.
    on_edit : {"resync", "raise"}
        What a step does that finds theta edited since the last one: z = f(theta) anew where it differs, or
        RuntimeError. Edits through ``.data`` are invisible: call `resync`.
    foreach, fused : bool, optional
        Accepted and ignored: a step is always one native call.
    capturable : bool
        A step on CUDA tensors always is. ValueError where True and a parameter is on the CPU.
    differentiable : bool
        ValueError where True: autograd cannot record a native step.

    Notes
    -----
    On CUDA tensors a step reads nothing back: counts lie on the device, and so may a tensor `lr` and what
    GradScaler gives; only ``nonfinite="raise"`` waits. Not there yet: chains and inverses as a map, masks and
    DTensors, each refused by NotImplementedError.

    Parameters may be DTensors, as ``fully_shard`` makes them: every process moves its part, arrays of a map
    are cut along, z and the moments are DTensors too. Processes meet only for `max_norm`, `nonfinite`, a
    ``found_inf`` of GradScaler, and gradients that lie otherwise than their parameter.
    """

    _step_supports_amp_scaling = True
    _rule: ClassVar[str]
    _moments: ClassVar[tuple[str, ...]]  # in the order of the native rule

    def __init__(
        self,
        params: Any,
        rule: dict[str, Any],
        *,
        map: MapLike | None = None,
        gradient: str = "chain",
        clamp: tuple[float, float] = (0.0, math.inf),
        decay_space: str = "theta",
        moments_dtype: torch.dtype | None = None,
        maximize: bool = False,
        max_norm: float | None = None,
        norm_space: str = "theta",
        nonfinite: str = "ignore",
        on_edit: str = "resync",
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        if differentiable:
            raise ValueError("differentiable: must be False, autograd cannot record a native step")
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"max_norm: must be positive, got {max_norm}")
        one_of("norm_space", norm_space, ("theta", "z"))
        one_of("nonfinite", nonfinite, ("ignore", "skip", "raise"))
        one_of("on_edit", on_edit, ("resync", "raise"))
        self.max_norm, self.norm_space = max_norm, norm_space
        self.nonfinite, self.on_edit = nonfinite, on_edit
        self._skipped = 0
        self._capturable = capturable
        self._stepper, self._cuda_stepper = _core.Stepper(), _cuda_step.CudaStepper()
        self._lock = threading.Lock()
        self._versions: dict[Tensor, Any] = {}
        self._cut_maps: dict[Tensor, Map] = {}
        shared = {
            "map": map,
            "gradient": gradient,
            "clamp": clamp,
            "decay_space": decay_space,
            "moments_dtype": moments_dtype,
            "maximize": maximize,
        }
        super().__init__(params, {**rule, **shared})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with options of their own; see torch. Their z is f(theta) now."""
        group = dict(param_group)
        group["map"] = resolve("identity" if (m := group.get("map", self.defaults["map"])) is None else m)
        if isinstance(group["map"], NumPyMap | StructuredMap):
            raise TypeError(
                f"map: {type(group['map']).__name__} has no native step; use fastmap.torch.Mapped, which "
                "wraps an optimizer of torch"
            )
        if group["map"].program is None:
            raise TypeError("map: a Space maps a flat buffer; give each parameter the map of its own")
        self._check({**self.defaults, **group})
        super().add_param_group(group)
        added = self.param_groups[-1]
        try:
            for index, p in enumerate(added["params"]):
                if any(p is other for other in added["params"][:index]):
                    raise ValueError(f"{self._name(added, index)}: is in the group twice")
                self._start(p, added, index)
        except BaseException:  # nothing of a group that was refused stays
            self.param_groups.pop()
            for p in added["params"]:
                self.state.pop(p, None)
            raise

    def _check(self, group: dict[str, Any]) -> None:
        """Refuse options that make no sense; a learning rate on a GPU is not read."""
        for name in ("lr", "weight_decay", "eps", "momentum", "dampening"):
            if name == "lr" and _cuda_step.on_cuda(group[name]):
                continue
            if name in group and not 0 <= float(group[name]) < math.inf:
                raise ValueError(f"{name}: must not be negative, got {group[name]}")
        for beta in group.get("betas", ()):
            if not 0 <= beta < 1:
                raise ValueError(f"betas: must lie in [0, 1), got {group['betas']}")
        one_of("gradient", group["gradient"], _core.GRADIENTS)
        one_of("decay_space", group["decay_space"], _core.DECAYS)
        if group.get("nesterov") and (group["momentum"] == 0 or group["dampening"] != 0):
            raise ValueError("nesterov: needs a momentum and no dampening")
        if not isinstance(group["moments_dtype"], torch.dtype | None):
            raise TypeError(f"moments_dtype: expected a dtype of torch, got {group['moments_dtype']!r}")
        low, high = group["clamp"]
        if not 0 <= low <= high:
            raise ValueError(f"clamp: expected 0 <= low <= high, got {group['clamp']}")

    @torch.inference_mode(False)
    @torch.no_grad()
    def _start(self, p: Tensor, group: dict[str, Any], index: int, z: Tensor | None = None) -> None:
        """The state of a parameter before its first step, with a z of its own if theta came from one."""
        name = self._name(group, index)
        _refuse(p, name)
        _native.row_strides(group["map"], tuple(p.shape), name)
        self._refuse_device(p, group, name)
        dtype = computed_dtype(p)
        state = self.state[p]
        state["step"] = torch.zeros(
            (), dtype=torch.float32, device=p.device if _cuda_step.on_cuda(p) else "cpu"
        )
        if z is None:
            z = self._to_z(p, group, name)
        else:  # theta may have saturated: f(theta) need not exist
            z = torch.empty_like(p, dtype=dtype, requires_grad=False).copy_(z)
        if not is_z(p, group):
            state["z"] = z
        moments = group["moments_dtype"] or dtype
        if moments not in _moment_dtypes(p):
            raise TypeError(f"moments_dtype: {moments} for {name} of dtype {p.dtype}; {_SUPPORTED}")
        for key in self._moments_of(group):
            state[key] = torch.zeros_like(p, dtype=moments, requires_grad=False)
        self._versions[p] = _shards.version(p)

    def _refuse_device(self, p: Tensor, group: dict[str, Any], name: str) -> None:
        """Refuse options that the device of a parameter has no step for."""
        other = self.param_groups[0]["params"][0].device
        if self._limits_gradients and p.device != other:
            raise NotImplementedError(
                f"{name}: is on {p.device}, and others on {other}: max_norm and nonfinite need them on one "
                "device; use torch.nn.utils.clip_grad_norm_ before the step instead"
            )
        if not _cuda_step.on_cuda(p):
            if self._capturable:
                raise ValueError("capturable: must be False, there is no CUDA graph to capture on the CPU")
            if _cuda_step.on_cuda(group["lr"]):
                raise ValueError(f"lr: is on {group['lr'].device}, {name} on the CPU; use a number")
            return
        _cuda_step.refuse(p, group["map"], group["lr"], name)

    @staticmethod
    def _to_z(p: Tensor, group: dict[str, Any], name: str) -> Tensor:
        theta = p.detach().to(computed_dtype(p))
        if _cuda_step.on_cuda(p):
            z = forward(theta, group["map"], invalid="nan")
            _refuse_undefined(~(torch.isfinite(theta) & torch.isfinite(z)), group["map"], name, "values")
            return z
        try:
            return forward(theta, group["map"], out=torch.empty_like(theta))
        except DomainError as error:
            text = str(error).replace("theta", name, 1)
            raise DomainError(text, name, error.count, error.index) from None

    def _moments_of(self, group: dict[str, Any]) -> tuple[str, ...]:
        return self._moments

    @staticmethod
    def _name(group: dict[str, Any], index: int) -> str:
        names = group.get("param_names")
        return str(names[index]) if names else f"params[{index}]"

    @torch.no_grad()
    @torch.compiler.disable
    def step(
        self,
        closure: Callable[[], Any] | None = None,
        *,
        mask: Tensor | Mapping[Tensor, Tensor] | None = None,
    ) -> Any:
        """Take one step. Threads that share the optimizer take theirs one after the other, each as a whole.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the model and returns the loss.
        mask : bool tensor of shape (N,), or dict of such by parameter, optional
            The rows, along the first axis, that take part; of all parameters with a gradient, or of those in
            the dict. The others keep theta, z and moments to the bit, and rows count their steps from then on
            each for itself, as the bias correction of `Adam` needs it.

        Returns
        -------
        loss or None
            What the closure returned.

        Raises
        ------
        ValueError
            A gradient of another shape, device or kind, buffers that overlap, or a mask that does not fit.
            Nothing has been written.
        FloatingPointError
            ``nonfinite="raise"`` and a gradient is not finite. Nothing has been written.
        RuntimeError
            ``on_edit="raise"`` and a parameter was edited since the last step.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with self._lock:
            self._step(mask)
        return loss

    def _step(self, mask: Tensor | Mapping[Tensor, Tensor] | None) -> None:
        """One step by the gradients that are there, from the checks to the version counters."""
        found_inf, scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        if found_inf is not None and self._on_host() and self._found_anywhere(float(found_inf)):
            return
        factor = 1.0 if scale is None or not self._on_host() else 1 / float(scale)

        rows, groups, moved = self._rows(mask)
        own, of, on_gpu = rows, moved, [_cuda_step.on_cuda(row[3]) for row in rows]
        if any(on_gpu):
            on_cpu = [not x for x in on_gpu]
            theirs, of_theirs = [*compress(rows, on_gpu)], [*compress(moved, on_gpu)]
            self._prepare_cuda(theirs, of_theirs)
            clipping = self._cuda_clipping(groups, theirs, of_theirs, found_inf)
            own, of = [*compress(rows, on_cpu)], [*compress(moved, on_cpu)]
        self._prepare(own, groups, of)
        factor = self._clipped(factor, own, of)
        if math.isnan(factor):
            self._skipped += 1
            return
        self._stepper.step(factor)
        if any(on_gpu):
            rates = [group["lr"] for group in self.param_groups]
            self._cuda_stepper.step(groups, rates, scale, found_inf, clipping)
        written: list[Tensor] = []
        for row, (p, *_) in zip(rows, moved, strict=True):
            written += (b for b in (row[3], *row[5:8]) if b is not None)
            if is_sharded(p):  # has a version beside that of its part
                written += (p, *(value for key, value in self.state[p].items() if key != "step"))
        torch.autograd.graph.increment_version(written)
        for p, *_ in moved:
            self._versions[p] = _shards.version(p)

    @property
    def skipped(self) -> int:
        """How many steps ``nonfinite="skip"`` has skipped; waits for the GPU where it counts them."""
        return self._skipped + self._cuda_stepper.skipped

    @property
    def _limits_gradients(self) -> bool:
        return self.max_norm is not None or self.nonfinite != "ignore"

    def _on_host(self) -> bool:
        """Whether a parameter lies on the CPU, whose step reads what GradScaler found."""
        return not all(_cuda_step.on_cuda(p) for group in self.param_groups for p in group["params"])

    def _rows(
        self, mask: Tensor | Mapping[Tensor, Tensor] | None = None
    ) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]], list[Any]]:
        """What takes part in this step, as `_core.Stepper` takes it, and what it is of."""
        rows: list[tuple[Any, ...]] = []
        moved = []
        visible = self._visible(mask)
        for number, group in enumerate(self.param_groups):
            for index, p in enumerate(group["params"]):
                if p.grad is None:
                    continue
                if _shards.version(p) != self._versions[p]:
                    self._edited(p, group, index)
                m, state, chosen = self._map(p, group), self.state[p], visible.get(p)
                if chosen is not None:
                    own_counts(p, state)
                first, second = (*map(state.get, self._moments), None, None)[:2]
                buffers = p, p.grad, state.get("z"), first, second
                if is_sharded(p):
                    buffers = self._parts(*buffers, name=self._name(group, index))
                strides = tuple(_native.row_strides(m, tuple(buffers[0].shape), "theta")) if m.shape else ()
                where = None if chosen is None else (chosen.data_ptr(), chosen.numel())
                rows.append((m.program, strides, number, *buffers, state["step"], where))
                moved.append((p, group, index, chosen))
        return rows, [self._native_group(group) for group in self.param_groups], moved

    def _visible(self, mask: Tensor | Mapping[Tensor, Tensor] | None) -> dict[Tensor, Tensor]:
        """The indices of the rows that take part, by parameter."""
        if mask is None:
            return {}
        with_gradient = [
            (p, self._name(group, index))
            for group in self.param_groups
            for index, p in enumerate(group["params"])
            if p.grad is not None
        ]
        masks = mask if isinstance(mask, Mapping) else {p: mask for p, _ in with_gradient}
        if any(p not in self.state for p in masks):
            raise ValueError("mask: has an entry that is no parameter of this optimizer")
        indices: dict[int, Tensor] = {}  # attributes of one object share a mask
        visible = {}
        for p, name in with_gradient:
            if (m := masks.get(p)) is None:
                continue
            if is_sharded(p):
                raise ValueError(f"mask: {name} is sharded, and its rows belong to several processes")
            if _cuda_step.on_cuda(p):
                raise NotImplementedError(f"mask: {name} is on {p.device}: {_cuda_step.NO_ROWS}")
            if m.dtype is not torch.bool or m.device.type != "cpu" or p.ndim == 0 or m.shape != p.shape[:1]:
                raise ValueError(
                    f"mask: expected a bool tensor of shape {tuple(p.shape[:1])} on the CPU for {name}, "
                    f"got {m.dtype} of shape {tuple(m.shape)} on {m.device}"
                )
            if id(m) not in indices:
                indices[id(m)] = m.nonzero().flatten()
            visible[p] = indices[id(m)]
        return visible

    def _prepare(self, rows: list[tuple[Any, ...]], groups: list[tuple[Any, ...]], moved: list[Any]) -> None:
        """Every check of the buffers; nothing is written."""
        bad = self._stepper.prepare(rows, groups)
        if bad >= 0 or any(type(row[4]) not in _shards.PLAIN or row[4].is_neg() for row in rows):
            self._explain(bad, rows, moved)

    def _prepare_cuda(self, rows: list[tuple[Any, ...]], moved: list[Any]) -> None:
        """The same of what lies on GPUs."""
        for p, group, index, _ in moved:
            self._refuse_device(p, group, self._name(group, index))
        self._cuda_stepper.prepare(
            rows, lambda i: self._explain_row(rows[i], moved[i]), lambda i: self._name(*moved[i][1:3])
        )

    def _map(self, p: Tensor, group: dict[str, Any]) -> Map:
        """The map of what this process holds of a parameter."""
        m: Map = group["map"]
        if not m.shape or not is_sharded(p):
            return m
        if p not in self._cut_maps:
            self._cut_maps[p] = _shards.map_of_part(m, p)
        return self._cut_maps[p]

    @staticmethod
    def _parts(p: Tensor, grad: Any, *state: Tensor | None, name: str) -> tuple[Any, ...]:
        """What this process holds of a parameter, its gradient and its state."""
        own = _shards.part_beside(grad, p, f"{name}: gradient", "the parameter", move=True)
        kept = (
            None if x is None else _shards.part_beside(x, p, f"{name}: state", "the parameter") for x in state
        )
        return _shards.part(p, name), own, *kept

    def _found_anywhere(self, found_inf: float) -> bool:
        """Whether any process that shares the parameters found gradients that are not finite."""
        shares = dict.fromkeys(_shards.shared_axes(p) for group in self.param_groups for p in group["params"])
        found = [_shards.reduced(found_inf, axes, "max") for axes in shares]  # all of them: others take part
        return any(value != 0 for value in found)

    def _native_group(self, group: dict[str, Any]) -> tuple[Any, ...]:
        """What `_core.Stepper` takes for the parameters of a group."""
        self._check(group)
        beta1, beta2 = group.get("betas", (group.get("momentum", 0.0), 0.0))
        decays = group["weight_decay"] != 0
        return (
            _core.RULES[self._rule],
            _core.GRADIENTS[group["gradient"]],
            *(float(v) for v in group["clamp"]),
            _core.DECAYS[group["decay_space"]] if decays else 0,
            bool(group["decoupled_weight_decay"]),
            float(group["weight_decay"]),
            bool(group["maximize"]),
            0.0 if _cuda_step.on_cuda(group["lr"]) else float(group["lr"]),
            float(beta1),
            float(beta2),
            float(group.get("eps", 0.0)),
            float(group.get("dampening", 0.0)),
            bool(group.get("nesterov", False)),
        )

    def _clipped(self, factor: float, rows: list[Any], moved: list[Any]) -> float:
        """The factor of all gradients; NaN where the step is to be skipped."""
        if not self._limits_gradients:
            return factor
        of_z = self.max_norm is not None and self.norm_space == "z"
        shares: dict[Any, list[int]] = {}
        for i, (p, *_) in enumerate(moved):
            shares.setdefault(_shards.shared_axes(p), []).append(i)
        squares = [
            _shards.reduced(self._stepper.sum_of_squares(of_z, which), axes) for axes, which in shares.items()
        ]
        norm = math.sqrt(sum(squares)) * factor
        if not math.isfinite(norm) and self.nonfinite != "ignore":
            if self.nonfinite == "skip":
                return math.nan
            self._raise_nonfinite(rows, moved, elsewhere=len(shares.keys() - {None}) > 0)
        if self.max_norm is None:
            return factor
        return factor * min(1.0, self.max_norm / (norm + 1e-6))  # as torch.nn.utils.clip_grad_norm_

    def _cuda_clipping(
        self, groups: list[tuple[Any, ...]], rows: list[Any], moved: list[Any], found_inf: Any
    ) -> _cuda_step.Clipping | None:
        """The same of what lies on a GPU, where the step finds it; only "raise" waits for it."""
        if not self._limits_gradients:
            return None
        of_z = self.max_norm is not None and self.norm_space == "z"
        squares = self._cuda_stepper.sum_of_squares(groups, of_z)
        if self.nonfinite == "raise":
            _torch_cuda.refuse_capture(squares.device, 'nonfinite: "raise" waits', '"skip"')
            found = found_inf is not None and float(found_inf) != 0  # then GradScaler skips the step
            if not found and not math.isfinite(float(squares)):
                self._raise_nonfinite(rows, moved, elsewhere=False)
        most = math.inf if self.max_norm is None else self.max_norm
        return _cuda_step.Clipping(squares, most, self.nonfinite == "skip")

    def _raise_nonfinite(self, rows: list[Any], moved: list[Any], elsewhere: bool) -> NoReturn:
        """Raise which gradients are not finite, here or in another process."""
        for row, (_, group, index, chosen) in zip(rows, moved, strict=True):
            bad = ~torch.isfinite(row[4])
            if chosen is not None:
                bad &= torch.zeros_like(bad).index_fill_(0, chosen, True)
            if count := int(bad.sum()):
                first = tuple(int(i) for i in bad.nonzero()[0])
                name = self._name(group, index)
                raise FloatingPointError(f"{name}: {count} gradients are not finite, first at index {first}")
        if elsewhere:
            raise FloatingPointError("gradients of another process are not finite, or their norm overflows")
        raise FloatingPointError("the norm of the gradients overflows")

    def _explain(self, bad: int, rows: list[Any], moved: list[Any]) -> None:
        """Raise what is wrong with a parameter that the native step cannot take."""
        for i in range(len(rows)) if bad < 0 else [bad]:
            name = self._explain_row(rows[i], moved[i])
            count = rows[i][8]
            if not ((count >= 0) & (count < _MOST_STEPS)).all():
                raise ValueError(
                    f"{name}: step: must be a number of steps, got {float(count.min()):g} to "
                    f"{float(count.max()):g}"
                )
        if bad >= 0:
            raise ValueError(
                f"{name}: its memory overlaps that of its gradient, its state or another parameter"
            )

    def _explain_row(self, row: tuple[Any, ...], moved: tuple[Any, ...]) -> str:
        """Raise what is wrong with the buffers of a parameter; its name."""
        p, grad, z, *moments = row[3:8]
        group, index = moved[1:3]
        name = self._name(group, index)
        _refuse(p, name)
        _refuse_memory(grad, f"{name}: gradient")
        if grad.shape != p.shape:
            raise ValueError(f"{name}: gradient of shape {tuple(grad.shape)} for {tuple(p.shape)}")
        if computed_dtype(grad) != computed_dtype(p):
            raise TypeError(f"{name}: gradient of dtype {grad.dtype} for {p.dtype}; {_SUPPORTED}")
        dtypes: tuple[torch.dtype, ...] = (computed_dtype(p),)
        for key, buffer in (("z", p if z is None else z), *zip(self._moments, moments, strict=False)):
            if buffer is None:
                continue
            _refuse_memory(buffer, f"{name}: its state {key!r}")
            if buffer.shape != p.shape or buffer.stride() != p.stride():
                raise ValueError(f"{name}: its state {key!r} has another layout than the parameter")
            if buffer.dtype not in dtypes:
                raise TypeError(f"{name}: its state {key!r} has dtype {buffer.dtype}; {_SUPPORTED}")
            dtypes = _moment_dtypes(p) if key == "z" else (buffer.dtype,)
        return name

    def _edited(self, p: Tensor, group: dict[str, Any], index: int) -> None:
        if self.on_edit == "raise":
            raise RuntimeError(f"{self._name(group, index)}: was edited since the last step; call resync()")
        self._resync(p, group, index)

    @torch.no_grad()
    def resync(self) -> None:
        """z = f(theta) anew, after an edit of theta; where f⁻¹(z) is theta already, z stays to the bit.

        Raises
        ------
        DomainError
            theta outside the domain of its map.
        """
        for group in self.param_groups:
            for index, p in enumerate(group["params"]):
                self._resync(p, group, index)

    def _resync(self, p: Tensor, group: dict[str, Any], index: int) -> None:
        z = self._synced_z(p, group, self._name(group, index))
        if "z" in self.state[p]:
            _shards.part(self.state[p]["z"], self._name(group, index)).copy_(z)
        self._versions[p] = _shards.version(p)

    def _synced_z(self, p: Tensor, group: dict[str, Any], name: str, rows: Tensor | None = None) -> Tensor:
        """f(theta), of some rows; but z to the bit where f⁻¹(z) is theta already."""
        m = self._map(p, group)
        theta, z = (_shards.part(x, name).detach() for x in (p, self.state[p].get("z", p)))
        if rows is not None:
            z, theta = z[rows], theta[rows]
        fresh = forward(theta.to(z.dtype), m, invalid="nan")
        # theta on a bound has no finite z, and needs none where it comes from one.
        changed = inverse(z, m, invalid="nan").to(p.dtype) != theta
        _refuse_undefined(changed & ~torch.isfinite(fresh), m, name, "edited values")
        return torch.where(changed, fresh, z)

    def state_dict(self) -> dict[str, Any]:
        """The state as torch has it, maps as plain data: it loads without fastmap."""
        result: dict[str, Any] = super().state_dict()
        for group in result["param_groups"]:
            group["map"] = group["map"].to_json()
        return result

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any], *, resync: bool = False) -> None:
        """Take over the state of such an optimizer, or of torch's own with the same rule.

        Parameters
        ----------
        state_dict : dict
            Of this class; or of the one of torch, whose moments become those of z by the derivative at theta.
        resync : bool
            Where a group was saved with another map: start anew from theta instead of refusing.

        Raises
        ------
        ValueError, TypeError
            The groups differ, or their maps do; or this is no such state. The optimizer is as it was.
        """
        try:
            groups = self._saved_groups(state_dict, resync)
        except (AttributeError, LookupError, OverflowError, RuntimeError) as error:
            raise ValueError(f"state_dict: is damaged, or none of an optimizer: {error!r}") from error
        saved_groups = state_dict["param_groups"]
        super().load_state_dict({**state_dict, "param_groups": groups})
        for saved, group in zip(saved_groups, self.param_groups, strict=True):
            other_map = saved.get("map", group["map"].to_json()) != group["map"].to_json()
            for index, (number, p) in enumerate(zip(saved["params"], group["params"], strict=True)):
                self._load(p, group, index, {} if other_map else state_dict["state"].get(number, {}))

    def _saved_groups(self, state_dict: dict[str, Any], resync: bool) -> list[dict[str, Any]]:
        """The groups with the options that were saved; nothing is taken over yet."""
        saved_groups = state_dict["param_groups"]
        if [len(g["params"]) for g in saved_groups] != [len(g["params"]) for g in self.param_groups]:
            raise ValueError("state_dict: its groups of parameters differ from those of this optimizer")
        if not all(isinstance(number, int | str) for g in saved_groups for number in g["params"]):
            raise ValueError("state_dict: its parameters are neither numbers nor names")
        maps = [group["map"] for group in self.param_groups]
        for saved, group in zip(saved_groups, self.param_groups, strict=True):
            for index, (number, p) in enumerate(zip(saved["params"], group["params"], strict=True)):
                self._check_saved(state_dict["state"].get(number, {}), p, self._name(group, index))
        for number, (saved, m) in enumerate(zip(saved_groups, maps, strict=True)):
            if "map" in saved and saved["map"] != m.to_json() and not resync:
                raise ValueError(
                    f"state_dict: group {number} was saved with the map {saved['map']}, and has "
                    f"{m.to_json()}; resync=True starts it anew from theta"
                )
        own_options = [{k: v for k, v in g.items() if k != "params"} for g in self.param_groups]
        groups = [
            {**own, **saved, "map": m} for own, saved, m in zip(own_options, saved_groups, maps, strict=True)
        ]
        for group in groups:
            self._native_group(group)  # which looks at every option
        return groups

    def _check_saved(self, saved: dict[str, Any], p: Tensor, name: str) -> None:
        """Refuse the state of another parameter."""
        for key, value in saved.items():
            if isinstance(value, Tensor) and value.layout is not torch.strided:
                raise ValueError(f"state_dict: {key!r} of {name} is {value.layout}, expected torch.strided")
        step = torch.as_tensor(saved.get("step", 0), dtype=torch.float32)
        if step.shape not in ((), p.shape[:1]) or not (step >= 0).all():
            raise ValueError(f"state_dict: the steps of {name} are no counts, one or one per row: {step}")
        for key in saved.keys() & ({"z"} | self.state[p].keys()) - {"step"}:
            value = saved[key]
            if not isinstance(value, Tensor) or value.shape != p.shape:
                shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"state_dict: {key!r} of {name} is {shape}, expected {tuple(p.shape)}")
            if is_sharded(value) != is_sharded(p):
                raise TypeError(
                    f"state_dict: {key!r} of {name} is a {type(value).__name__}, the parameter a "
                    f"{type(p).__name__}; use torch.distributed.checkpoint.state_dict"
                )

    def _load(self, p: Tensor, group: dict[str, Any], index: int, saved: dict[str, Any]) -> None:
        """The state of one parameter, in its own dtypes: torch has cast it to that of theta."""
        self.state[p] = {}
        self._start(p, group, index, saved.get("z"))
        state = self.state[p]
        if "step" in saved:
            device = state["step"].device
            state["step"] = torch.as_tensor(saved["step"], dtype=torch.float32, device=device).clone()
        for key in state.keys() & saved.keys() - {"step", "z"}:
            state[key].copy_(saved[key])
        if "z" in state and saved and "z" not in saved:  # no maps there: moments of the gradient in theta
            slope = inverse_jacobian(state["z"], group["map"])
            for power, key in enumerate(self._moments, start=1):
                if key in state and key in saved:
                    state[key].mul_(slope**power)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        names = ("max_norm", "norm_space", "nonfinite", "on_edit", "_capturable")
        return {**state, **{name: getattr(self, name) for name in names}, "_skipped": self.skipped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._stepper, self._cuda_stepper = _core.Stepper(), _cuda_step.CudaStepper()
        self._lock = threading.Lock()
        self._cut_maps = {}
        self._versions = {p: _shards.version(p) for group in self.param_groups for p in group["params"]}


def _moment_dtypes(p: Tensor) -> tuple[torch.dtype, ...]:
    """What the moments of a parameter may be stored in."""
    dtype = computed_dtype(p)
    return (dtype, torch.bfloat16) if dtype == torch.float32 else (dtype,)


def _refuse(p: Tensor, name: str) -> None:
    """What cannot be a parameter, nor what this process holds of one."""
    if torch.nn.parameter.is_lazy(p):
        raise ValueError(f"{name}: is not initialised yet; run the model once")
    own = _shards.part(p, name)
    _refuse_memory(own, name)
    if own.is_inference():
        raise RuntimeError(f"{name}: is an inference tensor")
    if torch.empty_like(own).stride() != own.stride():  # which keeps the order of dense ones only
        raise ValueError(f"{name}: its memory is not dense")


def _refuse_undefined(bad: Tensor, m: Map, name: str, what: str) -> None:
    if bad.any():
        first, count = tuple(int(i) for i in bad.nonzero()[0]), int(bad.sum())
        text = f"{name}: {count} {what} are outside the domain of {m!r}, first at index {first}"
        raise DomainError(text, name, count, first)


def _refuse_memory(x: Tensor, name: str) -> None:
    """Tensors that are not numbers in memory, to be read as they lie there."""
    kind = type(x.detach())
    if kind is not Tensor or x.is_nested:
        what = "nested tensor" if kind is Tensor else f"tensor subclass {kind.__name__}"
        raise TypeError(f"{name}: {what} is not supported")
    if x.device.type not in ("cpu", "cuda"):
        raise ValueError(f"{name}: device {x.device} is not supported; use a tensor on the CPU or on CUDA")
    if x.layout is not torch.strided:
        raise TypeError(f"{name}: layout {x.layout} is not supported; use a dense tensor")
    if x.dtype not in _STORED:
        raise TypeError(f"{name}: dtype {x.dtype} is not supported; {_SUPPORTED}")
    if x.is_neg():
        raise TypeError(f"{name}: has the negative bit set; call resolve_neg() on it")
    if x._is_zerotensor() or (x.numel() and not x.data_ptr()):
        raise ValueError(f"{name}: has no memory, or it was freed")


class Adam(MappedOptimizer):
    """Adam in the mapped space: ``torch.optim.Adam`` with bounds and scales.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay, decoupled_weight_decay
        As in torch.
    amsgrad : bool
        ValueError where True: the running maximum is not kept.
    **options
        `map`, `gradient`, `max_norm` and the others of `MappedOptimizer`.
    """

    _rule = "adam"
    _moments = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        if amsgrad:
            raise ValueError("amsgrad: must be False, the running maximum is not kept")
        rule = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, rule, **options)


class AdamW(Adam):
    """AdamW in the mapped space: `Adam` with decoupled weight decay.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay, amsgrad, **options
        Those of `Adam`.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, decoupled_weight_decay=True, **options
        )


class SGD(MappedOptimizer):
    """Stochastic gradient descent in the mapped space, with momentum and Nesterov's variant.

    Parameters
    ----------
    params, lr, momentum, dampening, weight_decay, nesterov
        As in torch.
    **options
        `map`, `gradient`, `max_norm` and the others of `MappedOptimizer`.
    """

    _rule = "sgd"
    _moments = ("momentum_buffer",)

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        **options: Unpack[Options],
    ) -> None:
        rule = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": False,
            "nesterov": nesterov,
        }
        super().__init__(params, rule, **options)

    def _moments_of(self, group: dict[str, Any]) -> tuple[str, ...]:
        return self._moments if group["momentum"] else ()


class MirrorDescent(SGD):
    """Mirror descent: z moves along the gradient in theta. With `Log`, the exponentiated gradient.

    The mirror map is the map: theta = f⁻¹(z), z ← z − lr dL/dtheta (Beck and Teboulle 2003).

    Parameters
    ----------
    params, lr
        As in torch.
    **options
        Those of `SGD`, without `gradient`.
    """

    def __init__(self, params: Any, lr: float | Tensor = 1e-3, **options: Any) -> None:
        super().__init__(params, lr, gradient="dual", **options)


class Lion(MappedOptimizer):
    """Lion in the mapped space: steps of one size, by the sign of a momentum (Chen et al. 2023).

    Parameters
    ----------
    params, lr, betas, weight_decay
        Weight decay is decoupled, as in the paper.
    **options
        `map`, `gradient`, `max_norm` and the others of `MappedOptimizer`.
    """

    _rule = "lion"
    _moments = ("exp_avg",)

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        rule = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "decoupled_weight_decay": True}
        super().__init__(params, rule, **options)


@torch.no_grad()
def convert_lr(lr: float, theta: Tensor, map: MapLike, to: Literal["z", "theta"] = "z") -> float:
    """A learning rate of one space in the other.

    Adam and Lion move every element by about `lr` per step. A step dz moves theta by dtheta/dz · dz, so the
    rate that moves the median element of theta as before is lr · median |dz/dtheta|. Gradient descent
    multiplies by the derivative twice; tune its rate anew.

    Parameters
    ----------
    lr : float
        The learning rate in the other space.
    theta : tensor
        The parameter.
    map : Map or str
        Its map.
    to : {"z", "theta"}
        The space of the result.

    Returns
    -------
    float
    """
    one_of("to", to, ("z", "theta"))
    slope = float(jacobian(theta.detach(), map).abs().median())
    return lr * slope if to == "z" else lr / slope
