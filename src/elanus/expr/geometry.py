"""GEOMETRY: shapes as text (WKT) and as stored bytes (WKB), and the `st_*` predicates over whole columns.

The only module that knows shapely, which it loads on first need. Topology is that of GEOS, on a plane; coordinates are
(longitude, latitude) where a distance in metres is asked for. Two shapes whose bounding boxes do not meet satisfy none
of the predicates, so these are compared first, in NumPy, and GEOS sees what is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from elanus.expr.errors import FilterError
from elanus.model.columns import Mask, Rows

EARTH_RADIUS_M: Final = 6_371_000.0
DEGREE_M: Final = 111_320.0
_SHAPE_BYTES: Final = 160
"""Rough size of a shape in GEOS beside its coordinates."""

SPATIAL: Final[Mapping[str, str]] = {
    "st_equals": "STEuqals",
    "st_touches": "STTouches",
    "st_overlaps": "STOverlaps",
    "st_crosses": "STCrosses",
    "st_contains": "STContains",
    "st_intersects": "STIntersects",
    "st_within": "STWithin",
}
"""Predicates of two shapes, and Milvus's names of them in its messages (its spelling)."""
_CONVERSES: Final = {"st_contains": "within", "st_within": "contains"}
"""A prepared shape has to be the left operand; the others are their own converses."""


@lru_cache(maxsize=1)
def _shapely() -> Any:
    import shapely

    return shapely


class Shapes:
    """A column of shapes, None where a row has none, with their bounding boxes (n, 4) as x and y from, x and y to."""

    __slots__ = ("boxes", "nbytes", "shapes")

    def __init__(self, shapes: npt.NDArray[Any], nbytes: int) -> None:
        self.shapes = shapes
        self.boxes: npt.NDArray[np.float64] = _shapely().bounds(shapes)
        self.nbytes = nbytes

    @classmethod
    def of(cls, values: pa.Array) -> Shapes:
        """Of stored bytes; empty ones stand for rows without a shape."""
        return cls(_from_wkb(values), int(values.nbytes) * 2 + _SHAPE_BYTES * len(values))

    def take(self, rows: Rows) -> Shapes:
        """The rows at these indexes."""
        return Shapes(self.shapes[rows], self.nbytes)


Box = tuple[float, float, float, float]
"""x and y from, x and y to; both ends are inside."""
_GLOBE: Final[Box] = (-180.0, -90.0, 180.0, 90.0)
_MARGIN: Final = 1e-9
"""By which boxes are made wider than computed, in degrees and as a share of a distance."""


class Meeting(msgspec.Struct, frozen=True):
    """`relation(field, shape)`: one of `SPATIAL` and the shape's WKB."""

    relation: str
    shape: bytes

    def box(self, bounds: Box) -> Box:
        """What the boxes of matching shapes meet; NaN where nothing matches."""
        left, bottom, right, top = _shapely().bounds(_shapely().from_wkb(self.shape)).tolist()
        return left, bottom, right, top

    def matches(self, shapes: Shapes) -> Mask:
        """The rows whose shape stands in that relation to this one."""
        shapely, mask = _shapely(), np.zeros(len(shapes.shapes), np.bool_)
        other = shapely.from_wkb(self.shape)
        left, bottom, right, top = shapely.bounds(other)
        boxes = shapes.boxes
        near = (boxes[:, 0] <= right) & (boxes[:, 2] >= left) & (boxes[:, 1] <= top) & (boxes[:, 3] >= bottom)
        rows = np.flatnonzero(near)
        shapely.prepare(other)
        name = _CONVERSES.get(self.relation, self.relation.removeprefix("st_"))
        compare: Callable[[Any, Any], Any] = getattr(shapely, name)
        mask[rows] = compare(other, shapes.shapes[rows])
        return mask


