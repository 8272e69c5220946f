"""Which operation of a map is the derivative of which, for the frameworks that differentiate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# d op / dx as an op, where there is one; the second derivatives of the map are
# f'' = f' (log |f'|)', which `chain_rule` writes as a product.
DERIVATIVE = {
    "forward": "jacobian",
    "inverse": "inverse_jacobian",
    "log_abs_det": "log_abs_det_grad",
    "inverse_log_abs_det": "inverse_log_abs_det_grad",
}
LOG_DERIVATIVE = {
    "jacobian": "log_abs_det_grad",
    "inverse_jacobian": "inverse_log_abs_det_grad",
}

# A third derivative would be one more formula in every map, for which optimizers have no use.
NO_THIRD = "third derivatives of a map are not available: it is differentiable twice"


def chain_rule(grad: Any, op: str, evaluate: Callable[[str], Any]) -> Any:
    """grad times the derivative of op, from ops at the same point."""
    if op in LOG_DERIVATIVE:
        return grad * evaluate(op) * evaluate(LOG_DERIVATIVE[op])
    if op not in DERIVATIVE:
        raise NotImplementedError(NO_THIRD)
    return grad * evaluate(DERIVATIVE[op])
