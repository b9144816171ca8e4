"""Scans that a model was not made for, and native ones as they come to be restored: noisy, coarse, cut off.

Every entry is a kind of input by its name, with a few examples each. Made of the shared data, of scikit-image's
pictures, and of arrays.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray
from PIL import Image as Picture
from skimage import data as pictures
from skimage.transform import resize, rotate

from benchmarks import protocol
from medldm.evaluate.baselines import block_average
from medldm.geometry import Geometry
from medldm.volume import Volume

Image = NDArray[np.float64]
Kinds = dict[str, list[Volume]]

EXAMPLES = 4
PHOTOS = ("astronaut", "camera", "cat", "coffee", "rocket", "clock", "horse", "hubble_deep_field", "moon", "coins")
TEXTURES = ("brick", "grass", "gravel")
SCREENS = ("page", "text", "logo", "colorwheel")
MEDICAL = ("retina", "immunohistochemistry", "cell", "microaneurysms")


def radiograph(image: Image, modality: str = "") -> Volume:
    """Rows x columns in [0, 1] as a picture is read."""
    array = np.clip(np.rint(255 * image), 0, 255).T[..., None]
    step = {"step": "read", "format": "picture", "spacing_assumed": True}
    return Volume(array, Geometry(np.diag([-1.0, -1, 1, 1]), array.shape), "grey8", modality, (step,))


def head(image: Image, spacing: Any = (2.0, 2.0, 2.0), modality: str = "MR") -> Volume:
    """Voxels along P, S, R."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0.0, 0, 1], [-1, 0, 0], [0, 1, 0]]) * np.asarray(spacing)
    return Volume(image.astype(np.float32), Geometry(affine, image.shape), "arbitrary", modality)


def grey(name: str) -> Image:
    image = np.asarray(getattr(pictures, name)(), dtype=np.float64)
    image = image[..., :3].mean(-1) if image.ndim == 3 else image
    return image / max(float(image.max()), 1e-9)


def square(image: Image, n: int = 256) -> Image:
    return np.asarray(resize(image, (n, n), anti_aliasing=True))


def _rows(folder: str, table: str, split: str) -> list[dict[str, str]]:
    with (protocol.data_folder() / folder / table).open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]


def load_films(folder: str, split: str, count: int) -> list[Image]:
    """The first radiograph of each patient."""
    first: dict[str, str] = {}
    for row in sorted(_rows(folder, "index.csv", split), key=lambda row: row["file"]):
        first.setdefault(row["patient"], row["file"])
    found = []
    for file in list(first.values())[:count]:
        with Picture.open(protocol.data_folder() / folder / "images" / file) as picture:
            found.append(np.asarray(picture.convert("L"), dtype=np.float64) / 255)
    return found


def _oriented(path: Path) -> tuple[Image, Image]:
    """(voxels along P, S, R, mm an axis)."""
    image = nib.load(path)
    image = image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt("PSR")))
    return np.asarray(image.dataobj, dtype=np.float64), np.asarray(image.header.get_zooms()[:3], dtype=np.float64)


def load_heads(split: str) -> list[tuple[Image, Image, NDArray[Any] | None]]:
    """(voxels, mm, labels): of whole heads, then of brains that were extracted elsewhere, whose labels are None."""
    root, found = protocol.data_folder(), []
    for row in sorted(_rows("brain-t1-2mm", "participants.csv", split), key=lambda row: row["participant"]):
        voxels, size = _oriented(root / "brain-t1-2mm" / "t1" / f"{row['participant']}.nii.gz")
        labels, _ = _oriented(root / "brain-t1-2mm" / "labels" / f"{row['participant']}.nii.gz")
        found.append((voxels, size, labels))
    for row in sorted(_rows("brain-t1-stripped", "participants.csv", split), key=lambda row: row["participant"]):
        found.append((*_oriented(root / "brain-t1-stripped" / "t1" / f"{row['participant']}.nii.gz"), None))
    return found


def load_bodies() -> list[tuple[Image, Image]]:
    """CT of the torso, HU."""
    return [_oriented(path) for path in sorted((protocol.data_folder() / "ct-torso-256" / "volumes").glob("*.nii.gz"))]


def hu_window(values: Image, low: float = -1000, high: float = 400) -> Image:
    return np.clip((values - low) / (high - low), 0, 1)


