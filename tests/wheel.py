"""What an installed wheel has to pass, with NumPy alone and no compiler: ``python tests/wheel.py``.

Every bit on record, on every instruction set that the machine has; a search; the size of the extension.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import hashes
import numpy as np

import fastmap as fm
from fastmap import _core

LARGEST = 40 << 20  # bytes of the extension, not compressed


def check_bits() -> None:
    recorded = json.loads(hashes.PATH.read_text())
    for entry in fm.catalog():
        assert hashes.hashes(entry) == recorded[entry["name"]], entry["name"]
    print(f"{fm.info()['isa']}: the bits of {len(recorded)} maps are those on record")


def check_search() -> None:
    space = fm.Space(x=fm.Param(1e-6, 1.0, map="log"), y=fm.Param(0.5, 0.9999, map="one_minus_log"))
    result = fm.minimize(
        lambda p: np.log(p["x"] / 1e-3) ** 2 - p["y"], space, method="pgpe", budget=100, seed=0
    )
    assert result.loss < result.history[0].loss


def main() -> None:
    if len(sys.argv) == 1:
        assert "site-packages" in str(Path(fm.__file__)), f"{fm.__file__} is not what was installed"
        size = Path(_core.__file__).stat().st_size
        assert size < LARGEST, f"the extension has {size} bytes"
        for isa in fm.info()["isas"]:
            environment = {**os.environ, "FASTMAP_ISA": isa}
            subprocess.run([sys.executable, __file__, "bits"], env=environment, check=True)
        check_search()
        print(f"fastmap {fm.__version__} works; the extension has {size / 2**20:.1f} MiB")
    else:
        check_bits()


if __name__ == "__main__":
    main()
