"""What a notebook shows of a scan: one slice, upright and true to scale, and a few figures. Nothing of the patient."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from medldm.geometry import Geometry

SIZE = 240  # pixels of the longer edge
Colour = Callable[[NDArray[np.float32]], NDArray[np.uint8]]  # values to grey, or to red, green and blue


def png(colours: NDArray[np.uint8]) -> bytes:
    """(rows, columns, 3), or (rows, columns) of grey."""
    from PIL import Image

    buffer = io.BytesIO()
    grey = colours.ndim == 3 and (colours == colours[..., :1]).all()  # one channel: smaller, and three times as fast
    # Not optimize=True: a tenth smaller, for ten times the time, most of what a page of pictures takes.
    Image.fromarray(colours[..., 0] if grey else colours).save(buffer, format="PNG")
    return buffer.getvalue()


def scaled(
    plane: NDArray[np.float32], mm_row: float, mm_column: float, pixels_mm: float, *, smooth: bool
) -> NDArray[np.float32]:
    """The plane with `pixels_mm` pixels a millimetre both ways, which gives it the right aspect."""
    from PIL import Image

    rows, columns = plane.shape
    size = (max(round(columns * mm_column * pixels_mm), 1), max(round(rows * mm_row * pixels_mm), 1))
    image = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST))


def middle_slice(array: NDArray[np.float32], geometry: Geometry) -> tuple[NDArray[np.float32], float, float]:
    """(rows, columns) of the middle axial plane as a radiologist sees it, mm a row, mm a column; of a volume that is
    one slice thin, that slice."""
    order, flips = geometry.orientation_to("LPS")
    turned = np.flip(array.transpose(order), flips)
    left, posterior, superior = (geometry.spacing[axis] for axis in order)
    i, j, k = (n // 2 for n in turned.shape)
    if turned.shape[1] == 1 and turned.shape[2] > 1:
        return turned[:, j, ::-1].T, superior, left
    if turned.shape[0] == 1 and turned.shape[2] > 1:
        return turned[i, :, ::-1].T, superior, posterior
    return turned[:, :, k].T, posterior, left


def slice_png(array: NDArray[np.float32], geometry: Geometry, colour: Colour) -> bytes:
    """PNG of the middle slice."""
    plane, mm_row, mm_column = middle_slice(array, geometry)
    edge = max(plane.shape[0] * mm_row, plane.shape[1] * mm_column)
    return png(colour(scaled(plane, mm_row, mm_column, SIZE / edge, smooth=False)))


def grey_slice(array: NDArray[np.float32], geometry: Geometry) -> tuple[bytes, float, float]:
    """PNG of the middle slice, and its window: the 0.5th to the 99.5th percentile of the scan's finite values."""
    values = array[np.isfinite(array)]
    low, high = (float(v) for v in np.percentile(values if values.size else np.zeros(1), (0.5, 99.5)))

    def colour(plane: NDArray[np.float32]) -> NDArray[np.uint8]:
        share = np.clip((np.nan_to_num(plane) - low) / max(high - low, 1e-6), 0, 1)
        return np.asarray((share * 255).round(), dtype=np.uint8)

    return slice_png(array, geometry, colour), low, high


def page(pictures: Mapping[str, bytes], figures: Mapping[str, str], title: str) -> str:
    """HTML of one object: pictures by their captions, figures by their names; every text is escaped."""
    shown = "".join(
        f'<figure style="margin:0 12px 0 0"><img alt="{html.escape(caption)}" '
        f'src="data:image/png;base64,{base64.b64encode(picture).decode()}"/>'
        f'<figcaption style="font-size:85%;opacity:.8">{html.escape(caption)}</figcaption></figure>'
        for caption, picture in pictures.items()
    )
    rows = "".join(
        f'<tr><th style="text-align:left">{html.escape(name)}</th>'
        f'<td style="text-align:left">{html.escape(text)}</td></tr>'
        for name, text in figures.items()
        if text
    )
    return (
        f'<div class="medldm"><strong>{html.escape(title)}</strong>'
        f'<div style="display:flex;flex-wrap:wrap;align-items:flex-start">{shown}<table>{rows}</table></div></div>'
    )
