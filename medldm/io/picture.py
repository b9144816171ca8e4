"""Grey pictures (PNG, JPEG, WebP, BMP, TIFF) in, PNG and lossless WebP out; 1 mm a pixel is assumed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm.errors import AmbiguousInput, InputError, LimitError, OutputError, PixelError, UnsupportedInput
from medldm.geometry import Geometry
from medldm.io.atomic import write_whole
from medldm.io.choice import Choice, check_size
from medldm.volume import AI_PROCESSED, RESEARCH_USE, Volume

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
_MAX_CHANNEL_DIFFERENCE = 2  # grey levels: what chroma of a lossy grey picture may leave behind
MARK = f"AI-processed, {RESEARCH_USE}"
_DESCRIPTION = 0x010E  # ImageDescription of Exif
_GREY = {"grey8": (255, np.uint8), "grey16": (65535, np.uint16)}


def can_read(path: Path) -> bool:
    """Whether the name ends like a picture's."""
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


def read(path: Path, choice: Choice | None = None) -> Volume:
    """Read a grey picture as a Volume (columns, rows, 1), unit "grey8" or "grey16".

    Parameters
    ----------
    path : Path
    choice : Choice, optional
        A series or a selection is an InputError: pictures have none.

    Raises
    ------
    UnsupportedInput
        For colour, transparency or values that are not 8- or 16-bit integers.
    PixelError
        For a damaged file.
    AmbiguousInput
        For several pages or an animation.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(path)
    choice = choice or Choice()
    choice.refuse_selection(path.name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path, formats=_FORMATS)
        with opened as image:
            check_size(path.name, image.size, max_bytes=choice.max_bytes)
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise AmbiguousInput(path.name, f"{frames} pictures", "one", "split the file")
            marked = {AI_PROCESSED: RESEARCH_USE} if image.getexif().get(_DESCRIPTION) == MARK else {}
            array, unit = _grey(ImageOps.exif_transpose(image), path.name)
    except Image.DecompressionBombError:
        raise LimitError(path.name, "a picture of more than 178 million pixels", "fewer", "crop it") from None
    except UnidentifiedImageError:
        raise PixelError(path.name, "contents that are no picture", ", ".join(_FORMATS)) from None
    except InputError:
        raise
    except Exception as failure:  # a damaged file makes Pillow raise nearly anything
        raise PixelError(path.name, f"a damaged picture ({type(failure).__name__})", "a whole file") from None
    # columns run to the patient's left and rows downwards, as radiographs are shown
    geometry = Geometry(np.diag([-1.0, -1.0, 1.0, 1.0]), (array.shape[1], array.shape[0], 1))
    step = {"step": "read", "format": "picture", "spacing_assumed": True, **marked}
    return Volume(array.T[..., None].astype(np.float32), geometry, unit, "", (step,))


def _grey(image: Any, where: str) -> tuple[NDArray[Any], str]:
    """Values (rows, columns) and their unit; raises UnsupportedInput for what is not plainly grey."""
    mode = image.mode
    if mode in ("I;16", "I;16B", "I;16L", "I"):
        array = np.asarray(image)
        if array.min() < 0 or array.max() > 65535:
            span = f"values from {array.min()} to {array.max()}"
            raise UnsupportedInput(where, span, "8 or 16 bits", "use NIfTI")
        return array, "grey16"
    if mode in ("1", "L"):
        return np.asarray(image.convert("L")), "grey8"
    if mode not in ("LA", "P", "PA", "RGB", "RGBA"):
        raise UnsupportedInput(where, f"pixels of kind {mode}", "grey of 8 or 16 bits", "convert it")
    channels = np.asarray(image.convert("RGBA")).astype(np.int16)
    if channels[..., 3].min() < 255:
        raise UnsupportedInput(where, "transparent pixels", "an opaque picture", "flatten it")
    difference = int(np.ptp(channels[..., :3], axis=-1).max())
    if difference > _MAX_CHANNEL_DIFFERENCE:
        raise UnsupportedInput(where, f"colours (channels differ by {difference})", "grey", "convert it")
    return channels[..., 1], "grey8"


def write(volume: Volume, path: Path) -> Path:
    """Write one slice as an 8- or 16-bit PNG or an 8-bit lossless WebP.

    Values are rounded and limited to the unit's range (0..255 or 0..65535). Raises OutputError for several
    slices, a unit that is not grey, or a format that would lose detail.
    """
    from PIL import Image

    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in (".jpg", ".jpeg"):
        raise OutputError(path.name, "JPEG, which loses detail", ".png or .webp", "change the suffix")
    if suffix not in (".png", ".webp"):
        raise OutputError(path.name, f"the suffix {suffix or 'none'}", ".png or .webp", "change the suffix")
    if volume.unit not in _GREY:
        raise OutputError(path.name, f"values in {volume.unit}", "grey8 or grey16", "write .nii.gz")
    if suffix == ".webp" and volume.unit != "grey8":
        raise OutputError(path.name, "16-bit values", "8 bits in WebP", "write .png")
    if volume.geometry.axcodes[2] in "SI":
        volume = volume.reorient("LPS")  # as read: columns to the left, rows downwards
    if volume.geometry.shape[2] != 1:
        raise OutputError(path.name, f"{volume.geometry.shape[2]} slices", "one", "write .nii.gz")
    if not np.isfinite(volume.array).all():
        raise OutputError(path.name, "values that are not finite", "finite values")
    top, dtype = _GREY[volume.unit]
    pixels = np.clip(np.rint(volume.array[..., 0].T), 0, top).astype(dtype)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
    if volume.ai_processed:
        exif = Image.Exif()
        exif[_DESCRIPTION] = MARK
        options["exif"] = exif
    write_whole(path, lambda part: image.save(part, format=suffix[1:].upper(), **options))
    return path