def fractal(shape: tuple[int, ...], power: float, seed: int) -> Image:
    """Noise whose power falls with frequency."""
    grid = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")
    radius = np.sqrt(sum(g**2 for g in grid))
    radius.flat[0] = 1
    noise = np.fft.fftn(np.random.default_rng(seed).standard_normal(shape)) / radius**power
    noise.flat[0] = 0
    found = np.real(np.fft.ifftn(noise))
    return np.clip(0.5 + found / (6 * found.std()), 0, 1)


def shuffled(image: Image, parts: int, seed: int) -> Image:
    """Blocks of an image in another order."""
    n, rng = image.shape[0] // parts, np.random.default_rng(seed)
    blocks = [image[n * i : n * (i + 1), n * j : n * (j + 1)] for i in range(parts) for j in range(parts)]
    order = rng.permutation(len(blocks))
    return np.block([[blocks[order[i * parts + j]] for j in range(parts)] for i in range(parts)])


def native_films(split: str) -> Kinds:
    """Radiographs of the model's kind, in all the states that a restorer is for."""
    films = load_films("chest-xray-256", split, 80)

    def noisy(level: float) -> list[Volume]:
        rng = np.random.default_rng(11)
        return [radiograph(x + level * rng.standard_normal(x.shape)) for x in films]

    kinds = {"as they are": [radiograph(x) for x in films]}
    kinds |= {f"noise {level:g}": noisy(level) for level in (0.02, 0.05, 0.1, 0.2)}
    kinds |= {f"x{f} coarse": [radiograph(block_average(x, (f, f))) for x in films] for f in (2, 4)}
    kinds["x2 coarse, noise 0.1"] = [
        radiograph(block_average(x, (2, 2)) + 0.1 * np.random.default_rng(n).standard_normal((128, 128)))
        for n, x in enumerate(films)
    ]
    kinds["cut by a tenth"] = [radiograph(x[13:243, 13:243]) for x in films]
    kinds["cut by a quarter, below"] = [radiograph(x[:192]) for x in films]
    kinds["twice as bright"] = [radiograph(np.clip(0.5 * x + 0.3, 0, 1)) for x in films]
    return kinds


