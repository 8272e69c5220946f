"""The search: any method in the mapped space, results in parameters.

fastmap owns the map and leaves the search to others: Optuna, cmaes, SciPy and torch.optim work on z; the one
sampler of its own, for very many numbers, is in `_vector`. The objective always receives theta.

`minimize` is a loop over `Search`, which asks an engine for a point and tells it the loss. `_methods` has one
line per method; `_engine` says what an engine is; `_tuner`, `_vector` and `_gradient` are the engines.
`_workers` is for searches that several processes share.
"""

from fastmap.search._engine import Finished
from fastmap.search._methods import METHODS
from fastmap.search._minimize import minimize
from fastmap.search._result import Choice, Record, Result
from fastmap.search._search import Search, Trial, load

__all__ = ["METHODS", "Choice", "Finished", "Record", "Result", "Search", "Trial", "load", "minimize"]