class Nearness(msgspec.Struct, frozen=True):
    """`st_dwithin(field, POINT(x y), metres)`: at most so far from a point, the bound included."""

    x: float
    y: float
    metres: float

    def box(self, bounds: Box) -> Box | None:
        """What the boxes of matching shapes meet, of shapes all within `bounds`; None where those leave the globe, on
        which longitudes come again."""
        inside = bounds[0] >= _GLOBE[0] and bounds[1] >= _GLOBE[1] and bounds[2] <= _GLOBE[2] and bounds[3] <= _GLOBE[3]
        if not inside or not (_GLOBE[0] <= self.x <= _GLOBE[2] and _GLOBE[1] <= self.y <= _GLOBE[3]):
            return None
        arc = self.metres / EARTH_RADIUS_M * (1 + _MARGIN)
        up = math.degrees(arc)
        along, latitude = math.sin(min(arc, math.pi / 2)), math.cos(math.radians(self.y))
        reaches_pole = abs(self.y) + up >= _GLOBE[3] or along >= latitude
        wide = 2 * _GLOBE[2] if reaches_pole else math.degrees(math.asin(along / latitude))
        flat = self.metres / (DEGREE_M * math.sqrt((1 + latitude**2) / 2)) * (1 + _MARGIN)
        wide, up = max(wide, flat) + _MARGIN, max(up, flat) + _MARGIN
        if self.x - wide < _GLOBE[0] or self.x + wide > _GLOBE[2]:
            wide = 2 * _GLOBE[2]
        return self.x - wide, self.y - up, self.x + wide, self.y + up

    def matches(self, shapes: Shapes) -> Mask:
        """The rows whose shape is that near: on a sphere for points, for others by their distance in degrees."""
        shapely, mask = _shapely(), np.zeros(len(shapes.shapes), np.bool_)
        kinds = shapely.get_type_id(shapes.shapes)
        points, others = np.flatnonzero(kinds == 0), np.flatnonzero(kinds > 0)
        mask[points] = self._arc_m(shapes.boxes[points, 0], shapes.boxes[points, 1]) <= self.metres
        scale = DEGREE_M * math.sqrt((1 + math.cos(math.radians(self.y)) ** 2) / 2)
        degrees = shapely.distance(shapes.shapes[others], shapely.Point(self.x, self.y))
        mask[others] = degrees * scale <= self.metres
        return mask

    def _arc_m(self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Great-circle distances by the haversine formula."""
        latitudes, latitude = np.radians(y), math.radians(self.y)
        across = np.sin((latitudes - latitude) / 2) ** 2
        along = np.sin(np.radians(x - self.x) / 2) ** 2
        chord = across + np.cos(latitudes) * math.cos(latitude) * along
        return np.asarray(2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(np.clip(chord, 0, 1))))


class Validity(msgspec.Struct, frozen=True):
    """`st_isvalid(field)`."""

    def box(self, bounds: Box) -> Box | None:
        """A box tells nothing."""
        return None

    def matches(self, shapes: Shapes) -> Mask:
        """The rows whose shape is well-formed in the sense of the OGC."""
        return np.asarray(_shapely().is_valid(shapes.shapes), np.bool_)


SpatialTest = Meeting | Nearness | Validity


class Converted(NamedTuple):
    """Stored bytes of each row, and the first row that could not be read (-1: none)."""

    values: pa.Array
    wrong: int


def from_texts(texts: pa.Array, valid: Mask | None) -> Converted:
    """WKT to WKB; rows that are not valid become empty bytes, whatever stands there."""
    present = texts if valid is None else pc.if_else(pa.array(valid), texts, None)
    shapes = _shapely().from_wkt(present.to_numpy(zero_copy_only=False), on_invalid="ignore")
    return _stored(shapes, valid)


def from_bytes(values: pa.Array, valid: Mask | None) -> Converted:
    """WKB as sent, read and written again, so that only what can be read is ever stored."""
    present = values if valid is None else pc.if_else(pa.array(valid), values, None)
    shapes = _shapely().from_wkb(present.to_numpy(zero_copy_only=False), on_invalid="ignore")
    return _stored(shapes, valid)


def _stored(shapes: npt.NDArray[Any], valid: Mask | None) -> Converted:
    shapely = _shapely()
    missing = shapely.is_missing(shapes) if valid is None else shapely.is_missing(shapes) & valid
    if missing.any():
        return Converted(pa.nulls(0, pa.large_binary()), int(missing.argmax()))
    encoded = pa.array(shapely.to_wkb(shapes, byte_order=1), pa.large_binary())
    return Converted(encoded.fill_null(b""), -1)


def to_texts(values: pa.Array) -> pa.Array:
    """WKB to WKT with every digit that is needed to read it back; empty where a row has no shape."""
    texts = _shapely().to_wkt(_from_wkb(values), rounding_precision=-1, trim=True)
    return pa.array(texts, pa.large_string()).fill_null("")


def _from_wkb(values: pa.Array) -> npt.NDArray[Any]:
    present = pc.if_else(pc.equal(pc.binary_length(values), 0), pa.scalar(None, values.type), values)
    shapes: npt.NDArray[Any] = _shapely().from_wkb(present.to_numpy(zero_copy_only=False))
    return shapes


def shape_of(text: str) -> bytes:
    """WKB of a WKT literal. Raises FilterError."""
    converted = from_texts(pa.array([text], pa.large_string()), None)
    if converted.wrong >= 0:
        raise FilterError(f"invalid WKT: {text}")
    encoded: bytes = converted.values[0].as_py()
    return encoded


def nearness(text: str, metres: object) -> Nearness:
    """The test of `st_dwithin`. Raises FilterError."""
    shape = _shapely().from_wkb(shape_of(text))
    if shape.geom_type != "Point" or shape.is_empty:
        raise FilterError(f"only supports POINT geometry: {text}")
    if isinstance(metres, bool) or not isinstance(metres, int | float):
        raise FilterError(f"distance parameter must be a numeric value (int or float), got: {metres}")
    if metres < 0:
        raise FilterError(f"distance parameter must be non-negative, got: {metres:f}")
    return Nearness(float(shape.x), float(shape.y), float(metres))
