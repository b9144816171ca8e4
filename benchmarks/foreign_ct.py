"""Slices that the CT model was not made for, and CT of its kind as it comes to be restored: noisy, sharp, cut off.

Every entry is a kind of input by its name, with a few examples each; all say that they are CT in HU, but where the kind
is about what they say.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from skimage import data as pictures
from skimage.transform import resize, rotate

from benchmarks import ct
from benchmarks.foreign_inputs import (
    EXAMPLES,
    MEDICAL,
    PHOTOS,
    SCREENS,
    TEXTURES,
    Image,
    Kinds,
    fractal,
    grey,
    hu_window,
    load_bodies,
    load_films,
    load_heads,
    shuffled,
    square,
)
from benchmarks.protocol import Case
from medldm.geometry import Geometry
from medldm.volume import Volume

MM = 1.6


def axial(hu: Image, spacing: float = MM, modality: str = "CT", unit: str = "HU") -> Volume:
    """(I, J) in HU, i to the patient's left and j to the back, as a slice of 2.5 mm."""
    affine = np.diag([-spacing, -spacing, 2.5, 1.0])
    return Volume(hu.astype(np.float32)[:, :, None], Geometry(affine, (*hu.shape, 1)), unit, modality)


def _hu(image: Image) -> Image:
    """A picture in [0, 1], rows by columns, as if it were a slice from air to bone."""
    return (-1000 + 1400 * np.clip(image, 0, 1)).T


def native_slices(split: str) -> Kinds:
    """Test patients' slices in the states that a restorer is for."""
    cases = ct.slices(quick=False)

    def of(change: Callable[[Case], Image]) -> list[Volume]:
        return [ct.volume_of(case, change(case)) for case in cases]

    kinds = {"as they are": of(lambda case: case.truth)}
    kinds |= {f"white, {level:g} HU": of(lambda case, level=level: ct.white(case, level)) for level in ct.NOISE_HU}
    kinds |= {f"sharp, {level:g} HU": of(lambda case, level=level: ct.sharp(case, level)) for level in ct.NOISE_HU}
    kinds["cut by a tenth"] = [_middle(case, 13) for case in cases]
    return kinds


def _middle(case: Case, edge: int) -> Volume:
    columns, rows = case.truth.shape
    return ct.volume_of(case, case.truth).crop((edge, edge, 0), (columns - edge, rows - edge, 1))


