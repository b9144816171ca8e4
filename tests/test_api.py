"""The public API as a newcomer meets it: names, types, documentation, examples, what a notebook shows, refusals."""

import ast
import base64
import copy
import dataclasses
import doctest
import importlib
import inspect
import io
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import medldm
from medldm import Geometry, InputError, ModelError, OutputError, Volume, transforms
from medldm.model import load_model
from medldm.recipe import parse_recipe
from tests.dicom_maker import CANARY, make_series
from tests.test_plan import radiographs
from tests.tiny import pack_of, tiny_table, with_generator, with_mask_head

ROOT = Path(__file__).parents[1]
FUNCTIONS = [name for name in medldm.__all__ if inspect.isfunction(getattr(medldm, name))]
CLASSES = [name for name in medldm.__all__ if inspect.isclass(getattr(medldm, name))]
ENTRY = re.compile(r"^ *((?:[a-z_0-9]+, )*[a-z_0-9]+) : ", re.M)


def head():
    """A bright ellipsoid on a dark ground, thicker slices than pixels."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (24, 20, 16)), indexing="ij"))
    values = ((grid**2).sum(0) < 0.8) * (600 + 100 * np.sin(5 * grid[0]))
    values += np.random.default_rng(0).rayleigh(20, values.shape)
    return Volume(values, Geometry.from_spacing(values.shape, (2, 2, 3)), "arbitrary", "MR")


def toml(value):
    """A value as TOML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items() if item is not None) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else repr(value)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """The folder that the examples run in, with what they name."""
    root = tmp_path_factory.mktemp("desk")
    medldm.write(head(), root / "scan.nii.gz")
    radiographs(root / "pictures", 8, (32, 40))
    radiographs(root / "new", 4, (32, 40))
    make_series(root / "dicom")
    (root / "runs").mkdir()
    pack_of(root / "runs" / "brain", with_mask_head(tiny_table(3)))
    pack_of(root / "runs" / "painter", tiny_table(2))
    recipe = with_generator(tiny_table(2))
    trained = parse_recipe(recipe).training_table()
    load_model(root / "runs" / "painter").save(root / "runs" / "painter", trained)
    (root / "recipe.toml").write_text("".join(f"{key} = {toml(value)}\n" for key, value in recipe.items()))
    return root


@pytest.fixture(scope="module")
def model(desk):
    return load_model(desk / "runs" / "brain")


def examples():
    named = [(name, getattr(medldm, name)) for name in [*FUNCTIONS, *CLASSES]]
    named += [(name, getattr(transforms, name)) for name in ("to_metatensor", "ReadScan", "ReadScand")]
    found = [test for name, thing in named for test in doctest.DocTestFinder().find(thing, name)]
    return [test for test in found if test.examples]


@pytest.mark.parametrize("example", examples(), ids=lambda test: test.name)
@pytest.mark.filterwarnings("ignore:.*no unit of length")
def test_the_examples_in_the_documentation_run(example, desk, model, monkeypatch):
    monkeypatch.chdir(desk)
    example.globs = {"medldm": medldm, "scan": head(), "model": model}
    said = []
    assert doctest.DocTestRunner().run(example, out=said.append).failed == 0, "".join(said)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_shows_an_example(name):
    assert ">>> " in getattr(medldm, name).__doc__


def entries(text):
    """What a docstring says of each parameter."""
    parts = ENTRY.split(text or "")
    return {name: said for names, said in zip(parts[1::2], parts[2::2], strict=True) for name in names.split(", ")}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_of_a_function_is_documented_with_its_default(name):
    function = getattr(medldm, name)
    said = entries(function.__doc__)
    for parameter in inspect.signature(function).parameters.values():
        assert parameter.name in said, f"{name}: {parameter.name}"
        if parameter.default is not inspect.Parameter.empty and "as in `" not in said[parameter.name]:
            assert "default" in said[parameter.name].lower(), f"{name}: the default of {parameter.name}"


@pytest.mark.parametrize("name", [name for name in CLASSES if dataclasses.is_dataclass(getattr(medldm, name))])
def test_every_field_and_every_parameter_of_a_method_is_documented(name):
    kind = getattr(medldm, name)
    assert {field.name for field in dataclasses.fields(kind)} <= set(entries(kind.__doc__))
    for method in vars(kind).values():
        function = getattr(method, "__func__", method)
        if not inspect.isfunction(function) or function.__name__.startswith("_") or not inspect.signature(function):
            continue
        for parameter in list(inspect.signature(function).parameters)[1:]:
            text = function.__doc__ or ""
            assert parameter in entries(text) or f"`{parameter}`" in text, f"{name}.{function.__name__}: {parameter}"


def test_every_option_of_restoring_is_documented_with_its_default():
    said = entries(medldm.RestoreOptions.__doc__)
    assert set(said) == set(medldm.RestoreOptions.__annotations__)
    assert all("default" in text for text in said.values())


