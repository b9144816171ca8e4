"""There and back again: derived series through the DICOM server Orthanc, over the network protocol."""

import json
import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

import numpy as np
import pydicom
import pytest

import medldm
from tests.test_derived import SYNTHETIC, restored
from tests.test_derived_referees import files_of, finer
from tests.test_parametric_map import PARAMETRIC_MAP, uncertainty

pytestmark = pytest.mark.slow
pytest.importorskip("pynetdicom")

from pynetdicom import AE, build_role, evt  # noqa: E402
from pynetdicom.sop_class import (  # noqa: E402
    StudyRootQueryRetrieveInformationModelFind as Find,
)
from pynetdicom.sop_class import (  # noqa: E402
    StudyRootQueryRetrieveInformationModelGet as Get,
)
from pynetdicom.sop_class import Verification  # noqa: E402

AET = "MEDLDM"
IMAGES = [f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "4", "128")]
SUCCESS, PENDING = 0x0000, (0xFF00, 0xFF01)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def association(port, events=(), aet=AET):
    """An association that stores, finds and gets images, uncompressed; it is None where the server refuses."""
    ae = AE(aet)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
    for storage in (*IMAGES, PARAMETRIC_MAP):
        ae.add_requested_context(storage, pydicom.uid.ExplicitVRLittleEndian)
    for service in (Verification, Find, Get):
        ae.add_requested_context(service)
    roles = [build_role(storage, scu_role=True, scp_role=True) for storage in (*IMAGES, PARAMETRIC_MAP)]
    found = ae.associate("127.0.0.1", port, ae_title="ORTHANC", ext_neg=roles, evt_handlers=list(events))
    try:
        yield found if found.is_established else None
    finally:
        if found.is_established:
            found.release()


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    """Port of a server of our own, in a folder of its own; it ends with the tests."""
    program = shutil.which("Orthanc", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if program is None:
        pytest.skip("Orthanc is not installed (Debian: apt-get install orthanc)")
    folder, port = tmp_path_factory.mktemp("orthanc"), free_port()
    known = {"AET": AET, "Host": "127.0.0.1", "Port": 11112}
    known |= {f"Allow{what}": True for what in ("Echo", "Store", "Find", "Get")}
    options = {"HttpServerEnabled": False, "DicomAet": "ORTHANC", "DicomPort": port, "DicomCheckModalityHost": True}
    options |= {f"DicomAlwaysAllow{what}": False for what in ("Echo", "Store", "Find", "Get")}
    options |= {"StorageDirectory": "db", "IndexDirectory": "db", "SyncStorageArea": False}
    options |= {"Plugins": [], "DicomModalities": {"t": known}}
    (folder / "orthanc.json").write_text(json.dumps(options))
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([program, "orthanc.json"], cwd=folder, stdout=log, stderr=log)
        try:
            _wait(server, port)
            yield port
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait(server, port):
    for _ in range(300):
        assert server.poll() is None, "Orthanc ended before it answered"
        with association(port) as one:
            if one is not None and one.send_c_echo().get("Status") == SUCCESS:
                return
        time.sleep(0.1)
    raise AssertionError("Orthanc does not answer")


def send(port, files):
    with association(port) as one:
        return [one.send_c_store(pydicom.dcmread(file)).Status for file in files]


def find(port, level, dataset, **wanted):
    """What C-FIND answers on the series (or the images) of a data set."""
    query = pydicom.Dataset()
    query.QueryRetrieveLevel = level
    query.StudyInstanceUID, query.SeriesInstanceUID = dataset.StudyInstanceUID, dataset.SeriesInstanceUID
    for keyword, value in wanted.items():
        setattr(query, keyword, value)
    with association(port) as one:
        answers = list(one.send_c_find(query, Find))
    assert answers[-1][0].Status == SUCCESS and all(s.Status in PENDING for s, _ in answers[:-1])
    return [identifier for _, identifier in answers[:-1]]


def get(port, dataset):
    """The series of a data set as the server gives it back, by SOPInstanceUID."""
    kept = {}

    def keep(event):
        received = event.dataset
        received.file_meta = event.file_meta
        kept[received.SOPInstanceUID] = received
        return SUCCESS

    query = pydicom.Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID, query.SeriesInstanceUID = dataset.StudyInstanceUID, dataset.SeriesInstanceUID
    with association(port, [(evt.EVT_C_STORE, keep)]) as one:
        answers = [status for status, _ in one.send_c_get(query, Get)]
    assert answers[-1].Status == SUCCESS and answers[-1].get("NumberOfFailedSuboperations", 0) == 0
    return kept


def there_and_back(port, files, modality):
    sent = [pydicom.dcmread(file) for file in files]
    first = sent[0]
    assert send(port, files) == [SUCCESS] * len(files) == send(port, files)  # twice
    images = find(port, "IMAGE", first, SOPInstanceUID="")
    assert sorted(i.SOPInstanceUID for i in images) == sorted(d.SOPInstanceUID for d in sent)  # and there once
    (series,) = find(port, "SERIES", first, Modality="", SeriesDescription="", NumberOfSeriesRelatedInstances="")
    assert (series.Modality, series.SeriesDescription) == (modality, first.SeriesDescription)
    assert series.NumberOfSeriesRelatedInstances == len(files)
    received = get(port, first)
    assert len(received) == len(files)
    for ours in sent:
        theirs = received[ours.SOPInstanceUID]
        assert theirs == ours  # every attribute, down into the sequences, and the bytes of the pixels
        np.testing.assert_array_equal(theirs.pixel_array, ours.pixel_array)


@pytest.mark.parametrize(
    "name", ["mr_philips_mprage_classic", "ct_tilt_philips_phantom", "ct_enhanced/perfusion", "pt_single_slices/1.dcm"]
)
def test_derived_real_series_come_back_as_they_went(data_dir, tmp_path, orthanc, name):
    scan = medldm.read(data_dir / "dicom" / name)
    for folder, volume in ((tmp_path / "same", restored(scan)), (tmp_path / "finer", finer(scan))):
        medldm.write(volume, folder)
        there_and_back(orthanc, files_of(folder), scan.modality)
    medldm.write(uncertainty(scan), tmp_path / "u.dcm", "parametric_map")
    there_and_back(orthanc, [tmp_path / "u.dcm"], "OT")


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_generated_series_and_synthetic_ones_come_back_as_they_went(dicom_series, tmp_path, orthanc, modality):
    scan = medldm.read(dicom_series(modality=modality))
    medldm.write(restored(scan), tmp_path / "out")
    there_and_back(orthanc, files_of(tmp_path / "out"), modality)
    if modality != "PT":
        medldm.write(scan.with_array(scan.array, SYNTHETIC), tmp_path / "synthetic")
        there_and_back(orthanc, files_of(tmp_path / "synthetic"), modality)


def test_a_stranger_is_refused(orthanc):
    """That the server is closed to all but these tests, though it listens beyond the loopback."""
    with association(orthanc, aet="STRANGER") as one:
        assert one is None or one.send_c_echo().get("Status") != SUCCESS
