"""The process beside the window: progress, previews, cancelling, errors; nothing is left behind."""

import io
import os
import sys
import threading
import time
from functools import partial

import numpy as np
import pytest
from napari_medldm.jobs import Job, Workshop
from napari_medldm.request import Request
from napari_medldm.worker import receive, send
from qtpy.QtCore import QCoreApplication

import medldm


@pytest.fixture(scope="module")
def workshop():
    shop = Workshop()
    yield shop
    shop.close()


@pytest.fixture(scope="module", autouse=True)
def application(request):
    """One that windows can use afterwards: under PySide6 the first one stays."""
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        yield QCoreApplication.instance() or QCoreApplication([])
    else:
        yield request.getfixturevalue("qapp")


def test_messages_arrive_as_they_were_sent_or_not_at_all():
    rng = np.random.default_rng(0)
    whole = rng.random((7, 8, 9)).astype(np.float32)
    sent = ("finished", {"c": whole, "f": np.asfortranarray(whole), "part": whole[::2, 1:], "mask": whole > 0.5})
    stream = io.BytesIO()
    send(stream, sent)
    send(stream, ("cancel",))
    stream.seek(0)
    kind, arrays = receive(stream)
    assert kind == "finished" and receive(stream) == ("cancel",)
    for name, array in sent[1].items():
        np.testing.assert_array_equal(arrays[name], array)
        arrays[name][...] = 0  # one's own, to be written to
    assert whole.any()
    with pytest.raises(EOFError):
        receive(stream)
    cut = io.BytesIO(stream.getvalue()[:-1])
    receive(cut)
    with pytest.raises(EOFError):
        receive(cut)


def finished(job, seconds=600):
    """Run the event loop until the job has ended; what it said."""
    heard = []
    job.progressed.connect(lambda *content: heard.append(("progress", *content)))
    job.previewed.connect(lambda volume: heard.append(("preview", volume)))
    job.finished.connect(lambda result: heard.append(("finished", result)))
    job.failed.connect(lambda text: heard.append(("failed", text)))
    job.cancelled.connect(lambda: heard.append(("cancelled",)))
    done = []
    job.ended.connect(lambda: done.append(True))
    job.start()
    end = time.monotonic() + seconds
    while not done and time.monotonic() < end:
        QCoreApplication.processEvents()
        yield heard
        time.sleep(0.005)
    assert done, "the job has not ended"
    assert job.wait(5)
    yield heard


def last(job):
    *_, heard = finished(job)
    return heard


def test_a_job_gives_what_the_api_gives_and_keeps_the_source(noisy_scan, pack, workshop):
    from dataclasses import replace

    marked = replace(noisy_scan, source="the source's headers")
    request = Request("denoise", pack, noise_std=20.0, mode=1.0, samples=2, steps=4)
    heard = last(Job(workshop, marked, None, request))
    kinds = [each[0] for each in heard]
    assert kinds.count("preview") == 8 and kinds[-1] == "finished"
    assert [each[2] for each in heard if each[0] == "progress" and each[1] == "denoise"] == [1, 2, 3, 4, 5, 6, 7, 8]
    result = heard[-1][1]
    wanted = medldm.denoise(noisy_scan, model=pack, noise_std=20.0, mode=1.0, samples=2, steps=4)
    np.testing.assert_allclose(result.array, wanted.array, rtol=1e-5, atol=1e-3)
    assert result.volume.source == result.residual.source == "the source's headers"


def test_errors_come_as_one_line_and_the_process_serves_on(noisy_scan, pack, workshop):
    heard = last(Job(workshop, noisy_scan, None, Request("denoise", "no-such-model")))
    assert heard[-1][0] == "failed" and "no-such-model" in heard[-1][1]
    heard = last(Job(workshop, noisy_scan, None, Request("denoise", pack, noise_std=20.0)))
    assert heard[-1][0] == "finished"


