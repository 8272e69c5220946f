"""torch: optimizers whose parameters move in a mapped space, and maps in torch's own places.

Needs the extra ``fastmap[torch]``.
"""

from fastmap.torch._fit import fit
from fastmap.torch._modules import (
    Mapped,
    MapTransform,
    Parametrization,
    as_transform,
    from_constraint,
    parametrization,
    register_transforms,
    space,
    to_constraint,
)
from fastmap.torch._mup import mup_init_, mup_rules
from fastmap.torch._optim import SGD, Adam, AdamW, Lion, MappedOptimizer, MirrorDescent, convert_lr
from fastmap.torch._suggest import suggest

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Lion",
    "MapTransform",
    "Mapped",
    "MappedOptimizer",
    "MirrorDescent",
    "Parametrization",
    "as_transform",
    "convert_lr",
    "fit",
    "from_constraint",
    "mup_init_",
    "mup_rules",
    "parametrization",
    "register_transforms",
    "space",
    "suggest",
    "to_constraint",
]
