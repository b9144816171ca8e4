"""Pictures of a training are upright, and large enough to be looked at."""

import numpy as np
import torch
from PIL import Image

from medldm.recipe import parse_recipe
from medldm.training.pictures import upright, write_picture
from tests import tiny


def _pack(dims: int, axcodes: str):
    return parse_recipe(tiny.with_pack(tiny.tiny_table(dims), axcodes=axcodes)).pack


def test_radiographs_stand_upright():
    left = torch.zeros(24, 32)
    left[20:, 2] = 1  # far to the left and near the top of the patient
    shown = upright([left, torch.zeros(24, 32)], _pack(2, "LPS"))
    assert shown.shape == (1, 32, 48)
    assert torch.equal(shown[0].nonzero(), torch.tensor([[2, column] for column in range(20, 24)]))


def test_of_heads_the_three_planes_are_seen():
    head = torch.zeros(16, 20, 12)  # posterior, superior, right
    head[:, 18] = 1  # its crown
    (shown,) = upright([head], _pack(3, "PSR"))
    assert shown.shape == (16 + 20 + 20, 16)  # axial, coronal, sagittal
    bright = shown.sum(1).nonzero().flatten().tolist()
    assert bright == [16 + 1, 16 + 20 + 1]  # at the top of both that have one


def test_small_ones_are_enlarged_by_whole_pixels(tmp_path):
    image = torch.rand(1, 30, 20)
    write_picture(tmp_path / "pictures" / "a.png", image)
    pixels = np.asarray(Image.open(tmp_path / "pictures" / "a.png"))
    assert pixels.shape == (150, 100)
    assert np.array_equal(pixels[2::5, 2::5], (255 * image[0]).round().byte().numpy())
