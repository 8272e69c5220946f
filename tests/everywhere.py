"""Maps, their arguments and every public function, for the tests of each framework."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastmap as fm
from fastmap.maps import CLASSES

MAPS = [cls(**example) for cls in CLASSES for example in cls.entry["examples"]]
DEFAULTS = [cls() for cls in CLASSES]
CHAIN = fm.Chain(fm.Softplus(low=0.1), fm.Affine(1, 2), fm.Asinh())
COLUMNS = fm.Interval(low=[0, -np.inf, 0], high=[1, 5, np.inf])
SPACE = fm.Space(a=fm.Param(0, 1, shape=(2, 2)), b=fm.Param(low=0), c=fm.Param(map="asinh", shape=3))


def inside(m: fm.Map, shape: Any = (4, 3), dtype: Any = np.float64) -> np.ndarray:
    """theta well inside the domain."""
    low, high = m.domain
    low, high = np.maximum(low, -4.0), np.minimum(high, np.maximum(low, -4.0) + 5.0)
    unit = np.random.default_rng(0).uniform(0.05, 0.95, shape)
    return np.asarray(low + (high - low) * unit).astype(dtype)


def every_function(theta: Any, z: Any, m: Any) -> dict[str, Any]:
    results = {
        "forward": fm.forward(theta, m),
        "inverse": fm.inverse(z, m),
        "jacobian": fm.jacobian(theta, m),
        "inverse_jacobian": fm.inverse_jacobian(z, m),
        "pullback": fm.pullback(theta, z, m),
        "log_abs_det": fm.log_abs_det(theta, m),
        "terms": fm.inverse_log_abs_det(z, m, axis=()),
        "pair": fm.forward_and_log_det(theta, m),
        "back": fm.inverse_and_log_det(z, m),
    }
    if len(theta.shape) == 2:
        results["columns"] = fm.log_abs_det(theta, m, axis=0)
        results["rows"] = fm.inverse_log_abs_det(z, m, axis=-1)
    return results