def test_dir_lists_the_public_names_and_nothing_else():
    told = "print(dir(medldm) == sorted(medldm.__all__))"
    report = f"import medldm; {told}; medldm.read; {told}"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]
    assert all(hasattr(medldm, name) for name in medldm.__all__)
    with pytest.raises(AttributeError, match="denoize"):
        medldm.denoize  # noqa: B018


def test_type_checkers_are_told_of_the_same_names_at_their_homes():
    stub = ast.parse(Path(medldm.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    told = {}
    for node in (node for node in stub.body if isinstance(node, ast.ImportFrom)):
        home = importlib.import_module(f"medldm.{node.module}")
        for alias in node.names:
            assert alias.asname == alias.name  # without it strict checkers take the name for a private one
            assert alias.name not in told and vars(home)[alias.name] is getattr(medldm, alias.name)
            assert vars(home)[alias.name].__module__ == home.__name__  # not a house that it only visits
            told[alias.name] = home
    assert {*told, "__version__"} == set(medldm.__all__)


def test_every_error_is_at_the_top_level():
    errors = importlib.import_module("medldm.errors")
    kinds = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)}
    assert kinds <= set(medldm.__all__)


def shown(html):
    """The pictures of a page."""
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(picture)))) for picture in pictures]


def test_a_notebook_shows_a_slice_true_to_scale_with_window_and_figures():
    scan = dataclasses.replace(head(), geometry=Geometry.from_spacing((24, 20, 16), (1, 3, 2)))
    text = scan._repr_html_()
    (picture,) = shown(text)
    assert picture.shape == (240, 96)  # 20 rows of 3 mm, 24 columns of 1 mm
    low, high = np.percentile(scan.array, (0.5, 99.5))
    assert f"{low:.4g} to {high:.4g}" in text and "1 x 3 x 2 mm" in text and "24 x 20 x 16" in text


def test_the_slice_is_upright_whatever_the_order_of_the_axes():
    scan = head().with_array(np.random.default_rng(1).random((24, 20, 16)))
    (first,) = shown(scan._repr_html_())
    for codes in ("PSR", "LPS", "SAR", "IRP"):
        (picture,) = shown(scan.reorient(codes)._repr_html_())
        assert np.array_equal(first, picture) == (first.shape == picture.shape)
    assert first[0, 0] != first[-1, -1]


@pytest.mark.parametrize("shape", [(9, 8, 1), (1, 9, 8), (9, 1, 8), (1, 1, 9)])
def test_single_slices_are_shown_as_they_are(shape):
    values = np.random.default_rng(0).random(shape)
    (picture,) = shown(Volume(values, Geometry.from_spacing(shape, (1, 1, 1)))._repr_html_())
    assert sorted(picture.shape)[1] == 240


def test_a_restoration_shows_result_residual_and_uncertainty(model):
    result = medldm.denoise(head(), model=model, noise_std=20.0)
    assert len(shown(result._repr_html_())) == 3
    text = result._repr_html_()
    assert "noise_std" in text and "20" in text and "tiny-3d" in text
    assert len(repr(result)) < 200 and "tiny-3d" in repr(result)


def test_a_model_is_told_in_a_line(model):
    assert len(repr(model)) < 200 and "denoise" in repr(model)
    assert "parameters" in model._repr_html_()


def test_nothing_shown_names_the_patient(tmp_path, model):
    scan = medldm.read(make_series(tmp_path / CANARY))
    result = medldm.denoise(scan, model=model, noise_std=20.0, value_range=(-1000, 1000))
    for thing in (scan, result, result.volume):
        assert CANARY not in thing._repr_html_() and CANARY not in repr(thing)


def test_texts_of_a_history_are_escaped():
    scan = head().with_step({"step": "<script>alert(1)</script>"})
    assert "<script" not in scan._repr_html_()


