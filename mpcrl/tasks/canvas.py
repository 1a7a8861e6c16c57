"""A small painter for the pictures of the analytic tasks, on Pillow.

World coordinates (metres, y upwards) in a view box; everything is drawn at twice the size and averaged down, which
smooths the edges. Widths and radii are in metres too; text sizes are in pixels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mpcrl.core.errors import InvalidInput, missing

Colour = tuple[int, int, int]
Point = tuple[float, float]

PAPER: Colour = (250, 250, 248)
INK: Colour = (45, 52, 60)
GREY: Colour = (176, 182, 188)
PALE: Colour = (226, 229, 232)
BLUE: Colour = (46, 106, 172)
ORANGE: Colour = (224, 122, 46)
RED: Colour = (200, 62, 58)
GREEN: Colour = (58, 158, 96)

_OVERSAMPLING = 2


@functools.cache
def _pillow() -> tuple[Any, Any, Any]:
    """Pillow's modules, loaded with the first picture."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise missing("Pillow", "video") from error
    return Image, ImageDraw, ImageFont


@functools.cache
def _font(size: int) -> Any:
    return _pillow()[2].load_default(size)


class Canvas:
    """A picture to paint on.

    Call `view` first: it says which part of the world is seen, and where in the picture.

    Parameters
    ----------
    width, height : int
        Size of the picture, pixels.
    """

    def __init__(self, width: int = 640, height: int = 400) -> None:
        if width < 1 or height < 1:
            raise InvalidInput(f"a picture needs a positive width and height in pixels, got {width} x {height}")
        self.width, self.height = width, height
        image, draw, _ = _pillow()
        self._image = image.new("RGB", (width * _OVERSAMPLING, height * _OVERSAMPLING), PAPER)
        self._draw = draw.Draw(self._image)
        self.view(-1.0, 1.0, -1.0, 1.0)

    def view(
        self,
        left: float,
        right: float,
        bottom: float,
        top: float,
        area: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
    ) -> None:
        """Show the world box in an area of the picture, centred, with one scale for both axes.

        Parameters
        ----------
        left, right, bottom, top : float
            The world box, m.
        area : tuple of float
            Left, top, right and bottom of the area as fractions of the picture, from its upper left corner.
        """
        wide, high = self.width * _OVERSAMPLING, self.height * _OVERSAMPLING
        x0, y0, x1, y1 = area[0] * wide, area[1] * high, area[2] * wide, area[3] * high
        self._scale = min((x1 - x0) / (right - left), (y1 - y0) / (top - bottom))
        self._x = (x0 + x1) / 2 - self._scale * (left + right) / 2
        self._y = (y0 + y1) / 2 + self._scale * (bottom + top) / 2

    def _pixel(self, point: Point) -> Point:
        return self._x + self._scale * point[0], self._y - self._scale * point[1]

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """A line through the points, with round joints and ends; at least a pixel wide."""
        pixels = max(_OVERSAMPLING, round(width * self._scale))
        path = [self._pixel(point) for point in points]
        round_off = pixels > 3 * _OVERSAMPLING  # else nobody sees it
        self._draw.line(path, fill=colour, width=pixels, joint="curve" if round_off else None)
        if round_off:
            for end in (path[0], path[-1]):
                self._draw.circle(end, pixels / 2, fill=colour)

    def circle(self, centre: Point, radius: float, colour: Colour) -> None:
        """A filled circle; at least a pixel wide."""
        self._draw.circle(self._pixel(centre), max(_OVERSAMPLING / 2, radius * self._scale), fill=colour)

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """A filled polygon."""
        self._draw.polygon([self._pixel(point) for point in points], fill=colour)

    def box(self, centre: Point, length: float, width: float, angle: float, colour: Colour) -> None:
        """A filled rectangle, `length` along the direction `angle` (rad) and `width` across it."""
        c, s = math.cos(angle), math.sin(angle)
        corners = ((0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5), (0.5, -0.5))
        sides = [(a * length, b * width) for a, b in corners]
        self.polygon([(centre[0] + c * a - s * b, centre[1] + s * a + c * b) for a, b in sides], colour)

    def arrow(self, start: Point, vector: Point, width: float, colour: Colour) -> None:
        """An arrow from `start` along `vector`, its head three times as wide as its shaft."""
        length = math.hypot(*vector)
        if length * self._scale < 1.0:
            return
        ex, ey = vector[0] / length, vector[1] / length
        head = min(4.0 * width, length)
        x, y = start[0] + (length - head) * ex, start[1] + (length - head) * ey
        if length > head:
            self.line([start, (x, y)], width, colour)
        half = 0.375 * head
        tip = (start[0] + vector[0], start[1] + vector[1])
        self.polygon([tip, (x - half * ey, y + half * ex), (x + half * ey, y - half * ex)], colour)

    def text(self, point: Point, text: str, size: int = 14, colour: Colour = INK, anchor: str = "lm") -> None:
        """Text at a point of the world; `size` in pixels, `anchor` as Pillow has it ("lm": its left end, middle)."""
        self._draw.text(self._pixel(point), text, fill=colour, font=_font(size * _OVERSAMPLING), anchor=anchor)

    def picture(self, pixels: np.ndarray, left: float, right: float, bottom: float, top: float) -> None:
        """An image, uint8 [rows, columns, 3] with its first row at the top, stretched over a world box."""
        x0, y0 = self._pixel((left, top))
        x1, y1 = self._pixel((right, bottom))
        size = max(1, round(x1 - x0)), max(1, round(y1 - y0))
        image = _pillow()[0]
        self._image.paste(image.fromarray(pixels).resize(size, image.Resampling.NEAREST), (round(x0), round(y0)))

    def image(self) -> np.ndarray:
        """What has been painted, uint8 [height, width, 3]."""
        return np.array(self._image.reduce(_OVERSAMPLING))
