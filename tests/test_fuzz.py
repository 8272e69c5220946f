"""A little of what `fuzz_binding.py` plays for as long as one likes."""

from __future__ import annotations

import fuzz_binding
import pytest

NEEDS = {"result": "optuna", "storage": "optuna", "state": "torch"}


@pytest.mark.parametrize("name", fuzz_binding.TARGETS)
def test_only_documented_errors_leave(name: str) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    for seed in range(50 if name == "storage" else 300):
        fuzz_binding.play(name, seed)