def native_heads(split: str) -> Kinds:
    """T1-weighted heads, whole and extracted."""
    heads = load_heads(split)
    cases = [(x, s) for x, s, _ in heads] + [(x * (labels > 0), s) for x, s, labels in heads if labels is not None]

    def noisy(level: float) -> list[Volume]:
        found = []
        for x, s in cases:
            rng, std = np.random.default_rng(11), level * np.percentile(x[x > 0], 99)
            found.append(head(np.hypot(x + std * rng.standard_normal(x.shape), std * rng.standard_normal(x.shape)), s))
        return found

    kinds = {"as they are": [head(x, s) for x, s in cases]}
    kinds |= {f"noise {level:g}": noisy(level) for level in (0.02, 0.05, 0.1, 0.2)}
    for f in (2, 4):
        kinds[f"x{f} coarse through plane"] = [
            head(block_average(x[:, : x.shape[1] // f * f], (1, f, 1)), s * np.array([1, f, 1])) for x, s in cases
        ]
    kinds["cut by a tenth"] = [head(x[tuple(slice(n // 20, n - n // 20) for n in x.shape)], s) for x, s in cases]
    kinds["cut by a quarter, below"] = [head(x[:, x.shape[1] // 4 :], s) for x, s in cases]
    kinds["as R, A, S"] = [head(x, s).reorient("RAS") for x, s in cases]
    return kinds


def foreign_films(split: str) -> Kinds:
    films = load_films("chest-xray-256", split, EXAMPLES)
    children = load_films("chest-xray-children-256", split, EXAMPLES)
    brains, bodies, rng = load_heads(split)[:EXAMPLES], load_bodies(), np.random.default_rng(5)
    axial = [b[:, b.shape[1] // 2] for b, _ in bodies[:EXAMPLES]]
    y, x = np.mgrid[:256, :256] / 255.0

    def of(change: Callable[[Image], Image]) -> list[Volume]:
        return [radiograph(change(film)) for film in films]

    def flat(images: list[Image]) -> list[Volume]:
        return [radiograph(image / max(float(image.max()), 1e-9)) for image in images]

    kinds: Kinds = {
        "turned by 90": of(lambda f: np.rot90(f)),
        "upside down": of(lambda f: np.rot90(f, 2)),
        "turned by 270": of(lambda f: np.rot90(f, 3)),
        "top to bottom": of(np.flipud),
        "left to right": of(np.fliplr),
        "transposed": of(lambda f: f.T),
        "turned by 45": of(lambda f: rotate(f, 45)),
        "inverted": of(lambda f: 1 - f),
        "children, turned by 90": [radiograph(np.rot90(f)) for f in children],
        "children, inverted": [radiograph(1 - f) for f in children],
        "noise x 4": of(lambda f: f + rng.standard_normal(f.shape)),
        "two in one": [radiograph(np.hstack([films[0], films[1]])), radiograph(np.vstack([films[2], films[3]]))],
        "four in one": [radiograph(np.block([[f[::2, ::2], f[::2, ::2]]] * 2)) for f in films],
        "blocks in another order": [radiograph(shuffled(f, 4, n)) for n, f in enumerate(films)],
        "halves swapped": of(lambda f: np.roll(f, 128, 1)),
        "half is black": of(lambda f: f * (x < 0.5)),
        "a large black square": of(lambda f: f * ((abs(x - 0.5) > 0.3) | (abs(y - 0.5) > 0.3))),
        "in a wide frame": of(lambda f: np.pad(f, 100)),
        "a screenshot with bars": of(lambda f: np.vstack([np.ones((90, 256)), f, np.full((60, 256), 0.8)])),
        "segmented": of(lambda f: (f > np.median(f)) * 1.0),
        "four grey values": of(lambda f: np.rint(3 * f) / 3),
        "edges": of(lambda f: np.hypot(*np.gradient(f)) * 6),
        "heart of it": of(lambda f: f[100:140, 100:140]),
        "head, axial": flat([b[:, b.shape[1] // 2] for b, _, _ in brains]),
        "head, coronal": flat([b[b.shape[0] // 2] for b, _, _ in brains]),
        "head, sagittal": flat([b[:, :, b.shape[2] // 2].T for b, _, _ in brains]),
        "head, sagittal, upright": flat([b[:, ::-1, b.shape[2] // 2].T for b, _, _ in brains]),
        "head, projected from ahead": flat([b.mean(0)[::-1] for b, _, _ in brains]),
        "head, projected from the side": flat([b.mean(2).T[::-1] for b, _, _ in brains]),
        "labels of a head": flat([la[:, la.shape[1] // 2] for _, _, la in brains if la is not None]),
        "CT, axial": [radiograph(hu_window(b)) for b in axial],
        "CT, axial, soft tissue": [radiograph(hu_window(b, -160, 240)) for b in axial],
        "CT, coronal": [radiograph(square(hu_window(b[b.shape[0] // 2])[::-1])) for b, _ in bodies],
        "CT, sagittal": [radiograph(square(hu_window(b[:, :, b.shape[2] // 2]).T[::-1])) for b, _ in bodies],
        "lateral, projected from CT": [radiograph(square(hu_window(b).mean(2).T[::-1] * 1.2)) for b, _ in bodies],
        "white noise": flat(
            [rng.random((256, 256)), rng.standard_normal((200, 300)) - rng.standard_normal((200, 300))]
        ),
        "speckle": flat([rng.exponential(1, (256, 256)), rng.rayleigh(1, (300, 200))]),
        "blank": [radiograph(np.full((256, 256), level)) for level in (0.0, 0.5, 1.0)],
        "nearly blank": flat([np.ones((256, 256)) + 0.01 * (np.hypot(x - 0.5, y - 0.5) < 0.01)]),
        "clouds": [radiograph(fractal((256, 256), power, 3)) for power in (1.0, 1.5, 2.0)],
        "ramps": [radiograph(x), radiograph(y), radiograph((x + y) / 2)],
        "chessboard": [radiograph((((n * x).astype(int) + (n * y).astype(int)) % 2) * 1.0) for n in (8, 32)],
        "stripes": [radiograph(0.5 + 0.5 * np.sin(n * x)) for n in (20, 150)],
        "disc": [radiograph((np.hypot(x - 0.5, y - 0.5) < r) * 1.0) for r in (0.1, 0.3)],
        "Gaussian": [radiograph(np.exp(-((x - 0.5) ** 2 + (y - 0.5) ** 2) / s)) for s in (0.02, 0.2)],
        "Shepp-Logan phantom": [radiograph(grey("shepp_logan_phantom"))],
        "blobs": [radiograph(pictures.binary_blobs(256, rng=1) * 1.0)],
        "faces": flat([np.asarray(f, dtype=np.float64) for f in pictures.lfw_subset()[:6]]),
        "two lungs, drawn": [
            radiograph(1 - 0.8 * sum((((x - c) / 0.12) ** 2 + ((y - 0.5) / 0.25) ** 2) < 1 for c in (0.3, 0.7)))
        ],
    }
    kinds |= {f"picture: {name}": [radiograph(grey(name))] for name in (*PHOTOS, *TEXTURES, *SCREENS, *MEDICAL)}
    kinds |= {f"modality {name}": [radiograph(f, name) for f in films] for name in ("CT", "MR", "US", "MG")}
    return kinds


def foreign_heads(split: str) -> Kinds:
    heads, bodies, rng = load_heads(split), load_bodies(), np.random.default_rng(5)
    stripped = [h for h in heads if h[2] is None]
    cases = [*heads[: EXAMPLES // 2], *stripped[: EXAMPLES // 2]]
    labelled = [h for h in heads if h[2] is not None][:EXAMPLES]
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in (100, 100, 90)), indexing="ij")
    r = np.sqrt(i**2 + j**2 + k**2)

    def top(image: Image) -> float:
        return float(np.percentile(image, 99.5))

    def of(change: Callable[[Image], Image]) -> list[Volume]:
        return [head(change(b), s) for b, s, _ in cases]

    def sized(factor: Any) -> list[Volume]:
        return [head(b, s * np.asarray(factor)) for b, s, _ in cases]

    def order(axes: tuple[int, int, int]) -> list[Volume]:
        return [head(b.transpose(axes), s[list(axes)]) for b, s, _ in cases]

    def stack(image: Image, count: int = 80) -> Volume:
        return head(np.repeat(square(image, 110)[:, :, None], count, 2))

    films = load_films("chest-xray-256", split, 80)
    kinds: Kinds = {
        "upside down": of(lambda b: b[:, ::-1]),
        "front to back": of(lambda b: b[::-1]),
        "turned about the long axis": of(lambda b: b[::-1, :, ::-1]),
        "upside down and front to back": of(lambda b: b[::-1, ::-1]),
        "axes S P R": order((1, 0, 2)),
        "axes P R S": order((0, 2, 1)),
        "axes R S P": order((2, 1, 0)),
        "axes S R P": order((1, 2, 0)),
        "turned by 45": of(lambda b: np.asarray(rotate(b, 45))),
        "inverted": of(lambda b: top(b) - np.minimum(b, top(b))),
        "tissue inverted": of(lambda b: np.where(b > 0.15 * top(b), 1.1 * top(b) - np.minimum(b, top(b)), b)),
        "cubed": of(lambda b: b**3),
        "square root": of(lambda b: np.sqrt(np.maximum(b, 0) / top(b)) ** 0.6),
        "voxels half the size": sized(0.5),
        "voxels twice the size": sized(2.0),
        "voxels 1.5 times the size": sized(1.5),
        "one axis twice as long": sized((1, 2, 1)),
        "noise x 4": of(
            lambda b: np.hypot(b + top(b) * rng.standard_normal(b.shape), top(b) * rng.standard_normal(b.shape))
        ),
        "labels": [head(la) for _, _, la in labelled if la is not None],
        "mask of the brain": [head((la > 0) * 1.0) for _, _, la in labelled if la is not None],
        "ventricles alone": [head(b * np.isin(la, (49, 50, 51, 52))) for b, _, la in labelled if la is not None],
        "cerebellum alone": [
            head(b * np.isin(la, (38, 39, 40, 41, 71, 72, 73))) for b, _, la in labelled if la is not None
        ],
        "head without its brain": [head(b * (la == 0)) for b, _, la in labelled if la is not None],
        "thresholded": of(lambda b: (b > 0.3 * top(b)) * 1.0),
        "four grey values": of(lambda b: np.rint(3 * np.minimum(b / top(b), 1))),
        "edges": of(lambda b: np.sqrt(sum(g**2 for g in np.gradient(b)))),
        "halves swapped": of(lambda b: np.roll(b, b.shape[1] // 2, 1)),
        "two heads": of(lambda b: np.concatenate([b, b])),
        "slices in another order": of(lambda b: b[:, :, np.random.default_rng(1).permutation(b.shape[2])]),
        "one slice, repeated": of(lambda b: np.repeat(b[:, :, b.shape[2] // 2][:, :, None], 80, 2)),
        "half of it black": of(lambda b: b * (np.arange(b.shape[1]) < b.shape[1] // 2)[None, :, None]),
        "a slab of 8": of(lambda b: b[:, :, b.shape[2] // 2 - 4 : b.shape[2] // 2 + 4]),
        "middle of it": of(lambda b: b[40:70, 40:70, 30:60]),
        "a single slice": of(lambda b: b[:, :, b.shape[2] // 2][:, :, None]),
        "CT of the torso": [head(b, s, "CT") for b, s in bodies[:EXAMPLES]],
        "CT as MR": [head(b, s) for b, s in bodies],
        "CT as MR, air 0": [head(np.maximum(b + 1000, 0), s) for b, s in bodies],
        "CT of lungs, one litre": [head(np.maximum(b + 1000, 0)[60:160, :, 40:120], s) for b, s in bodies],
        "Rayleigh noise": [head(rng.rayleigh(1, (100, 110, 90))) for _ in range(3)],
        "white noise": [head(rng.random((100, 110, 90))), head(rng.standard_normal((80, 80, 80)))],
        "blank": [head(np.full((80, 90, 70), level)) for level in (0.0, 100.0)],
        "ball": [head((r < 0.8) * 1.0), head((r < 0.4) * 1.0)],
        "shells": [head((r < 0.9) + (r < 0.8) * 0.5 - (r < 0.4) * 0.8)],
        "ellipsoid, noisy": [head(((i / 0.9) ** 2 + (j / 0.7) ** 2 + (k / 0.7) ** 2 < 1) + 0.05 * rng.random(r.shape))],
        "cube": [head((np.maximum(np.maximum(abs(i), abs(j)), abs(k)) < 0.6) * 1.0)],
        "cylinder": [head((np.hypot(i, k) < 0.7) * 1.0)],
        "bottle with holes": [head((np.hypot(i, k) < 0.8) * (1.0 - (np.hypot(i - 0.3, k) < 0.15)))],
        "ramp": [head(i + 1), head(j + 1)],
        "waves": [head(np.sin(20 * i) * np.sin(20 * j) * np.sin(20 * k) + 1)],
        "Gaussian": [head(np.exp(-3 * r**2))],
        "chessboard": [head((((5 * i).astype(int) + (5 * j).astype(int) + (5 * k).astype(int)) % 2) * 1.0)],
        "clouds": [head(fractal((100, 110, 90), power, 3)) for power in (1.5, 2.5)],
        "blobs": [head(pictures.binary_blobs(100, n_dim=3, rng=1) * 1.0)],
        "Shepp-Logan phantom, stacked": [stack(grey("shepp_logan_phantom"))],
        "radiographs, stacked": [head(np.stack([square(f, 100) for f in films], 2))],
        "one radiograph, repeated": [stack(films[0])],
        "pictures, stacked": [head(np.stack([square(grey(name), 100) for name in PHOTOS * 8], 2))],
        "faces, stacked": [head(np.repeat(np.repeat(np.stack(list(pictures.lfw_subset()[:80]), 2), 4, 0), 4, 1))],
        "modality PT": [head(b, s, "PT") for b, s, _ in cases],
        "voxels of 5 mm": [head(b[::2, ::2, ::2], s * 2.5) for b, s, _ in cases],
    }
    kinds |= {f"picture repeated: {name}": [stack(grey(name))] for name in ("camera", "coins", "brick", "retina")}
    return kinds


def factor_of(kind: str) -> tuple[float, float, float]:
    """What a native scan is refined by, an axis."""
    return next(((1.0, f, 1.0) for f in (2.0, 4.0) if kind == f"x{f:g} coarse through plane"), (1.0, 1.0, 1.0))


def dicom_heads() -> Iterator[tuple[str, Volume]]:
    """Real MR and CT series of other kinds than T1-weighted heads."""
    import medldm

    for name in ("ct_tilt_philips_phantom", "mr_enhanced_philips_asl", "ct_enhanced/perfusion", "mr_compressed/jpegls"):
        try:
            yield f"DICOM: {name}", medldm.read(protocol.data_folder() / "dicom" / name)
        except medldm.MedldmError:
            continue
