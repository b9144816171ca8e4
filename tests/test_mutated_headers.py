"""Two thousand damaged files of each format: a scan or a MedldmError, and no memory to speak of."""

import gzip
import warnings
import zipfile

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import medldm
from benchmarks.record import peak_bytes
from medldm.errors import MedldmError
from tests.dicom_maker import make_series

MANY = 2000
EXAMPLES = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MOST_BYTES = 2**28
# where a header says most: a place, then what is written there (or what is cut off)
MUTATIONS = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.one_of(
            st.binary(min_size=1, max_size=8),
            st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"NaN ", b"-1", b"\\\\", b"1e99"]),
        ),
    ),
    min_size=1,
    max_size=6,
)
CUTS = st.one_of(st.none(), st.floats(0, 1))


def mutated(content, header, changes, cut):
    data = bytearray(content)
    for place, patch in changes:
        start = int(place * header)
        data[start : start + len(patch)] = patch
    return bytes(data[: len(data) if cut is None else int(cut * len(data))])


def scan_or_typed_error(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            volume = medldm.read(path, max_bytes=MOST_BYTES)
        except MedldmError as error:
            assert "\n" not in str(error)
            return
    assert np.isfinite(volume.array).all() and volume.array.nbytes <= MOST_BYTES


def swarm(path, content, header, *, wrap=lambda data: data, kinds=1):
    """Read mutations, 2,000 of a format of so many kinds; only MedldmError escapes, and memory stays bounded."""
    before = peak_bytes()

    @settings(EXAMPLES, max_examples=MANY // kinds)
    @given(MUTATIONS, CUTS)
    def run(changes, cut):
        path.write_bytes(wrap(mutated(content, header, changes, cut)))
        scan_or_typed_error(path)

    run()
    assert peak_bytes() - before < 2 * MOST_BYTES


@pytest.mark.parametrize("modality", ["CT", "PT"])
def test_classic_dicom(tmp_path, modality):
    content = (make_series(tmp_path / "G", n=1, modality=modality) / "a000.dcm").read_bytes()
    swarm(tmp_path / "a.dcm", content, len(content) - 240, kinds=2)


def test_multi_frame_dicom(tmp_path, data_dir):
    file = next((data_dir / "dicom/ct_enhanced/legacy_pair/multiframe").iterdir())
    content = file.read_bytes()
    swarm(tmp_path / "a.dcm", content, len(content) - 3 * 23 * 38 * 2)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti(tmp_path, suffix):
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.diag([2, 2, 3, 1]))
    wrap = gzip.compress if suffix.endswith("gz") else bytes
    swarm(tmp_path / f"a{suffix}", image.to_bytes(), 352, wrap=wrap, kinds=2)


@pytest.mark.parametrize("version", ["PNG", "TIFF"])
def test_pictures(tmp_path, version):
    path = tmp_path / f"a.{version.lower()}"
    Image.fromarray(np.arange(120, dtype=np.uint8).reshape(10, 12)).save(path)
    content = path.read_bytes()
    swarm(path, content, len(content))


def test_zip(tmp_path):
    folder = make_series(tmp_path / "G", n=2)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    content = (tmp_path / "a.zip").read_bytes()
    swarm(tmp_path / "a.zip", content, len(content))
