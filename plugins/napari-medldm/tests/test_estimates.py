"""How long it will take is told by what the machine took before, and what it has no memory for is not begun."""

import psutil
import pytest
from napari_medldm.cost import MARGIN, Cost, duration
from napari_medldm.extent import Extent
from napari_medldm.request import Request

pytestmark = pytest.mark.usefixtures("display")


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("napari_medldm.cost.time.monotonic", lambda: now[0])
    return now


def test_what_a_model_took_is_known_in_the_next_session(clock):
    mean, sampled = Request("denoise", "a/model"), Request("denoise", "a/model", samples=2, steps=20)
    cost, some, more = Cost(), Extent((10, 10, 10), 3, None), Extent((10, 10, 50), 3, None)
    assert cost.seconds(1000, mean) is None and "not known" in cost.describe(some, mean)
    cost.begin(1000, mean)
    clock[0] = 50.0
    assert cost.left(1, 2) == ", 50 s left"
    cost.end()
    again = Cost()
    assert again.seconds(5000, mean) == pytest.approx(250)
    assert "about 4 min" in again.describe(more, mean) and "at most 4 min" in again.describe(more, mean, most=True)
    assert again.seconds(5000, sampled) is None and again.seconds(5000, Request("denoise", "b")) is None
    assert again.left(1, 2) == ""  # nothing runs


def test_durations():
    assert [duration(t) for t in (0.2, 3.4, 89, 200)] == ["1 s", "3 s", "89 s", "3 min"]


def test_the_memory_of_a_head_is_what_was_measured_and_a_margin():
    """3.75 GB for a head of 256 x 256 x 176 by the shipped pack, 0.92 for one of 112 x 112 x 112."""
    head = Extent((256, 256, 176), 3, None)
    assert 3.75e9 < head.memory < 4.2e9 and MARGIN * head.memory < 6e9
    assert 0.9e9 < Extent((112, 112, 112), 3, None).memory < 1.1e9
    slices = Extent((512, 512, 300), 2, 2)  # by a model of single images: one at a time
    assert slices.memory < Extent((512, 512, 300), 3, None).memory


def test_what_there_is_no_memory_for_cannot_be_started(viewer, panel, phantom, monkeypatch, press):
    assert panel.start.isEnabled()
    few = psutil.virtual_memory()._replace(available=0.7e9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: few)
    panel.form.seed.setFocus()
    panel.form.place.setCurrentText("drawn region")
    panel.form.place.setCurrentText("whole scan")
    assert not panel.start.isEnabled() and "0.7 GB are free" in panel.advice.text()


def test_the_first_run_tells_how_long_the_next_takes(viewer, panel, phantom, restored):
    assert "not known" in panel.advice.text()
    restored()
    assert "not known" not in panel.advice.text() and "about" in panel.advice.text()
