"""Grey pictures (PNG, JPEG, WebP, BMP, TIFF) in, PNG and lossless WebP out; 1 mm a pixel is assumed."""

from __future__ import annotations

import json
import sys
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medldm.errors import AmbiguousInput, InputError, LimitError, OutputError, PixelError, UnsupportedInput
from medldm.geometry import Geometry
from medldm.io.atomic import write_whole
from medldm.io.choice import Choice, check_size
from medldm.marks import AI_PROCESSED, DRAWN, RESEARCH_USE, SYNTHETIC, Marks
from medldm.volume import Volume

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
_MAX_CHANNEL_DIFFERENCE = 2  # grey levels: what chroma of a lossy grey picture may leave behind
MARK = f"AI-processed, {RESEARCH_USE}"
_DESCRIPTION = 0x010E  # ImageDescription of Exif
HISTORY = 0x9213  # ImageHistory: JSON, as beside NIfTI files
_GREY = {"grey8": (255, np.uint8), "grey16": (65535, np.uint16)}
_DEEP = ("LA;16B", *(f"{mode};16{order}" for mode in ("RGB", "RGBA") for order in "BLN"))
_PHOTOMETRIC, _PLANAR, _PALETTE, _SAMPLE_FORMAT = 262, 284, 320, 339  # tags of TIFF
_SRGB_GAMMA = 0.45455


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
        For colour, transparency or values that are not whole numbers of up to 16 bits.
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
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            # not by its name: what Pillow maps into memory it turns wrongly (TIFF with an Orientation of 5 to 8)
            image = Image.open(file, formats=_FORMATS)
            check_size(path.name, image.size, max_bytes=choice.max_bytes)
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise AmbiguousInput(path.name, f"{frames} pictures", "one", "split the file")
            _check_tags(image, path.name)
            deep = _deep_kind(image, path.name)
            marks: dict[str, Any] = {}
            if image.getexif().get(_DESCRIPTION) == MARK:
                marks[AI_PROCESSED] = RESEARCH_USE
                marks |= {SYNTHETIC: DRAWN} if _is_drawn(image.getexif().get(HISTORY)) else {}
            if abs(image.info.get("gamma", _SRGB_GAMMA) - _SRGB_GAMMA) > 1e-3:
                marks["gamma_not_applied"] = image.info["gamma"]
            upright = ImageOps.exif_transpose(image)
            array, unit = _grey(upright, path.name, _of_two_bytes(path, deep) if deep else None)
            if unit == "grey16" and _tags(image).get(_PHOTOMETRIC) == 0:  # white; Pillow inverts 8 bits itself
                array = 65535 - array
    except Image.DecompressionBombError:
        raise LimitError(path.name, "a picture of more than 178 million pixels", "fewer", "crop it") from None
    except UnidentifiedImageError:
        raise _unidentified(path) from None
    except InputError:
        raise
    except Exception as failure:  # a damaged file makes Pillow raise nearly anything
        raise PixelError(path.name, f"a damaged picture ({type(failure).__name__})", "a whole file") from None
    # columns run to the patient's left and rows downwards, as radiographs are shown
    geometry = Geometry(np.diag([-1.0, -1.0, 1.0, 1.0]), (array.shape[1], array.shape[0], 1))
    step = {"step": "read", "format": "picture", "spacing_assumed": True, **marks}
    return Volume(array.T[..., None].astype(np.float32), geometry, unit, "", (step,))


def _tags(image: Any) -> Any:
    """Tags of a TIFF; {} for the others."""
    return getattr(image, "tag_v2", {})


def _check_tags(image: Any, where: str) -> None:
    """Refuse what Pillow would take for something else: signed bytes, fine palettes, stacks behind one page."""
    tags = _tags(image)
    if image.mode == "L" and 2 in tags.get(_SAMPLE_FORMAT, ()):
        raise UnsupportedInput(where, "signed values of 8 bits", "8 or 16 bits without a sign", "use NIfTI")
    if image.mode in ("P", "PA") and any(v % 257 and v % 256 for v in tags.get(_PALETTE, ())):
        raise UnsupportedInput(where, "a palette of 16 bits", "grey values", "save it as 16-bit grey")
    described = str(tags.get(_DESCRIPTION, ""))
    counts = [line[7:] for line in described.splitlines() if line.startswith("images=")]
    if described.startswith("ImageJ=") and counts and counts[0].strip() != "1":
        raise AmbiguousInput(where, f"{counts[0].strip()[:9]} pictures", "one", "split the file")


def _deep_kind(image: Any, where: str) -> str:
    """Pillow's name of samples of 16 bits that it cuts to 8; "" where it keeps all bits. Raises UnsupportedInput."""
    kinds = {tile.args if isinstance(tile.args, str) else tile.args[0] for tile in image.tile}
    bits = max(_tags(image).get(258, (8,)))
    if image.mode[:2] == "I;" or not (bits > 8 or any(";16" in str(kind) for kind in kinds)):
        return ""
    if image.mode in ("I", "F"):
        return ""
    kind = str(kinds.pop()) if len(kinds) == 1 else ""
    if kind not in _DEEP or _tags(image).get(_PLANAR, 1) != 1:
        raise UnsupportedInput(where, f"{image.mode} of 16 bits a channel", "grey", "save it as 16-bit grey")
    return kind


