"""What is installed and in use."""

from __future__ import annotations

from typing import Any

from fastmap import _core

__version__: str = _core.info()["version"]

set_num_threads = _core.set_num_threads
get_num_threads = _core.get_num_threads


def catalog() -> list[dict[str, Any]]:
    """Every map: name, class, parameters, domain, formulas (t is theta), stated bounds in ULP.

    Returns
    -------
    list of dict
        One entry per map; a new list at each call.
    """
    return _core.catalog()


def info() -> dict[str, Any]:
    """Version, instruction set in use and available, threads, CUDA, frameworks installed.

    Returns
    -------
    dict
        ``cuda``: whether the module for NVIDIA GPUs was built; ``frameworks``: the versions of those that are
        installed. None is imported for it.
    """
    from importlib import metadata, util

    frameworks = {}
    for name in ("numpy", "torch", "tensorflow", "tensorflow-cpu", "keras", "jax", "optuna"):
        try:
            frameworks[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    cuda = util.find_spec("fastmap._cuda") is not None
    return {**_core.info(), "cuda": cuda, "frameworks": frameworks}
