"""fastmap: search a parameter space that is easier to search, at memory speed.

z = f(theta); minimise loss(f⁻¹(z)); the best point comes back as theta. `forward` goes from parameters
to search space, `inverse` comes back. See `catalog` for the maps and `minimize` for the search.
"""

from fastmap._audit import Audit, audit
from fastmap._circular import Circular
from fastmap._custom import Custom
from fastmap._errors import DomainError
from fastmap._functional import (
    forward,
    forward_and_log_det,
    inverse,
    inverse_and_log_det,
    inverse_jacobian,
    inverse_log_abs_det,
    jacobian,
    log_abs_det,
    pullback,
)
from fastmap._info import __version__, catalog, get_num_threads, info, set_num_threads
from fastmap._linear import Linear, whitened
from fastmap._map import Chain, Inverse, Map
from fastmap._structured import StructuredMap
from fastmap._suggest import Suggestion, suggest
from fastmap._table import Table
from fastmap._trials import suggest_from
from fastmap.constraints import default_map, mirror, set_default_map, weibull
from fastmap.maps import *  # noqa: F403 (the classes of the catalog)
from fastmap.maps import __all__ as _map_names
from fastmap.search import Record, Result, Search, Trial, minimize
from fastmap.space import Param, Space
from fastmap.structured import *  # noqa: F403 (the classes of their catalog)
from fastmap.structured import __all__ as _structured_names
from fastmap.subspace import Subspace

constrain = inverse
unconstrain = forward

__all__ = [
    "Audit",
    "Chain",
    "Circular",
    "Custom",
    "DomainError",
    "Inverse",
    "Linear",
    "Map",
    "Param",
    "Record",
    "Result",
    "Search",
    "Space",
    "StructuredMap",
    "Subspace",
    "Suggestion",
    "Table",
    "Trial",
    "__version__",
    "audit",
    "catalog",
    "constrain",
    "default_map",
    "forward",
    "forward_and_log_det",
    "get_num_threads",
    "info",
    "inverse",
    "inverse_and_log_det",
    "inverse_jacobian",
    "inverse_log_abs_det",
    "jacobian",
    "log_abs_det",
    "minimize",
    "mirror",
    "pullback",
    "set_default_map",
    "set_num_threads",
    "suggest",
    "suggest_from",
    "unconstrain",
    "weibull",
    "whitened",
]
__all__ += _map_names  # noqa: PLE0605 (a list, whatever the linter can tell)
__all__ += _structured_names  # noqa: PLE0605
