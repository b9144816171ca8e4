"""Plots that benchmarks leave: small, the same from the same figures, and with the points where the figures say."""

import re
import xml.etree.ElementTree as xml

import numpy as np
import pytest

from benchmarks import latent_vs_pixel, plot, restoration, samplers, sweep

MOST_BYTES = 60_000


def interval(mean, reach=0.5):
    return {"mean": mean, "low": mean - reach, "high": mean + reach}


def restored():
    levels = {"chest, Gaussian noise": (0.02, 0.1, 0.2), "chest, block average": (4,), "heads, slices": (2, 4)}
    return [
        {"task": task, "level": level, "method": method, "psnr": interval(40 - 50 * level + ahead)}
        for task, found in levels.items()
        for level in found
        for ahead, method in enumerate(("noisy", "non-local means", "medldm"))
    ]


def sampled():
    names = ("ddim", "heun", "MONAI DDIM")
    rows = [
        {"sampler": name, "data_std": std, **{f"std error at {n}": std / n**order for n in samplers.STEPS}}
        for order, name in enumerate(names, start=1)
        for std in samplers.STDS
    ]
    return [*rows, {"sampler": "ddim", "data": "mixture"}]


def compared():
    speeds = {f"{kind}, times pixels": 12.0 for kind in ("training", "sampling at 256", "sampling at 512")}
    return [{"space": name, **speeds, "kid": 90.0, "kid_by_seed": [80.0, 95.0]} for name in latent_vs_pixel.SPACES]


def swept():
    return [{"kind": kind, "factor": [f, f], "psnr": interval(40 - f)} for kind in sweep.CURVES for f in (2, 4)]


@pytest.mark.parametrize(
    ("panels", "count", "names"),
    [
        (restoration.panels(restored()), 2, {"non-local means", "medldm"}),
        (samplers.panels(sampled()), 2, {"ddim", "heun", "MONAI DDIM"}),
        (latent_vs_pixel.panels(compared()), 2, {"training", "sampling at 512", "KID, and its range over seeds"}),
        ([sweep.panel(swept())], 1, {"codebook", "finite levels"}),
    ],
)
def test_a_plot_is_small_and_names_its_curves(tmp_path, panels, count, names):
    path = plot.draw("one", panels, tmp_path)
    assert path.stat().st_size < MOST_BYTES
    said = {element.text for element in xml.parse(path).iter("{http://www.w3.org/2000/svg}text")}
    assert names | {panel.y_label for panel in panels} <= said and len(panels) == count
    assert plot.draw("two", panels, tmp_path).read_bytes() == path.read_bytes()


def test_points_lie_where_the_figures_say(tmp_path):
    """Twice the error on a logarithmic axis is the same way up, wherever it begins."""
    curve = plot.Curve("one", [1, 2, 4, 8], [1.0, 2.0, 4.0, 8.0])
    path = plot.draw("line", [plot.Panel("", [curve], "x", "y", log_x=True, log_y=True)], tmp_path)
    (line,) = re.findall(r'<path d="([^"]*)" clip-path="[^"]*" style="[^"]*stroke: #1f77b4', path.read_text())
    points = np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", line), float)
    assert len(points) == 4
    steps = np.diff(points, axis=0)
    np.testing.assert_allclose(steps, np.tile(steps[:1], (3, 1)), rtol=1e-3)
    assert steps[0, 0] > 0 > steps[0, 1]


def test_a_curve_has_one_colour_in_all_panels_and_ours_is_nobody_elses(tmp_path):
    names = ["medldm", *"abcd"]
    panels = [
        plot.Panel(t, [plot.Curve(n, [1, 2], [1, 2]) for n in given], t, "y")
        for t, given in (("p", names), ("q", names[::-1]))
    ]
    text = plot.draw("colours", panels, tmp_path).read_text()
    found = re.findall(r"stroke: (#[0-9a-f]{6}); stroke-width: (?:2.2|1.2)", text)
    of_panels = found[:5], found[5:10]
    assert len(set(of_panels[0])) == 5 and of_panels[0] == of_panels[1][::-1]