@pytest.mark.parametrize("again", [copy.deepcopy, copy.copy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_a_copy_of_a_volume_is_what_it_was(again, tmp_path):
    scan = medldm.read(make_series(tmp_path / "series")).with_step({"step": "mine", "values": [1, 2]})
    twin = again(scan)
    assert np.array_equal(twin.array, scan.array) and twin.array.dtype == np.float32
    assert not twin.array.flags.writeable and not twin.geometry.affine.flags.writeable
    assert np.array_equal(twin.geometry.affine, scan.geometry.affine)
    assert (twin.unit, twin.modality, twin.history) == (scan.unit, scan.modality, scan.history)
    medldm.write(twin, tmp_path / "derived")  # what the writer needs of the source came along
    np.testing.assert_allclose(medldm.read(tmp_path / "derived").array, scan.array, atol=1)


def test_numpy_takes_a_volume_for_its_voxels():
    scan = head()
    assert np.asarray(scan) is scan.array or np.shares_memory(np.asarray(scan), scan.array)
    assert np.array(scan).flags.writeable and np.asarray(scan, dtype=np.float64).dtype == np.float64
    np.testing.assert_array_equal(np.clip(scan, 0, 100), scan.array.clip(0, 100))
    with pytest.raises(ValueError):
        np.asarray(scan)[0, 0, 0] = 1


@pytest.mark.parametrize(
    ("act", "kind", "said"),
    [
        (lambda m: medldm.write(np.zeros((2, 2, 2)), "a.nii.gz"), InputError, "write: got a ndarray; expected"),
        (lambda m: medldm.write(head(), ["a.nii.gz"]), InputError, "got a list"),
        (lambda m: medldm.read(["a.dcm", "b.dcm"]), InputError, "path: got a list"),
        (lambda m: medldm.can_read(3), InputError, "path: got a int"),
        (lambda m: medldm.as_volume([[1, 2], [3, 4]]), InputError, "scan: got a list.*numpy.asarray"),
        (lambda m: medldm.as_volume(None), InputError, "scan: got a NoneType"),
        (lambda m: medldm.denoise(["a.nii.gz"], model=m), InputError, "scan: got a list"),
        (lambda m: medldm.denoise(head(), model=[m]), InputError, "model: got a list"),
        (lambda m: medldm.load_model(None), ModelError, "model None: got a NoneType"),
        (lambda m: medldm.load_model("absent"), ModelError, "model 'absent'"),
        (lambda m: medldm.denoise(head(), model=m, noise_std="a"), InputError, "noise_std: got 'a'"),
        (lambda m: medldm.denoise(head(), model=m, value_range="ab"), InputError, "value_range: got ab"),
        (lambda m: medldm.denoise(head(), model=m, value_range=(1,)), InputError, "value_range"),
        (lambda m: medldm.denoise(head(), model=m, value_range=("a", "b")), InputError, "value_range"),
        (lambda m: medldm.denoise(head(), model=m, progress=3), InputError, "progress: got 3"),
        (lambda m: medldm.denoise(head(), model=m, mode="perceptual", sampler="x"), InputError, "sampler 'x'"),
        (lambda m: medldm.denoise(head(), model=m, sampler=["x"]), InputError, "sampler"),
        (lambda m: medldm.denoise(head(), model=m, spacing=(1, 1, 1)), InputError, "spacing: got one for a Volume"),
        (lambda m: medldm.denoise(head(), model=m, affine=np.eye(4)), InputError, "affine: got one for a Volume"),
        (lambda m: medldm.super_resolve(head(), model=m, spacing=1.5), InputError, "target_spacing"),
        (lambda m: medldm.super_resolve(head(), model=m, scale=2, target_spacing=1), InputError, "both or neither"),
        (lambda m: medldm.restore(head(), 3, model=m), InputError, "task: got a int"),
        (lambda m: medldm.restore(head(), "deblur", model=m), ModelError, "no training for deblur"),
        (lambda m: medldm.inpaint(head(), [1], model=m), InputError, "scan: got a list"),
        (lambda m: list(medldm.synthesize(model=m, n="a")), InputError, "n: got 'a'"),
        (lambda m: medldm.as_volume(np.zeros((4, 4, 4))), InputError, "neither spacing nor affine"),
        (lambda m: medldm.as_volume(np.zeros((4, 4, 4)), spacing="a"), InputError, "spacing: got a"),
        (lambda m: medldm.as_volume(np.zeros((4, 4, 4)), affine=np.eye(3)), InputError, "affine: got shape"),
        (lambda m: medldm.as_volume(np.zeros((4, 4), complex)), InputError, "real numbers"),
        (lambda m: medldm.write_report("absent/a.html", head(), head()), InputError, "restoration: got a Volume"),
        (lambda m: medldm.write(head(), "a.nrrd"), OutputError, "no writer knows"),
        (lambda m: medldm.train(["recipe"], data=".", out="x"), InputError, "recipe"),
        (lambda m: medldm.train("absent.toml", data=".", out="x"), InputError, "absent.toml"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(act, kind, said, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=said) as caught:
        act(model)
    assert "\n" not in str(caught.value) and isinstance(caught.value, medldm.MedldmError)
    assert not list(tmp_path.iterdir())


def test_spacing_is_that_of_an_array_in_super_resolution_as_everywhere(model):
    scan = head()
    by_array = medldm.super_resolve(scan.array, model=model, spacing=(2, 2, 3), target_spacing=(2, 2, 1.5))
    by_volume = medldm.super_resolve(scan, model=model, target_spacing=(2, 2, 1.5))
    by_scale = medldm.super_resolve(scan, model=model, scale=2)
    assert by_array.volume.geometry.spacing == by_volume.volume.geometry.spacing == by_scale.volume.geometry.spacing
    np.testing.assert_array_equal(by_volume.array, by_scale.array)
