"""Maps where torch has a place of its own for such things: parametrizations, transforms, constraints."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Transform, biject_to, constraints, transform_to

from fastmap._functional import forward, inverse, inverse_log_abs_det, pullback
from fastmap._map import Map, MapLike, resolve
from fastmap.constraints import default_map
from fastmap.space import Param, Space

Constraint: TypeAlias = constraints.Constraint


class Parametrization(nn.Module):
    """theta = f⁻¹(z) for ``torch.nn.utils.parametrize``: z is the parameter, theta what the module sees."""

    def __init__(self, map: MapLike) -> None:
        super().__init__()
        self.map = resolve(map)

    def forward(self, z: Tensor) -> Tensor:
        """theta = f⁻¹(z)."""
        return inverse(z, self.map)

    def right_inverse(self, theta: Tensor) -> Tensor:
        """z = f(theta), when a value is assigned; DomainError outside the domain."""
        return forward(theta, self.map)

    def extra_repr(self) -> str:
        return repr(self.map)


def parametrization(map: MapLike) -> Parametrization:
    """A map for ``torch.nn.utils.parametrize.register_parametrization``.

    Parameters
    ----------
    map : Map or str
        The map; the module's tensor becomes f⁻¹ of an unconstrained parameter.

    Returns
    -------
    Parametrization

    Notes
    -----
    theta is computed at every access, inside the graph. The optimizers of this module keep theta as the
    parameter and have no such cost; this is for what needs z as one: second-order methods, for instance.
    """
    return Parametrization(map)


class MapTransform(Transform):
    """A map as a transform of ``torch.distributions``. Its call is our `inverse`: from z to theta."""

    bijective = True

    def __init__(self, map: MapLike, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        self.map = resolve(map)
        if self.map.shape != ():
            raise ValueError("map: a transform needs parameters that are numbers")
        self.bijective = not getattr(self.map, "folded", False)

    @property
    def domain(self) -> Constraint:
        """Where z lies: the codomain of the map."""
        return _interval_constraint(*self.map.codomain)

    @property
    def codomain(self) -> Constraint:
        """Where theta lies: the domain of the map."""
        return _interval_constraint(*self.map.domain)

    @property
    def sign(self) -> int:
        """+1 where theta grows with z, else -1."""
        return 1 if self.map.increasing else -1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MapTransform) and other.map == self.map

    def __hash__(self) -> int:
        return hash(self.map)

    def __repr__(self) -> str:
        return f"as_transform({self.map!r})"

    def with_cache(self, cache_size: int = 1) -> MapTransform:
        """The same transform with a cache."""
        return self if self._cache_size == cache_size else MapTransform(self.map, cache_size)

    def _call(self, x: Tensor) -> Tensor:
        return inverse(x, self.map)

    def _inverse(self, y: Tensor) -> Tensor:
        return forward(y, self.map)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """log|dtheta/dz| at z = x, elementwise."""
        return inverse_log_abs_det(x, self.map, axis=())


def as_transform(map: MapLike, cache_size: int = 0) -> MapTransform:
    """A map as a ``torch.distributions.Transform``.

    Parameters
    ----------
    map : Map or str
        The map. torch calls its inverse forward: the transform takes z to theta.
    cache_size : int
        As in torch.

    Returns
    -------
    MapTransform
    """
    return MapTransform(map, cache_size)


def _interval_constraint(low: float, high: float) -> Constraint:
    if math.isinf(low) and math.isinf(high):
        return constraints.real
    if math.isinf(high):
        return constraints.greater_than(low)
    return constraints.less_than(high) if math.isinf(low) else constraints.interval(low, high)


def to_constraint(map: MapLike) -> Constraint:
    """The constraint of torch that theta in the domain of a map satisfies.

    Parameters
    ----------
    map : Map or str
        The map, with parameters that are numbers.

    Returns
    -------
    torch.distributions.constraints.Constraint
    """
    return as_transform(map).codomain


def from_constraint(constraint: Constraint) -> Map:
    """The default map (`fastmap.default_map`) of a constraint of torch.

    Parameters
    ----------
    constraint : torch.distributions.constraints.Constraint
        Real numbers, one bound or two; also where ``independent`` wraps such a one.

    Returns
    -------
    Map

    Raises
    ------
    ValueError
        A constraint that ties elements together, or on integers.
    """
    if isinstance(constraint, constraints.independent):
        return from_constraint(constraint.base_constraint)
    if constraint is constraints.real:
        return default_map("real")
    low, high = (_bound(constraint, name) for name in ("lower_bound", "upper_bound"))
    if constraint.is_discrete or (low is None and high is None):
        raise ValueError(f"constraint: no elementwise map goes with {constraint!r}")
    if high is None:
        return default_map("greater_than", low)
    return default_map("less_than", high) if low is None else default_map("interval", low, high)


def _bound(constraint: Constraint, name: str) -> Any:
    bound = getattr(constraint, name, None)
    return bound.detach().cpu().numpy() if isinstance(bound, Tensor) else bound


def register_transforms() -> None:
    """Let ``biject_to`` and ``transform_to`` of torch give the default maps, everywhere in this process."""
    one_bound = [constraints.greater_than, constraints.greater_than_eq, constraints.less_than]
    for registry in (biject_to, transform_to):
        for kind in (*one_bound, constraints.interval, constraints.half_open_interval, constraints.real):
            registry.register(kind, lambda constraint: as_transform(from_constraint(constraint)))


Rule: TypeAlias = tuple[str | type[nn.Module] | Constraint, MapLike | None]


def space(module: nn.Module, rules: Iterable[Rule]) -> Space:
    """A `Space` of the parameters of a module, chosen by name, by the type of their module, or by constraint.

    Parameters
    ----------
    module : torch.nn.Module
        Its parameters, as ``named_parameters()`` has them.
    rules : iterable of (pattern, type or constraint, map)
        The first rule that fits a parameter gives its map. A str is a pattern for the name ("*.scale"), a
        type that of the module which holds it; a constraint fits where all values satisfy it. The map None
        takes that of the constraint, or the identity. Parameters that no rule fits are left out.

    Returns
    -------
    Space
        Its buffers by name are those of the parameters; `init` is their present value.
    """
    holders = {
        f"{prefix}.{name}" if prefix else name: holder
        for prefix, holder in module.named_modules()
        for name, _ in holder.named_parameters(recurse=False)
    }
    chosen = {}
    rules = list(rules)
    for name, p in module.named_parameters():
        for what, m in rules:
            if _fits(what, name, p, holders[name]):
                if m is None:
                    m = from_constraint(what) if not isinstance(what, str | type) else "identity"
                chosen[name] = Param(map=m, shape=tuple(p.shape), init=p.detach().double().cpu().numpy())
                break
    if not chosen:
        raise ValueError("rules: none of them fits a parameter of the module")
    return Space(chosen)


def _fits(what: str | type[nn.Module] | Constraint, name: str, p: Tensor, holder: nn.Module) -> bool:
    if isinstance(what, str):
        return fnmatch.fnmatchcase(name, what)
    if isinstance(what, type):
        return isinstance(holder, what)
    return bool(what.check(p.detach()).all())


class Mapped(torch.optim.Optimizer):
    """Any optimizer of torch, in a mapped space: it moves z, and theta = f⁻¹(z) follows.

    Parameters
    ----------
    optimizer : type
        A subclass of ``torch.optim.Optimizer``, L-BFGS included.
    params : iterable
        Parameters or groups, as the optimizer takes them. A group may have its own ``map``.
    map : Map or str, optional
        The map of the others. None: the identity.
    **options
        Those of the optimizer.

    Notes
    -----
    Three passes instead of one: where `SGD`, `Adam`, `AdamW` or `Lion` of this module do, they are faster.
    """

    def __init__(
        self,
        optimizer: type[torch.optim.Optimizer],
        params: Any,
        *,
        map: MapLike | None = None,
        **options: Any,
    ) -> None:
        self._default = "identity" if map is None else map
        self._class, self._options = optimizer, options
        self._inner: torch.optim.Optimizer | None = None
        super().__init__(params, {"map": self._default})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with options of their own; see torch."""
        group = dict(param_group)
        group["map"] = m = resolve(group.get("map", self._default))
        super().add_param_group(group)
        added = self.param_groups[-1]
        try:
            zs = [nn.Parameter(forward(p.detach(), m), requires_grad=False) for p in added["params"]]
        except BaseException:
            self.param_groups.pop()
            raise
        for p, z in zip(added["params"], zs, strict=True):
            self.state[p]["z"] = z
        inner = {k: v for k, v in added.items() if k not in ("params", "map", "param_names")} | {"params": zs}
        if self._inner is None:
            self._inner = self._class([inner], **self._options)
        else:
            self._inner.add_param_group(inner)
        added.update({k: v for k, v in self._inner.param_groups[-1].items() if k != "params"})

    @torch.no_grad()
    @torch.compiler.disable
    def step(self, closure: Any = None) -> Any:
        """Take one step; with a closure as often as the optimizer evaluates it."""
        assert self._inner is not None
        for group, inner in zip(self.param_groups, self._inner.param_groups, strict=True):
            inner.update({k: v for k, v in group.items() if k not in ("params", "map", "param_names")})

        def evaluate() -> Any:
            with torch.no_grad():
                self._write()
            with torch.enable_grad():
                loss = closure()
            with torch.no_grad():
                self._pull()
            return loss

        if closure is None:
            self._pull()
        result = self._inner.step(None if closure is None else evaluate)
        self._write()
        return result

    def _pull(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                z = self.state[p]["z"]
                z.grad = None if p.grad is None else pullback(p.grad.to(z.dtype), z.detach(), group["map"])

    def _write(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.copy_(inverse(self.state[p]["z"].detach(), group["map"]))

    def state_dict(self) -> dict[str, Any]:
        """As torch has it: z by parameter, the state of the optimizer under "inner", maps as plain data."""
        assert self._inner is not None
        result: dict[str, Any] = super().state_dict()
        result["state"] = {i: {"z": state["z"].detach()} for i, state in result["state"].items()}
        for group in result["param_groups"]:
            group["map"] = group["map"].to_json()
        return {**result, "inner": self._inner.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of such an optimizer with the same maps."""
        assert self._inner is not None
        saved = state_dict["param_groups"]
        maps = [group["map"] for group in self.param_groups]
        if [group["map"] for group in saved] != [m.to_json() for m in maps]:
            raise ValueError("state_dict: it was saved with other maps")
        self._inner.load_state_dict(state_dict["inner"])
        for own, other in zip(self.param_groups, saved, strict=True):
            own.update({k: v for k, v in other.items() if k not in ("params", "map", "param_names")})
            for p, number in zip(own["params"], other["params"], strict=True):
                self.state[p]["z"].copy_(state_dict["state"][number]["z"])
