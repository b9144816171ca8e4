"""The parts of the demonstration: each does one task on one scan and adds a section to the report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import medldm
from medldm.cli import demo_cases as cases
from medldm.cli.output import Progress
from medldm.errors import MedldmError, ModelError
from medldm.evaluate import baselines
from medldm.model import Model
from medldm.report.page import Section
from medldm.volume import Volume

TEMPLATE = (
    "The MNI152 template, an average of 152 heads and so smoother than any of them, with Rician noise. "
    "medldm estimates the noise level; non-local means is given the true one."
)
ONE_HEAD = "Over voxels of the head. One head is an illustration, no evidence; the benchmark has intervals."
SYNTHETIC_RADIOGRAPH = (
    "No patient's radiograph ships with a package, so this one is synthetic, drawn by a model of medldm "
    "(recipe radiographs): smoother than a real one, and so an easy case."
)
DICOM_SLICE = (
    "A single MR slice that ships with pydicom, far from what the model was trained on: it shows the way of "
    "a DICOM file, not quality. The result is a derived series that refers to its source."
)
CT_SLICE = (
    "A slice of a thoracic CT that ships with pydicom, with white noise of 40 HU beside its own. Figures are against "
    "the slice as it was, of a range of 1400 HU. medldm estimates the noise level; non-local means knows it. "
    "The result is a derived DICOM image in HU."
)
GREY_TOP = 255.0
CT_NOISE, CT_RANGE = 40.0, 1400.0  # HU


@dataclass
class Run:
    """What the parts share: where to write, how to report, what was found."""

    out: Path
    progress: Progress
    quiet: bool
    seed: int
    overwrite: bool
    failures: list[str]
    sections: list[Section] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def part(self, name: str, work: Callable[[], None]) -> None:
        """Do one part; a failure is reported and the others go on."""
        start = time.perf_counter()
        try:
            work()
        except MedldmError as failure:
            if failure.exit_code == 130:
                raise
            self.failures.append(f"{name}: {failure}")
            self.say(f"{name}: {failure}")
        else:
            self.seconds[name] = round(time.perf_counter() - start, 1)
            self.say(f"{name}: {self.seconds[name]:.0f} s")

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, flush=True)

    def write(self, volume: Volume, name: str, format: str | None = None) -> None:
        medldm.write(volume, self.out / name, format, overwrite=self.overwrite)


def own_scan(run: Run, path: Path, models: list[Model]) -> None:
    """Denoise the user's scan with the model that has the fewest doubts about it."""
    volume = medldm.read(path)
    fitting = [model for model in models if model.pack.dims == 2 or volume.array.shape[2] != 1]
    if not fitting:
        raise ModelError("your scan", "a 2D scan", "a 2D model", "see medldm models")
    model = min(fitting, key=lambda each: len(each.fits(volume)))
    result = medldm.denoise(volume, model=model, seed=run.seed, progress=run.progress)
    run.write(result.volume, "your-scan-denoised.nii.gz")
    text = f"By {model.name}. No truth is known here: judge by the residual and the uncertainty."
    run.sections.append(Section.of_restoration("Your scan, denoised", volume, result, text=text))


@dataclass
class Head:
    """Noise, thick slices, a DICOM file and, if it can, synthesis, with a 3D model."""

    run: Run
    model: Model

    def all(self) -> None:
        self.run.part("head, denoise", self.denoise)
        self.run.part("head, super-resolve", self.super_resolve)
        self.run.part("DICOM slice, denoise", self.dicom)
        if self.model.pack.synthesis is not None:
            self.run.part("head, synthesize", self.synthesize)

    @cached_property
    def truth(self) -> Volume:
        return cases.template_head()

    def denoise(self) -> None:
        run, std = self.run, cases.NOISE * cases.RANGE
        noisy = cases.with_rician_noise(self.truth, std)
        result = medldm.denoise(noisy, model=self.model, seed=run.seed, progress=run.progress)
        other = cases.classical(
            noisy, noisy.geometry, "non-local means", lambda x: baselines.non_local_means(x, std, rician=True)
        )
        section, run.figures["head, noise 10 %"] = cases.compare(
            "Head: Rician noise of 10 %, denoised",
            noisy,
            result,
            truth=self.truth,
            others=[other],
            plain=[cases.Method("noisy", noisy)],
            data_range=cases.RANGE,
            mask=self.truth.array > 0.1 * cases.RANGE,
            text=TEMPLATE,
            note=ONE_HEAD,
        )
        run.sections.append(section)
        run.write(noisy, "head-noisy.nii.gz")
        run.write(result.volume, "head-denoised.nii.gz")
        if result.uncertainty is not None:
            run.write(result.uncertainty, "head-denoised-uncertainty.nii.gz")
        run.write(result.volume, "head-denoised-dicom", "dicom")

    def super_resolve(self) -> None:
        run, factor = self.run, [1, 1, 1]
        factor[cases.superior_axis(self.truth)] = 2
        thick, grid = cases.coarsened(self.truth, factor), self.truth.geometry
        result = medldm.super_resolve(thick, model=self.model, scale=factor, seed=run.seed, progress=run.progress)
        cubic = cases.classical(thick, grid, "cubic", lambda x: baselines.interpolate(x, factor))
        projected = cases.classical(thick, grid, "cubic back-projected", lambda x: baselines.back_projected(x, factor))
        section, run.figures["head, slices x2"] = cases.compare(
            "Head: slices twice as thick, super-resolved",
            thick,
            result,
            truth=self.truth,
            others=[cubic],
            plain=[projected],
            data_range=cases.RANGE,
            mask=self.truth.array > 0.1 * cases.RANGE,
            text="Pairs of slices were averaged; the model restores the finer grid along superior-inferior.",
            note=ONE_HEAD,
        )
        run.sections.append(section)
        run.write(result.volume, "head-superres.nii.gz")

    def dicom(self) -> None:
        run, scan = self.run, medldm.read(cases.sample_dicom("MR_small.dcm"))
        result = medldm.denoise(scan, model=self.model, seed=run.seed, progress=run.progress)
        run.write(result.volume, "mr-slice-denoised-dicom", "dicom")
        run.sections.append(Section.of_restoration("A DICOM slice, denoised", scan, result, text=DICOM_SLICE))

    def synthesize(self) -> None:
        run = self.run
        scans = list(medldm.synthesize(model=self.model, n=2, steps=20, seed=run.seed, progress=run.progress))
        for number, synthetic in enumerate(scans):
            run.write(synthetic, f"head-synthetic-{number}.nii.gz")
        text = "Drawn from noise by the same weights; they are nobody's."
        run.sections.append(Section.of_gallery("Synthetic heads", scans, text=text))


