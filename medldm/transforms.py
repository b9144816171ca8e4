"""MONAI's side: transforms that read through medldm, for a Dataset of one's own, and Volumes as MetaTensors.

There is no `ImageReader`: MONAI's LoadImage takes a reader's refusal (a missing slice, an unknown place) for a reason
to try the next reader, which may well read what should not be read.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform, Transform
from monai.utils.enums import MetaKeys, SpaceKeys

from medldm.inputs import Scan, as_volume
from medldm.io import read_choice
from medldm.io.choice import Choice


def to_metatensor(scan: Scan, *, channel_first: bool = True) -> MetaTensor:
    """A scan as MONAI's transforms take it: float32, (1, I, J, K), affine to RAS+ mm; unit and marks in `meta`.

    scan : Volume, path or image (see `medldm.as_volume`, which takes the result back)
    channel_first : with the axis of one channel that MONAI's transforms expect; default True
    Raises InputError for what is no scan.

    >>> from medldm.transforms import to_metatensor
    >>> to_metatensor(scan).shape
    torch.Size([1, 24, 20, 16])
    """
    volume = as_volume(scan)
    meta = {
        **volume.marks.to_dict(),
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.SPATIAL_SHAPE: volume.geometry.shape,
        MetaKeys.ORIGINAL_CHANNEL_DIM: 0 if channel_first else float("nan"),
    }
    values = torch.from_numpy(volume.array.copy())
    affine = torch.from_numpy(volume.geometry.affine.copy())
    return MetaTensor(values[None] if channel_first else values, affine=affine, meta=meta)


class ReadScan(Transform):
    """Read a path with `medldm.read`, to a MetaTensor (1, I, J, K).

    choice : which scan, and what may be assumed; default None: there is but one, nothing is assumed
    Raises what `medldm.read` raises: nothing is read in another way instead.

    >>> from medldm.transforms import ReadScan
    >>> ReadScan()("scan.nii.gz").pixdim
    tensor([2., 2., 3.], dtype=torch.float64)
    """

    def __init__(self, choice: Choice | None = None) -> None:
        self.choice = choice or Choice()

    def __call__(self, path: str | Path) -> MetaTensor:
        return to_metatensor(read_choice(path, self.choice))


class ReadScand(MapTransform):
    """The same of the entries `keys` of a dictionary, as MONAI's Datasets hold them.

    keys : of the paths
    choice : as in `ReadScan`
    allow_missing_keys : pass over a key that is not there; default False

    >>> from medldm.transforms import ReadScand
    >>> ReadScand("image")({"image": "scan.nii.gz", "age": 61})["image"].shape
    torch.Size([1, 24, 20, 16])
    """

    def __init__(self, keys: KeysCollection, choice: Choice | None = None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.read = ReadScan(choice)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.read(out[key])
        return out
