"""Draws the pictures of docs/choosing.md: the maps that the page names, by fastmap itself.

    python docs/pictures.py                  # docs/pictures/*.svg
    python docs/pictures.py --out DIR --png

The page is the list: a section has one picture, and lines that start with the call of a map, which is drawn.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastmap as fm

DOCS = Path(__file__).parent
PICTURE = re.compile(r"^!\[.*\]\(pictures/(\w+)\.svg\)$", re.MULTILINE)
CALL = re.compile(r"^- `([A-Z]\w*\(.*?\))`", re.MULTILINE)
SAMPLES = 1 << 16

# What is shown of theta and of z.
WINDOWS = {
    "units": ((-3, 3), (-3, 3)),
    "decades": ((0, 5), (-3, 3)),
    "linear": ((0, 5), (-3, 3)),
    "near_one": ((0, 1), (-2, 6)),
    "bounded": ((-0.02, 1.02), (-5, 5)),
    "closed": ((-0.02, 1.02), (-1, 2)),
    "signed": ((-20, 20), (-5, 5)),
    "bent": ((-3, 3), (-5, 5)),
    "skewed": ((-3, 5), (-3, 3)),
}


def families() -> dict[str, list[fm.Map]]:
    """The maps of every picture, by its name, from the page."""
    text = (DOCS / "choosing.md").read_text()
    found = list(PICTURE.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    return {
        match[1]: [map_of(call) for call in CALL.findall(text[match.end() : end])]
        for match, end in zip(found, ends, strict=True)
    }


def map_of(call: str) -> fm.Map:
    """The map of a call with literal keywords."""
    node = ast.parse(call, mode="eval").body
    assert isinstance(node, ast.Call)
    assert isinstance(node.func, ast.Name)
    parameters = {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
    found: fm.Map = getattr(fm, node.func.id)(**parameters)
    return found


def draw(name: str, maps: Sequence[fm.Map]) -> Any:
    """A figure of four panels: f, its inverse, the slope of the inverse, the error in float32."""
    from matplotlib.figure import Figure

    theta_window, z_window = WINDOWS[name]
    figure = Figure(figsize=(11, 2.9), layout="constrained")
    there, back, slope, error = figure.subplots(1, 4)
    for number, m in enumerate(maps):
        style: dict[str, Any] = {"color": f"C{number}", "linewidth": 1.4, "label": repr(m)}
        theta = _grid(theta_window, m.domain)
        z = _grid(z_window, m.codomain)
        there.plot(theta, fm.forward(theta, m, invalid="nan"), **style)
        back.plot(z, fm.inverse(z, m), **style)
        slope.plot(z, np.abs(fm.inverse_jacobian(z, m)), **style)
        worst = errors(m, z_window)
        error.barh([number - 0.18, number + 0.18], worst, height=0.3, color=f"C{number}")
    there.set(xlabel="θ", ylabel="z = f(θ)", xlim=theta_window, ylim=z_window)
    back.set(xlabel="z", ylabel="θ = f⁻¹(z)", xlim=z_window, ylim=theta_window)
    slope.set(xlabel="z", ylabel="|dθ/dz|", xlim=z_window, yscale="log", ylim=_decades(slope))
    error.axvline(2, color="black", linewidth=0.8, linestyle=":")
    rows = (max(len(maps), 4) - 0.5, -0.5)  # the first one on top
    error.set(xlabel="worst error, float32 ULP: f, f⁻¹", xlim=(0, 2.1), ylim=rows, yticks=[])
    for axes in (there, back, slope):
        axes.grid(alpha=0.25)
    figure.legend(*there.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def errors(m: fm.Map, z_window: tuple[float, float]) -> tuple[float, float]:
    """The worst error of f and of its inverse over the window, of float32 against float64, in ULP."""
    parameters = {name: float(np.float32(value)) for name, value in m.params.items()}
    m = type(m)(**parameters)  # of both dtypes the same map
    z = _grid(z_window, m.codomain, SAMPLES).astype(np.float32)
    theta = fm.inverse(z, m)
    low, high = m.domain
    inside = theta[(theta > low) & (theta < high)]
    return _ulp(fm.forward, inside, m), _ulp(fm.inverse, z, m)


def _ulp(function: Any, x: NDArray[np.float32], m: fm.Map) -> float:
    true = function(x.astype(np.float64), m)
    unit = np.spacing(np.abs(true).astype(np.float32)).astype(np.float64)
    return float(np.max(np.abs(function(x, m) - true) / unit))


def _grid(window: tuple[float, float], ends: tuple[float, float], count: int = 401) -> NDArray[np.float64]:
    """Evenly spaced numbers of the window that lie between the ends."""
    low, high = (float(np.clip(w, *ends)) for w in window)
    return np.linspace(low, high, count + 2)[1:-1]


def _decades(axes: Any) -> tuple[float, float]:
    """Limits of a logarithmic axis: all values but those far from the median, and 0.1 to 10 in any case."""
    values = np.concatenate([line.get_ydata() for line in axes.lines])
    middle = float(np.median(values))
    low, high = max(float(values.min()), middle / 1000), min(float(values.max()), middle * 1000)
    return min(low / 1.5, 0.1), max(high * 1.5, 10)


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=DOCS / "pictures", metavar="DIR")
    parser.add_argument("--png", action="store_true", help="pixels instead of SVG")
    args = parser.parse_args()
    import matplotlib

    # Text stays text, and no date or random name changes an unchanged picture.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "fastmap", "font.size": 9})
    args.out.mkdir(parents=True, exist_ok=True)
    for name, maps in families().items():
        path = args.out / f"{name}.{'png' if args.png else 'svg'}"
        draw(name, maps).savefig(path, dpi=110, metadata=None if args.png else {"Date": None})
        print(path)


if __name__ == "__main__":
    main()