@dataclass
class Radiograph:
    """Noise and large pixels of a synthetic radiograph and, if it can, synthesis, with a 2D model."""

    run: Run
    model: Model

    def all(self) -> None:
        if self.model.pack.synthesis is not None:
            self.run.part("radiograph, synthesize", self.synthesize)
        self.run.part("radiograph, denoise", self.denoise)
        self.run.part("radiograph, super-resolve", self.super_resolve)

    @cached_property
    def truth(self) -> Volume:
        return cases.synthetic_radiograph()

    def synthesize(self) -> None:
        run = self.run
        scans = list(medldm.synthesize(model=self.model, n=4, seed=run.seed, progress=run.progress))
        for number, synthetic in enumerate(scans):
            run.write(synthetic, f"radiograph-synthetic-{number}.png")
        text = "Drawn from noise; they are nobody's."
        run.sections.append(Section.of_gallery("Synthetic radiographs", scans, text=text))

    def denoise(self) -> None:
        run, std = self.run, cases.NOISE * GREY_TOP
        noisy = cases.with_gaussian_noise(self.truth, std)
        result = medldm.denoise(
            noisy, model=self.model, value_range=(0.0, GREY_TOP), seed=run.seed, progress=run.progress
        )
        other = cases.classical(noisy, noisy.geometry, "non-local means", lambda x: baselines.non_local_means(x, std))
        section, run.figures["radiograph, noise 10 %"] = cases.compare(
            "Synthetic radiograph: noise of 10 %, denoised",
            noisy,
            result,
            truth=self.truth,
            others=[other],
            plain=[cases.Method("noisy", noisy)],
            data_range=GREY_TOP,
            text=SYNTHETIC_RADIOGRAPH,
        )
        run.sections.append(section)
        run.write(result.volume, "radiograph-denoised.nii.gz")

    def super_resolve(self) -> None:
        run, truth = self.run, self.truth
        coarse = cases.coarsened(truth, (4, 4, 1))
        result = medldm.super_resolve(
            coarse,
            model=self.model,
            scale=4,
            value_range=(0.0, GREY_TOP),
            seed=run.seed,
            progress=run.progress,
        )
        other = cases.classical(coarse, truth.geometry, "cubic", lambda x: baselines.interpolate(x, (4, 4)))
        section, run.figures["radiograph, pixels x4"] = cases.compare(
            "Synthetic radiograph: pixels four times as large, super-resolved",
            coarse,
            result,
            truth=truth,
            others=[other],
            data_range=GREY_TOP,
            text=SYNTHETIC_RADIOGRAPH,
        )
        run.sections.append(section)
        run.write(result.volume, "radiograph-superres.nii.gz")


@dataclass
class Torso:
    """Noise of a CT slice, with a 2D model of CT."""

    run: Run
    model: Model

    def all(self) -> None:
        self.run.part("CT slice, denoise", self.denoise)

    def denoise(self) -> None:
        run, truth = self.run, medldm.read(cases.sample_dicom("CT_small.dcm"))
        noisy = cases.with_gaussian_noise(truth, CT_NOISE)
        result = medldm.denoise(noisy, model=self.model, seed=run.seed, progress=run.progress)
        other = cases.classical(
            noisy, noisy.geometry, "non-local means", lambda x: baselines.non_local_means(x, CT_NOISE)
        )
        section, run.figures["CT slice, noise of 40 HU"] = cases.compare(
            "CT slice: noise of 40 HU, denoised",
            noisy,
            result,
            truth=truth,
            others=[other],
            plain=[cases.Method("noisy", noisy)],
            data_range=CT_RANGE,
            text=CT_SLICE,
        )
        run.sections.append(section)
        run.write(result.volume, "ct-denoised-dicom", "dicom")
