"""Sets of scans as an evaluation sees them: read one by one, and of each only what is compared is kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from medldm.errors import EmptyInput, InputError
from medldm.evaluate.features import Features, image_features, plane_features
from medldm.evaluate.listing import Entry, Listing, Progress
from medldm.intensity import Intensity, Scaling
from medldm.nets.efficientnet import EfficientNetLite0
from medldm.report.pictures import planes
from medldm.volume import Volume

Values = NDArray[np.float32]
Numbers = NDArray[np.float64]

AXCODES = "LPS"
THUMB = {2: 64, 3: 40}  # voxels an edge; found by planted copies of radiographs and of heads
FINE, COARSE = 0.7, 4.0  # of the band that a thumbnail keeps: neither noise nor the shape that all patients share
BINS, OUTSIDE = 60, 0.1  # of histograms, and how far they reach beyond the range
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
RADII = 24
_FIXED = Intensity("window", -1000.0, 400.0)  # of HU; pictures have ranges of their own
_OWN = Intensity("percentile", 0.5, 99.5)
_FIXED_UNITS = ("HU", "grey8", "grey16")


@dataclass(frozen=True, eq=False)
class Range:
    """How values become the [0, 1] that is compared.

    window : the values that become 0 and 1, of all scans; None: by the unit. HU: -1000 to 400, pictures: their own
    range; where a set has other units, or `own` is set, percentiles of each scan
    """

    window: tuple[float, float] | None = None
    own: bool = False

    @classmethod
    def of(cls, sets: Iterable[Sequence[Entry]], window: tuple[float, float] | None) -> Range:
        """By what the first readable scan of each set is measured in."""
        return cls(window, window is None and any(_unit(entries) not in _FIXED_UNITS for entries in sets if entries))

    def fit(self, volume: Volume) -> Scaling:
        """Raises PixelError for an image of one value."""
        if self.window is None and (self.own or volume.unit not in _FIXED_UNITS):
            return _OWN.fit(replace(volume, unit="arbitrary"))
        return _FIXED.fit(volume, self.window)

    def __str__(self) -> str:
        if self.window is not None:
            return f"{self.window[0]:g} to {self.window[1]:g} in the scans' unit"
        return "0.5th to 99.5th percentile of each scan" if self.own else "the unit's range (HU: -1000 to 400)"


def _unit(entries: Sequence[Entry]) -> str:
    for entry in entries:
        try:
            return entry.read().unit
        except InputError:
            continue
    return ""


@dataclass(frozen=True, eq=False)
class Scans:
    """What is kept of N scans.

    entries : where they are; volume spacings in mm and modalities beside them
    vectors : (N, d) features of each scan; of a volume, the means over the slices of each plane
    planes : features of single slices (M, 1280), and the number of the scan of each; one "image" in 2D
    thumbs : (N, *THUMB) band of low frequencies, what copies are looked for in
    histograms : (N, BINS) shares; quantiles : (N, 7); spectra : (N, RADII) log10 of the power, up to Nyquist
    left_out : what could not be read or compared, with reasons
    """

    entries: tuple[Entry, ...]
    spacings: tuple[tuple[float, ...], ...]
    modalities: tuple[str, ...]
    vectors: Features
    planes: dict[str, tuple[Features, NDArray[np.intp]]]
    thumbs: Values
    histograms: Numbers
    quantiles: Numbers
    spectra: Numbers
    left_out: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def patients(self) -> NDArray[np.str_]:
        return np.array([entry.patient for entry in self.entries])

    def part(self, chosen: NDArray[np.intp]) -> Scans:
        """The scans of these numbers."""
        new = np.full(len(self), -1)
        new[chosen] = np.arange(len(chosen))
        cut = {}
        for name, (values, owners) in self.planes.items():
            inside = np.flatnonzero(new[owners] >= 0)
            cut[name] = (values[inside], new[owners[inside]])
        return Scans(
            tuple(self.entries[n] for n in chosen),
            tuple(self.spacings[n] for n in chosen),
            tuple(self.modalities[n] for n in chosen),
            self.vectors[chosen],
            cut,
            self.thumbs[chosen],
            self.histograms[chosen],
            self.quantiles[chosen],
            self.spectra[chosen],
            (),
        )


def dims_of(entries: Sequence[Entry]) -> int:
    """2 or 3, by the first scan that can be read. Raises EmptyInput."""
    for entry in entries:
        try:
            return 2 if 1 in entry.read().array.shape else 3
        except InputError:
            continue
    raise EmptyInput("scans", "none that can be read", "one at least", "see medldm check")


def describe_scans(
    listing: Listing,
    *,
    dims: int,
    scale: Range,
    network: EfficientNetLite0,
    stage: str,
    progress: Progress | None = None,
) -> Scans:
    """Read every scan once; what fails is left out with its reason. Raises EmptyInput where nothing is left."""
    entries: list[Entry] = []
    spacings: list[tuple[float, ...]] = []
    modalities: list[str] = []
    looks: list[tuple[Values, Numbers, Numbers, Numbers]] = []
    left_out, features = list(listing.left_out), _Features(dims, network)
    for number, entry in enumerate(listing.entries, start=1):
        try:
            volume = entry.read()
            if (1 in volume.array.shape) != (dims == 2):
                got = f"{' x '.join(map(str, volume.array.shape))} voxels"
                raise InputError(entry.path.name, got, f"{dims}D, as the first scan")
            image = scale.fit(volume).forward(oriented(volume, dims)).astype(np.float32)
            features.add(image)
            looks.append((thumbnail(image), *histogram(image), spectrum(image)))
            entries.append(entry)
            spacings.append(volume.geometry.spacing)
            modalities.append(volume.modality)
        except InputError as failure:
            left_out.append((entry.name, str(failure).replace(str(entry.path), entry.path.name)))
        if progress is not None:
            progress(stage, number, len(listing.entries))
    if not entries:
        raise EmptyInput(stage, f"no scan that can be compared ({len(left_out)} left out)", "one at least")
    vectors, cut = features.result()
    thumbs, histograms, quantiles, spectra = (np.stack(column) for column in zip(*looks, strict=True))
    return Scans(
        tuple(entries),
        tuple(spacings),
        tuple(modalities),
        vectors,
        cut,
        thumbs,
        histograms,
        quantiles,
        spectra,
        tuple(left_out),
    )


def oriented(volume: Volume, dims: int) -> Values:
    """(rows, columns) as displayed, or (left, posterior, superior)."""
    plane = planes(volume)[0][1] if dims == 2 else volume.reorient(AXCODES).array
    return np.asarray(plane, dtype=np.float32)


class _Features:
    """Features as the scans come; a batch at a time."""

    def __init__(self, dims: int, network: EfficientNetLite0) -> None:
        self.dims, self.network = dims, network
        self.waiting: list[Values] = []
        self.found: list[dict[str, tuple[Features, NDArray[np.intp]]]] = []

    def add(self, image: Values) -> None:
        if self.dims == 3:
            self.found.append(plane_features([image], AXCODES, self.network))
            return
        self.waiting.append(image)
        if len(self.waiting) == 16:
            self._flush()

    def _flush(self) -> None:
        if self.waiting:
            values = image_features(self.waiting, self.network)
            self.found += [{"image": (row[None], np.zeros(1, dtype=np.intp))} for row in values]
            self.waiting = []

    def result(self) -> tuple[Features, dict[str, tuple[Features, NDArray[np.intp]]]]:
        """One vector a scan, and the slices of the planes that every scan has."""
        self._flush()
        names = sorted(set.intersection(*(set(own) for own in self.found)))
        if not names:
            raise InputError("features", "volumes without a plane in common", "planes of 16 voxels each way in all")
        vectors = np.stack([np.concatenate([own[name][0].mean(0) for name in names]) for own in self.found])
        cut = {}
        for name in names:
            owners = np.repeat(np.arange(len(self.found)), [len(own[name][0]) for own in self.found])
            cut[name] = (np.concatenate([own[name][0] for own in self.found]), owners.astype(np.intp))
        return vectors, cut


def thumbnail(image: Values) -> Values:
    """Area means of an image (I, J) or (I, J, K) on the small grid `THUMB`, their blurred copy taken away."""
    edge = THUMB[image.ndim]
    small = F.interpolate(torch.from_numpy(np.ascontiguousarray(image))[None, None], (edge,) * image.ndim, mode="area")
    values = small[0, 0].numpy()
    return np.asarray(gaussian_filter(values, FINE) - gaussian_filter(values, COARSE), dtype=np.float32)


def histogram(image: Values) -> tuple[Numbers, Numbers]:
    """Shares of the voxels (BINS,) from -`OUTSIDE` to 1 + `OUTSIDE`, what lies beyond at the ends; the `QUANTILES`."""
    inside = image.clip(-OUTSIDE, 1 + OUTSIDE)
    counts, _ = np.histogram(inside, bins=BINS, range=(-OUTSIDE, 1 + OUTSIDE))
    return counts / counts.sum(), np.quantile(image, QUANTILES).astype(np.float64)


def spectrum(image: Values) -> Numbers:
    """Log10 of the mean power at each distance from 0 to Nyquist, of the image less its mean, under a Hann window."""
    windowed = (image - image.mean()).astype(np.float64)
    for axis, size in enumerate(image.shape):
        windowed *= np.hanning(size + 2)[1:-1].reshape([-1 if a == axis else 1 for a in range(image.ndim)])
    power = np.abs(np.fft.rfftn(windowed)) ** 2 / windowed.size
    last = image.ndim - 1
    axes = [(np.fft.rfftfreq if a == last else np.fft.fftfreq)(n) for a, n in enumerate(image.shape)]
    radius = np.sqrt(sum(f**2 for f in np.meshgrid(*axes, indexing="ij", sparse=True)))
    ring = (radius / 0.5 * RADII).astype(int).ravel()
    inside = ring < RADII
    counts = np.bincount(ring[inside], minlength=RADII)
    total = np.bincount(ring[inside], weights=power.ravel()[inside], minlength=RADII)
    return np.asarray(np.log10(total / counts.clip(1) + 1e-12))