def test_a_process_that_dies_is_reported_and_replaced(noisy_scan, pack, workshop):
    job = Job(workshop, noisy_scan, None, Request("denoise", pack, samples=2, steps=200))
    for heard in finished(job):
        if any(each[0] == "preview" for each in heard) and workshop._process is not None:
            workshop._process.kill()
    assert heard[-1][0] == "failed" and "ended" in heard[-1][1]
    assert last(Job(workshop, noisy_scan, None, Request("denoise", pack, noise_std=20.0)))[-1][0] == "finished"


def test_twenty_starts_and_cancels_leave_no_thread_and_no_memory(noisy_scan, pack, workshop):
    import gc

    resource = pytest.importorskip("resource", reason="memory is not told there")

    threads, before = threading.active_count(), None
    for number in range(22):
        job = Job(workshop, noisy_scan, None, Request("denoise", pack, samples=2, steps=200))
        steps_after = None
        for heard in finished(job):
            done = max((each[2] for each in heard if each[0] == "progress" and each[1] == "denoise"), default=0)
            if done >= 2 and steps_after is None:
                job.cancel()
                steps_after = done
        assert heard[-1] == ("cancelled",)
        del heard, job
        gc.collect()
        if number == 1:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert threading.active_count() <= threads
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 20


@pytest.fixture
def stubborn(tmp_path, monkeypatch, workshop):
    """A module of problems whose computing never comes to its next step."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'napari_medldm.worker' in ' '.join(sys.orig_argv):\n"
        "    import time\n"
        "    import napari_medldm.request\n"
        "    napari_medldm.request.run = lambda volume, request, model, progress, *_: (\n"
        "        progress('tile', 0, 9), time.sleep(600)\n"
        "    )\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    shop = Workshop()
    yield shop
    shop.close()


def test_cancelling_does_not_wait_for_a_step_that_takes_long(noisy_scan, pack, stubborn, workshop):
    job = Job(stubborn, noisy_scan, None, Request("denoise", pack, noise_std=20.0))
    asked = None
    for heard in finished(job):
        if asked is None and ("progress", "tile", 0, 9) in heard:
            process = stubborn._process
            job.cancel()
            asked = time.monotonic()
    assert heard[-1] == ("cancelled",) and time.monotonic() - asked < 30  # not the 600 of the step
    process.wait(60)
    assert not job.running()


def test_a_scan_that_is_still_being_read_is_not_waited_for(noisy_scan, pack, workshop):
    from medldm import LazyScan

    reading, released = threading.Event(), threading.Event()

    def load():
        reading.set()
        assert released.wait(60)
        return noisy_scan

    facts = noisy_scan.geometry, noisy_scan.unit, noisy_scan.modality, noisy_scan.history
    job = Job(workshop, LazyScan(*facts, plane=None, load=load), None, Request("denoise", pack, noise_std=20.0))
    heard, ended = [], []
    job.cancelled.connect(lambda: heard.append("cancelled"))
    job.failed.connect(heard.append)
    job.finished.connect(lambda _: heard.append("finished"))
    job.ended.connect(lambda: ended.append(True))
    job.start()
    assert reading.wait(60)
    job.cancel()
    end = time.monotonic() + 60
    while not ended and time.monotonic() < end:
        QCoreApplication.processEvents()
    assert heard == ["cancelled"] and ended == [True] and not job.running()
    released.set()
    assert job.wait(60)
    QCoreApplication.processEvents()
    assert heard == ["cancelled"] and ended == [True]


def test_a_process_may_be_ended_by_several_at_once(workshop):
    """The window closes while the thread of a job finds the process gone."""
    for _ in range(3):
        shop = Workshop()
        process = shop.process()
        process.kill()
        ways = (shop.close, partial(shop.replace, process), shop.close)
        threads = [threading.Thread(target=end) for end in ways]
        failed = []
        hook, threading.excepthook = threading.excepthook, failed.append
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        threading.excepthook = hook
        assert not failed and process.poll() is not None and shop._process is None
