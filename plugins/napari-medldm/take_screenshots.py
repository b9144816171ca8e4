"""Screenshots of every mode, as they stand in docs/napari.md.

    xvfb-run -a -s "-screen 0 1600x1000x24" python plugins/napari-medldm/take_screenshots.py docs/images
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from imageio.v3 import imwrite

import medldm
from medldm import Geometry, Volume

PATIENCE = 600.0  # seconds: each picture waits for what it shows


def main(out: Path) -> None:
    import napari
    from napari_medldm.compare import show_plane
    from napari_medldm.folder import FolderPanel
    from napari_medldm.layers import layer_data
    from napari_medldm.panel import RestorePanel
    from qtpy.QtWidgets import QApplication

    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1280, 800)
    panel = RestorePanel(viewer)
    viewer.window.add_dock_widget(panel, name="medldm", area="right")
    application = QApplication.instance()

    def wait(seconds: float, until: object = None) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not (callable(until) and until()):
            application.processEvents()
            time.sleep(0.005)

    def take(name: str) -> None:
        wait(0.6)
        image = viewer.screenshot(canvas_only=False, flash=False)[..., :3]
        imwrite(out / f"napari-{name}.webp", image, quality=70)
        print(f"napari-{name}.webp")

    def show(volume: Volume, name: str) -> None:
        data, attributes, _ = layer_data(volume, name)
        viewer.add_image(data, **attributes)
        show_plane(viewer, "axial")

    wait(1)
    head, scan = _scan()
    show(scan, "head, 6 % noise")
    panel.form.model.setCurrentText("brain-t1-2mm")
    take("open")
    panel.form.dial.setValue(100)
    panel.form.steps.setValue(12)
    panel.start.click()
    wait(PATIENCE, lambda: panel.progress.maximum() == 12 and panel.progress.value() >= 6)
    take("running")
    panel.stop.click()
    wait(PATIENCE, lambda: panel.job is None)
    panel.form.dial.setValue(0)
    panel.start.click()
    wait(PATIENCE, lambda: panel.judge.last() is not None)
    for mode in ("side by side", "wipe", "residual", "uncertainty"):
        panel.judge.toggle(mode)
        take(mode.replace(" ", "-"))
        panel.judge.toggle(mode)
    panel.view.orthogonal.click()
    models = panel.view.views.models.values()
    wait(PATIENCE, lambda: all(len(model.layers) > len(viewer.layers) for model in models))  # and a crosshair
    viewer.dims.point = (-20, 10, 20)
    take("orthogonal")
    panel.view.orthogonal.click()
    viewer.layers.clear()
    wait(0.5)
    turn = np.radians(15)
    affine = head.geometry.affine.copy()
    affine[:2, :3] = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ affine[:2, :3]
    show(Volume(scan.array, Geometry(affine, scan.geometry.shape), "arbitrary", "MR"), "oblique head")
    panel.view.straighten.click()
    wait(PATIENCE, lambda: len(viewer.layers) == 2)
    viewer.reset_view()
    take("oblique")
    panel.form.place.setCurrentText("drawn region")
    panel.start.click()
    take("error")

    viewer.layers.clear()
    show(head, "head")
    panel.form.task.setCurrentText("inpaint")
    panel.form.draw.click()
    source, region = viewer.layers
    place = np.ogrid[tuple(slice(n) for n in region.data.shape)]
    centre = source.world_to_data((20, 20, 30))
    region.data[sum((a - c) ** 2 for a, c in zip(place, centre, strict=True)) <= 6**2] = 1
    region.refresh()
    viewer.dims.point = (20, 20, 30)
    take("region")
    region.visible = False
    panel.start.click()
    wait(PATIENCE, lambda: panel.judge.last() is not None)
    panel.judge.toggle("side by side")
    take("inpaint")
    panel.judge.toggle("side by side")
    panel.workshop.close()

    viewer.layers.clear()
    viewer.window.remove_dock_widget("all")
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):  # so that the panel shows short paths
        _folder(Path(), scan)
        batch = FolderPanel(viewer)
        viewer.window.add_dock_widget(batch, name="medldm", area="right")
        batch.scans.setText("scans")
        batch.out.setText("restored")
        batch.form.model.setCurrentText("brain-t1-2mm")
        batch.start.click()
        wait(PATIENCE, lambda: batch.job is None)
        batch.show_row(next(index for index, row in enumerate(batch.rows) if row.output))
        wait(PATIENCE, lambda: len(viewer.layers) == 2)
        show_plane(viewer, "axial")
        take("folder")
        batch.workshop.close()
    viewer.close()


def _folder(root: Path, scan: Volume) -> None:
    """Two scans, one of them of another part of the head, and a file that is cut off."""
    (root / "scans" / "follow-up").mkdir(parents=True)
    medldm.write(scan, root / "scans" / "baseline.nii.gz")
    medldm.write(scan.crop([0, 0, 10], [*scan.array.shape[:2], 70]), root / "scans" / "follow-up" / "head.nii.gz")
    whole = (root / "scans" / "baseline.nii.gz").read_bytes()
    (root / "scans" / "copied-in-part.nii.gz").write_bytes(whole[: len(whole) // 2])


def _scan() -> tuple[Volume, Volume]:
    """The MNI template at 2 mm, which comes with nilearn, as it is and with Rician noise of 6 %."""
    whole = medldm.read(_template())
    step = max(1, round(2 / whole.geometry.spacing[0]))
    affine = whole.geometry.affine @ np.diag([step, step, step, 1.0])
    values = whole.array[::step, ::step, ::step] / np.percentile(whole.array, 99.5) * 1000
    head = Volume(values, Geometry(affine, values.shape), "arbitrary", "MR", whole.history)
    rng = np.random.default_rng(0)
    noisy = np.hypot(values + 60 * rng.standard_normal(values.shape), 60 * rng.standard_normal(values.shape))
    return head, head.with_array(noisy.astype(np.float32), {"step": "noise", "noise_std": 60.0})


def _template() -> Path:
    """The MNI template that comes with nilearn."""
    import nilearn.datasets

    folder = Path(nilearn.datasets.__file__).parent / "data"
    return next(folder.glob("mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images"))