def _of_two_bytes(path: Path, kind: str) -> NDArray[np.uint16]:
    """Samples of 16 bits, (rows, columns, channels); Pillow gives high bytes and low bytes, not both."""
    from PIL import Image, ImageOps

    if kind == "LA;16B":  # bytes lie, and PNG predicts them, as those of RGBA of 8 bits
        data = bytearray(path.read_bytes())
        data[24:26] = 8, 6
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
        image = Image.open(BytesIO(data), formats=("PNG",))
        both = np.asarray(ImageOps.exif_transpose(image)).astype(np.uint16)
        return np.asarray(both[..., ::2] << 8 | both[..., 1::2])
    order = kind[-1] if kind[-1] != "N" else sys.byteorder[0].upper()
    parts = {}
    for first in "BL":
        with path.open("rb") as file:
            image = Image.open(file, formats=_FORMATS)
            image.tile = [tile._replace(args=_as_kind(tile.args, kind[:-1] + first)) for tile in image.tile]
            parts[first] = np.asarray(ImageOps.exif_transpose(image)).astype(np.uint16)
    high, low = parts[order], parts["L" if order == "B" else "B"]
    return np.asarray(high << 8 | low)


def _as_kind(arguments: Any, kind: str) -> Any:
    return kind if isinstance(arguments, str) else (kind, *arguments[1:])


def _grey(image: Any, where: str, deep: NDArray[np.uint16] | None) -> tuple[NDArray[Any], str]:
    """Values (rows, columns) and their unit; raises UnsupportedInput for what is not plainly grey."""
    mode, hidden = image.mode, image.info.get("transparency")
    if mode in ("I;16", "I;16B", "I;16L", "I"):
        array = np.asarray(image)
        if array.min() < 0 or array.max() > 65535:
            span = f"values from {array.min()} to {array.max()}"
            raise UnsupportedInput(where, span, "8 or 16 bits", "use NIfTI")
        _check_opaque(array != hidden, where)
        return array.astype(np.uint16), "grey16"
    if mode in ("1", "L"):
        array = np.asarray(image.convert("L"))
        _check_opaque(array != hidden, where)
        return array, "grey8"
    if mode == "F":
        raise UnsupportedInput(where, "floating-point values", "whole numbers of 8 or 16 bits", "use NIfTI")
    if mode not in ("LA", "P", "PA", "RGB", "RGBA"):
        raise UnsupportedInput(where, f"pixels of kind {mode}", "grey of 8 or 16 bits", "convert it")
    if deep is None:
        channels, unit = np.asarray(image.convert("RGBA")).astype(np.int32), "grey8"
    else:
        channels, unit = deep.astype(np.int32), "grey16"
        if isinstance(hidden, tuple):
            _check_opaque((channels[..., :3] != hidden).any(axis=-1), where)
    if channels.shape[-1] in (2, 4):
        _check_opaque(channels[..., -1] == _GREY[unit][0], where)
    difference = int(np.ptp(channels[..., :3], axis=-1).max()) if channels.shape[-1] > 2 else 0
    if difference > _MAX_CHANNEL_DIFFERENCE:
        raise UnsupportedInput(where, f"colours (channels differ by {difference})", "grey", "convert it")
    return channels[..., 1 if channels.shape[-1] > 2 else 0], unit


def _check_opaque(opaque: Any, where: str) -> None:
    if not np.all(opaque):
        raise UnsupportedInput(where, "transparent pixels", "an opaque picture", "flatten it")


def jpeg_bits(stream: bytes) -> int:
    """Bits a sample of a JPEG stream that is not lossless, by its frame header; 0 where there is none."""
    at = 2 if stream[:2] == b"\xff\xd8" else len(stream)
    while at + 4 < len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker in (0xC0, 0xC1, 0xC2):
            return stream[at + 4]
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return 0


def _unidentified(path: Path) -> InputError:
    """Why Pillow does not open a file: it is no picture, or one of a kind that Pillow cannot decode."""
    start = path.read_bytes()[: 2**20]
    bits = jpeg_bits(start)
    if bits > 8:
        got = f"a JPEG of {bits} bits a sample"
        return UnsupportedInput(path.name, got, "8 bits in JPEG", "save it as 16-bit PNG or TIFF")
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") and len(start) > 8:
        do = "save it as 8- or 16-bit grey, 0 being black"
        return UnsupportedInput(path.name, "a TIFF of a kind that is not read, or damaged", "grey values", do)
    return PixelError(path.name, "contents that are no picture", ", ".join(_FORMATS))


def _is_drawn(history: object) -> bool:
    """Whether a step of what `write` left in a picture is a synthesis."""
    try:
        steps = json.loads(str(history))
    except ValueError:
        return False
    return isinstance(steps, list) and any(isinstance(step, dict) and Marks.of(step).synthetic for step in steps)


def write(volume: Volume, path: Path) -> Path:
    """Write one slice as an 8- or 16-bit PNG or an 8-bit lossless WebP.

    Values are rounded and limited to the unit's range (0..255 or 0..65535). What a model made says so, and how, in
    Exif's ImageDescription and ImageHistory. Raises OutputError for several slices, a unit that is not grey, or a
    format that would lose detail.
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
        exif[HISTORY] = json.dumps(list(volume.history), default=str)
        options["exif"] = exif
    write_whole(path, lambda part: image.save(part, format=suffix[1:].upper(), **options))
    return path