def foreign_slices(split: str) -> Kinds:
    cases = ct.slices(quick=True)[:: max(1, 13 // EXAMPLES)]
    slices: list[Image] = [case.truth * ct.RANGE + ct.LOW for case in cases]
    radiographs = load_films("chest-xray-256", split, EXAMPLES)
    brains, torsos = load_heads(split)[:EXAMPLES], load_bodies()
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:256, :256] / 255.0
    spacing = [float(np.linalg.norm(case.affine[:3, 0])) for case in cases if case.affine is not None]

    def of(change: Callable[[Image], Image]) -> list[Volume]:
        return [axial(np.ascontiguousarray(change(hu)), mm) for hu, mm in zip(slices, spacing, strict=True)]

    def drawn(*images: Image | NDArray[np.bool_]) -> list[Volume]:
        return [axial(_hu(np.asarray(image, np.float64))) for image in images]

    def scaled(image: Image) -> Image:
        return image / max(float(image.max()), 1e-9)

    kinds: Kinds = {
        "turned by 90": of(np.rot90),
        "upside down": of(lambda f: np.rot90(f, 2)),
        "turned by 270": of(lambda f: np.rot90(f, 3)),
        "back to front": of(np.fliplr),  # the second axis runs to the back
        "turned by 45": of(lambda f: np.asarray(rotate(f, 45, cval=-1000))),
        "inverted": of(lambda f: -600 - np.clip(f, -1000, 400)),
        "air at 0": of(lambda f: np.clip(f, -1000, None) + 1000),
        "grey values of 8 bits": of(lambda f: 255 * hu_window(f)),
        "soft tissue alone, as grey values": of(lambda f: 255 * hu_window(f, -160, 240)),
        "noise of 1400 HU": of(lambda f: f + 1400 * rng.standard_normal(f.shape)),
        "two in one": of(lambda f: np.hstack([f, f])),
        "four in one": of(lambda f: np.block([[f[::2, ::2]] * 2] * 2)),
        "blocks in another order": of(lambda f: shuffled(f, 4, 1)),
        "halves swapped": of(lambda f: np.roll(f, 128, 0)),
        "half of it air": of(lambda f: np.where(x.T < 0.5, f, -1000.0)),
        "in a wide frame": of(lambda f: np.pad(f, 128, constant_values=-1000.0)),
        "thresholded": of(lambda f: np.where(f > -300, 50.0, -1000.0)),
        "four values": of(lambda f: np.rint(np.clip(f, -1000, 400) / 350) * 350),
        "edges": of(lambda f: np.hypot(*np.gradient(f)) - 1000),
        "middle of it": of(lambda f: f[100:140, 100:140]),
        "twice the contrast": of(lambda f: -1000 + 2 * (np.clip(f, -1000, None) + 1000)),
        "voxels of 0.4 mm": [axial(hu, 0.4) for hu in slices],
        "voxels of 5 mm": [axial(hu, 5.0) for hu in slices],
        "coronal": [axial(square(b[b.shape[0] // 2].T), MM) for b, _ in torsos],
        "sagittal": [axial(square(b[:, :, b.shape[2] // 2]), MM) for b, _ in torsos],
        "radiographs": drawn(*radiographs),
        "radiographs of children": drawn(*load_films("chest-xray-children-256", split, EXAMPLES)),
        "head (MR), axial": drawn(*(scaled(b[:, b.shape[1] // 2]) for b, _, _ in brains)),
        "head (MR), coronal": drawn(*(scaled(b[b.shape[0] // 2]) for b, _, _ in brains)),
        "head (MR), sagittal": drawn(*(scaled(b[:, ::-1, b.shape[2] // 2].T) for b, _, _ in brains)),
        "labels of a head": drawn(*(scaled(la[:, la.shape[1] // 2]) for _, _, la in brains if la is not None)),
        "white noise": drawn(rng.random((256, 256)), rng.random((200, 300))),
        "blank": [axial(np.full((256, 256), level)) for level in (-1000.0, 0.0, 40.0)],
        "cylinder of water": [axial(np.where(np.hypot(x - 0.5, y - 0.5) < r, 0.0, -1000.0)) for r in (0.2, 0.35)],
        "the same, with 20 HU": [
            axial(np.where(np.hypot(x - 0.5, y - 0.5) < r, 0.0, -1000.0) + 20 * rng.standard_normal(x.shape))
            for r in (0.2, 0.35)
        ],
        "clouds": drawn(*(fractal((256, 256), power, 3) for power in (1.0, 1.5, 2.0))),
        "ramps": drawn(x, y),
        "chessboard": drawn(*((((n * x).astype(int) + (n * y).astype(int)) % 2) * 1.0 for n in (8, 32))),
        "stripes": drawn(*(0.5 + 0.5 * np.sin(n * x) for n in (20, 150))),
        "Gaussian": drawn(np.exp(-((x - 0.5) ** 2 + (y - 0.5) ** 2) / 0.05)),
        "Shepp-Logan phantom": drawn(resize(grey("shepp_logan_phantom"), (256, 256))),
        "blobs": drawn(pictures.binary_blobs(256, rng=1)),
        "faces": drawn(*(square(np.asarray(f, np.float64)) for f in pictures.lfw_subset()[:EXAMPLES])),
    }
    kinds |= {f"picture: {name}": drawn(square(grey(name))) for name in (*PHOTOS, *TEXTURES, *SCREENS, *MEDICAL)}
    kinds |= {f"modality {name}": [axial(f, MM, name, "arbitrary") for f in slices] for name in ("MR", "PT", "US")}
    return kinds
