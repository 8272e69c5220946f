"""The table of surviving mutants is about the source as it is; `tests/mutate.py` has the rest."""

from __future__ import annotations

import json

import mutate


def test_every_survivor_is_a_mutant_and_has_a_reason() -> None:
    rows = json.loads(mutate.TABLE.read_text())
    for row in rows:
        assert row.pop("reason")
        assert row in [m.row() for m in mutate.mutants(row["file"])]


def test_signs_comparisons_and_constants_are_changed_and_nothing_else() -> None:
    code = """  return a.low - x * -0.5f;  // 1 - 2
  if (x <= 3) return -y;"""
    mutated = {code[:start] + new + code[end:] for start, end, new in mutate.changes(mutate.code_of(code))}
    assert mutated == {
        code.replace("low - x", "low + x"),
        code.replace("-0.5f", "0.5f"),
        code.replace("0.5f", "(0.5f * 0x1.004p0f)"),
        code.replace("<=", "<"),
        code.replace("3)", "(3 + 1))"),
        code.replace("-y", "y"),
    }
    assert set(mutate.maps_of("maps/log_base.hpp")) == {"Log2", "Log10"}
