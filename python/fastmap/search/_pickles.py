"""What Optuna's CMA-ES keeps in a study: a pickle, which could run anything, and is looked through first."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Sequence
from typing import Any

_PART = re.compile(r"(\w+:optimizer):(\d+)")  # the attributes of a trial that hold it, in parts
# What such a state is made of. Nothing here does more than to hold numbers.
_NUMPY = [
    (f"numpy.{core}.multiarray", name) for core in ("_core", "core") for name in ("_reconstruct", "scalar")
]
_NUMPY += [(f"numpy.{core}.numeric", "_frombuffer") for core in ("_core", "core")]
_NUMPY += [("numpy.random._pickle", f"__{kind}_ctor") for kind in ("randomstate", "bit_generator")]
_ALLOWED = {
    ("cmaes._cma", "CMA"),
    ("cmaes._cmawm", "CMAwM"),
    ("cmaes._sepcma", "SepCMA"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.random._mt19937", "MT19937"),
    *_NUMPY,
}


class _Reader(pickle.Unpickler):
    """Refuses a name before it is imported."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def check_state(trials: Sequence[Any]) -> None:
    """Look through what Optuna's CMA-ES will unpickle when it goes on with these trials.

    Raises
    ------
    ValueError
        A state that holds anything but the numbers of CMA-ES, or none at all.
    """
    for trial in trials:
        parts: dict[str, dict[int, str]] = {}
        for key, value in trial.system_attrs.items():
            if found := _PART.fullmatch(key):
                parts.setdefault(found[1], {})[int(found[2])] = value
        for texts in parts.values():
            try:
                _Reader(io.BytesIO(bytes.fromhex("".join(texts[i] for i in range(len(texts)))))).load()
            except Exception as error:  # damaged pickles raise almost anything
                raise ValueError(
                    f"storage: the state of CMA-ES in trial {trial.number} is none, and could run code "
                    f"when it is loaded ({error}); resume with another method"
                ) from error
