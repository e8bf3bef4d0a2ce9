"""Columns of times against `datetime`, columns of shapes against one shape at a time."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from elanus.expr import FilterError, geometry, zones
from elanus.expr.timestamps import iso_microseconds

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NAMES = ("UTC", "Asia/Shanghai", "America/New_York", "Africa/Casablanca", "Australia/Lord_Howe", "Asia/Kathmandu")
MOMENTS = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31)) | st.datetimes(
    datetime(1950, 1, 1), datetime(2050, 1, 1)
)


def texts(values: list[str]) -> pa.Array:
    return pa.array(values, pa.large_string())


@pytest.mark.slow
@given(st.lists(MOMENTS, max_size=20), st.sampled_from(NAMES))
def test_offsets_are_those_of_datetime(moments: list[datetime], name: str) -> None:
    seconds = [(moment.replace(tzinfo=UTC) - EPOCH) // timedelta(seconds=1) for moment in moments]
    expected = [(EPOCH + timedelta(seconds=one)).astimezone(ZoneInfo(name)).utcoffset() for one in seconds]
    found = zones.offsets_at(np.array(seconds, np.int64), name).tolist()
    assert found == [int(offset.total_seconds()) for offset in expected if offset is not None]


@pytest.mark.slow
@given(st.lists(MOMENTS, max_size=20), st.sampled_from(NAMES), st.sampled_from(["", "Z", "+08:00", "-0330", "+05"]))
def test_texts_are_read_as_literals_are(moments: list[datetime], name: str, offset: str) -> None:
    sent = [moment.isoformat(sep=" ") + offset for moment in moments]
    parsed = zones.parse_texts(texts(sent), None, name)
    assert parsed.wrong == -1
    assert parsed.values.tolist() == [iso_microseconds(text, ZoneInfo(name)) for text in sent]
    shown = zones.to_texts(parsed.values, name)
    # Offsets of old local mean times have seconds, which RFC 3339 cannot show.
    assert (abs(zones.parse_texts(shown, None, "UTC").values - parsed.values) < 60 * zones.SECOND_US).all()
    parts = zones.to_parts(parsed.values, name, ("year", "day", "microsecond")).to_pylist()
    local = [datetime.fromisoformat(text) for text in shown.to_pylist()]
    assert parts == [[one.year, one.day, one.microsecond] for one in local]


@pytest.mark.parametrize(
    ("name", "clock", "moment"),
    [
        ("America/New_York", "2025-03-09 02:30:00", "2025-03-09T01:30:00-05:00"),
        ("America/New_York", "2025-11-02 01:30:00", "2025-11-02T01:30:00-04:00"),
        ("Europe/Berlin", "2025-03-30 02:30:00", "2025-03-30T03:30:00+02:00"),
        ("Europe/Berlin", "2025-10-26 02:30:00", "2025-10-26T02:30:00+01:00"),
        ("Australia/Lord_Howe", "2025-10-05 02:15:00", "2025-10-05T02:45:00+11:00"),
        ("Asia/Shanghai", "2025-03-09 02:30:00", "2025-03-09T02:30:00+08:00"),
    ],
)
def test_times_that_clocks_skip_or_show_twice(name: str, clock: str, moment: str) -> None:
    parsed = zones.parse_texts(texts([clock]), None, name)
    assert parsed.values.tolist() == [iso_microseconds(clock, ZoneInfo(name))]
    assert zones.to_texts(parsed.values, name).to_pylist() == [moment]


@pytest.mark.parametrize(
    "text",
    ["", "soon", "2025-04-31 00:00:00", "2025-02-29", "2025-13-01", "2025-01-01 24:00:00", "2025-01-01T00:00:00+24:00"],
)
def test_times_that_do_not_exist(text: str) -> None:
    assert zones.parse_texts(texts(["2025-01-01", text]), None, "UTC").wrong == 1
    assert zones.parse_texts(texts(["2025-01-01", text]), np.array([True, False]), "UTC").values[1] == 0


COORDINATES = st.integers(-4, 4)
POINTS = st.tuples(COORDINATES, COORDINATES)


@st.composite
def shapes(draw: st.DrawFn) -> str | None:
    """WKT of a point, a line or a box; or nothing."""
    (x, y), width, height = draw(POINTS), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    made = (
        shapely.Point(x, y),
        shapely.LineString([(x, y), (x + width, y - height)]),
        shapely.box(x, y, x + width, y + height),
    )
    return draw(st.sampled_from([None, *(shapely.to_wkt(one) for one in made)]))


def stored(rows: list[str | None]) -> pa.Array:
    valid = np.array([row is not None for row in rows], np.bool_)
    converted = geometry.from_texts(texts([row or "" for row in rows]), valid)
    assert converted.wrong == -1
    return converted.values


@pytest.mark.slow
@given(st.lists(shapes(), max_size=12), shapes().filter(bool), st.sampled_from(sorted(geometry.SPATIAL)))
def test_relations_are_those_of_single_shapes(rows: list[str | None], other: str, relation: str) -> None:
    compare = getattr(shapely, relation.removeprefix("st_"))
    expected = [row is not None and bool(compare(shapely.from_wkt(row), shapely.from_wkt(other))) for row in rows]
    found = geometry.Meeting(relation, geometry.shape_of(other)).matches(geometry.Shapes.of(stored(rows)))
    assert found.tolist() == expected
    assert geometry.to_texts(stored(rows)).to_pylist() == [
        (row and shapely.to_wkt(shapely.from_wkt(row), trim=True, rounding_precision=-1)) or "" for row in rows
    ]


@given(st.lists(POINTS, max_size=12), POINTS, st.integers(0, 800_000))
def test_points_are_near_on_a_sphere(points: list[tuple[int, int]], centre: tuple[int, int], metres: int) -> None:
    def distance_m(point: tuple[int, int]) -> float:
        (x, y), (a, b) = ((math.radians(one) for one in pair) for pair in (point, centre))
        chord = math.sin((y - b) / 2) ** 2 + math.cos(y) * math.cos(b) * math.sin((x - a) / 2) ** 2
        return 2 * 6_371_000 * math.asin(math.sqrt(chord))

    near = geometry.nearness(f"POINT ({centre[0]} {centre[1]})", metres)
    found = near.matches(geometry.Shapes.of(stored([f"POINT ({x} {y})" for x, y in points])))
    expected = [distance_m(point) for point in points]
    assert all(
        ok == (far <= metres) or abs(far - metres) < 1e-3 for ok, far in zip(found.tolist(), expected, strict=True)
    )


def test_wrong_shapes() -> None:
    for text in ("", "POINT ()", "LINESTRING (0 0)", "POLYGON ((0 0, 1 1))", "circle"):
        with pytest.raises(FilterError, match="invalid WKT"):
            geometry.shape_of(text)
        assert geometry.from_texts(texts(["POINT (1 1)", text]), None).wrong == 1
    assert geometry.from_bytes(pa.array([b"\x01", b""], pa.large_binary()), None).wrong == 0
