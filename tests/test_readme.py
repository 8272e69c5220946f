"""Every Python example of the README and of the documentation runs.

Those of Ray, TensorFlow, ConfigSpace and BoTorch: test_ray.py, test_tensorflow.py, test_configspace.py,
test_botorch.py; that of CUDA needs a GPU.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = {
    f"{page.name}:{number}": code
    for page in PAGES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL), 1)
    if not re.search(r"from ray|import (tensorflow|keras|ConfigSpace)|from botorch|\"cuda\"", code)
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[name], name, "exec"), {"__name__": "example"})


def test_the_readme_names_every_map() -> None:
    from fastmap.maps import CLASSES

    table = TEXT[TEXT.index("| for | maps |") :]
    for cls in CLASSES:
        assert re.search(rf"`{cls.__name__}[`(]", table), cls.__name__
