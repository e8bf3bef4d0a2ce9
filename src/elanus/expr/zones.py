"""TIMESTAMPTZ columns and time zones: ISO texts to microseconds since the epoch, and back in any IANA zone.

Zones are asked through `zoneinfo` for one calendar year at a time; the offsets of that year become a small table, and
whole columns are looked up in it. Of the two offsets around a change, a time that local clocks skip or show twice takes
the one nearer to UTC, as Go and so Milvus does. Beyond the years of `datetime` the 400-year cycle of the calendar is
used.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from elanus.expr.timestamps import OFFSET_HOUR_MAX, OFFSET_HOUR_MIN, zone_of
from elanus.model.columns import Mask

Microseconds = npt.NDArray[np.int64]
SECOND_US: Final = 1_000_000
_DAY_S: Final = 86_400
_CYCLE_YEARS: Final = 400
_CYCLE_S: Final = 146_097 * _DAY_S
_YEAR_MAX: Final = 9998
"""The last year whose end `datetime` knows."""
_PROBE_DAYS: Final = 7
"""Spacing at which a year is probed for changes of the offset: no zone changes it and back within a week."""
_PATTERN: Final = (
    r"^(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)"
    r"(?:[T ](?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)(?:\.(?P<fraction>\d{1,9}))?)?"
    r"\s*(?P<offset>Z|(?P<sign>[+-])(?P<offset_hour>\d\d)(?::?(?P<offset_minute>\d\d))?)?$"
)
TIME_PARTS: Final = ("year", "month", "day", "hour", "minute", "second", "microsecond", "nanosecond")


class _Table(NamedTuple):
    """From each moment on (seconds since the epoch, ascending), the zone's offset in seconds."""

    starts: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]


@lru_cache(maxsize=4096)
def _year_table(zone_name: str, year: int) -> _Table:
    """Offsets over one calendar year (UTC) within the years of `datetime`."""
    zone = zone_of(zone_name)
    begin = int(datetime(year, 1, 1, tzinfo=UTC).timestamp())
    end = int(datetime(year + 1, 1, 1, tzinfo=UTC).timestamp())
    probes = [*range(begin, end, _PROBE_DAYS * _DAY_S), end]
    starts, offsets = [begin], [_offset_s(zone, begin)]
    for low, high in pairwise(probes):
        after = _offset_s(zone, high)
        if after == offsets[-1]:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if _offset_s(zone, middle) == offsets[-1] else (low, middle)
        starts.append(high)
        offsets.append(_offset_s(zone, high))
    return _Table(np.array(starts, np.int64), np.array(offsets, np.int64))


def _offset_s(zone: tzinfo, moment_s: int) -> int:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=moment_s)
    offset = moment.astimezone(zone).utcoffset()
    return 0 if offset is None else int(offset.total_seconds())


def _table(zone_name: str, years: npt.NDArray[np.int64]) -> _Table:
    """Offsets over all these years and one on each side."""
    wanted = np.unique(np.concatenate([years - 1, years, years + 1]))
    starts, offsets = [], []
    for year in wanted.tolist():
        cycles = (year - _YEAR_MAX) // _CYCLE_YEARS + 1 if year > _YEAR_MAX else min(0, (year - 2) // _CYCLE_YEARS)
        known = _year_table(zone_name, year - cycles * _CYCLE_YEARS)
        starts.append(known.starts + cycles * _CYCLE_S)
        offsets.append(known.offsets)
    return _Table(np.concatenate(starts), np.concatenate(offsets))


def _years(moments_s: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.unique(moments_s.view("M8[s]").astype("M8[Y]").astype(np.int64) + 1970)


def offsets_at(moments_s: npt.NDArray[np.int64], zone_name: str) -> npt.NDArray[np.int64]:
    """The zone's offset in seconds at each moment (seconds since the epoch)."""
    if zone_name == "UTC" or not len(moments_s):
        return np.zeros(len(moments_s), np.int64)
    table = _table(zone_name, _years(moments_s))
    return np.asarray(table.offsets[np.searchsorted(table.starts, moments_s, side="right") - 1])


def _offsets_of_local(clock_s: npt.NDArray[np.int64], zone_name: str) -> npt.NDArray[np.int64]:
    """The zone's offset in seconds where its clocks show these times.

    The offset at the time read as UTC leads near the moment that is meant, and the offset there is the answer: `Date`
    of Go's package `time` looks it up like this.
    """
    return offsets_at(clock_s - offsets_at(clock_s, zone_name), zone_name)


class Parsed(NamedTuple):
    """Microseconds since the epoch, and the first row that could not be read (-1: none)."""

    values: Microseconds
    wrong: int


def parse_texts(texts: pa.Array, valid: Mask | None, zone_name: str) -> Parsed:
    """ISO texts, those without an offset read in the zone; rows that are not valid are 0."""
    present = texts if valid is None else pc.if_else(pa.array(valid), texts, pa.scalar(None, texts.type))
    match = pc.extract_regex(present, pattern=_PATTERN)
    numbers = {name: _numbers(match, name) for name in ("year", "month", "day", "hour", "minute", "second")}
    clock_s, possible = _clock(numbers)
    fraction = _integers(pc.utf8_slice_codeunits(pc.utf8_rpad(match.field("fraction"), 6, "0"), 0, 6))
    offset_hour, offset_minute = _numbers(match, "offset_hour"), _numbers(match, "offset_minute")
    negative = np.asarray(pc.fill_null(pc.equal(match.field("sign"), "-"), False))
    signed_hour = np.where(negative, -offset_hour, offset_hour)
    possible &= (signed_hour >= OFFSET_HOUR_MIN) & (signed_hour <= OFFSET_HOUR_MAX) & (offset_minute < 60)
    readable = np.asarray(match.is_valid()) & possible
    if valid is not None:
        readable |= ~valid
    if not readable.all():
        return Parsed(np.zeros(0, np.int64), int(np.argmin(readable)))
    own = np.where(negative, -1, 1) * (offset_hour * 3600 + offset_minute * 60)
    is_naive = np.asarray(pc.fill_null(pc.equal(match.field("offset"), ""), True))
    offsets = np.where(is_naive, 0, own)
    naive = np.flatnonzero(is_naive)
    offsets[naive] = _offsets_of_local(clock_s[naive], zone_name)
    values = (clock_s - offsets) * SECOND_US + fraction
    return Parsed(values if valid is None else np.where(valid, values, 0), -1)


def _integers(texts: pa.Array) -> npt.NDArray[np.int64]:
    filled = pc.if_else(pc.fill_null(pc.equal(texts, ""), True), pa.scalar("0", texts.type), texts)
    return np.asarray(pc.cast(filled, pa.int64()))


def _numbers(match: Any, name: str) -> npt.NDArray[np.int64]:
    return _integers(match.field(name))


def _clock(numbers: dict[str, npt.NDArray[np.int64]]) -> tuple[npt.NDArray[np.int64], Mask]:
    """Seconds that a clock shows, counted as if it were UTC, and where such a time exists."""
    year, month, day = numbers["year"], numbers["month"], numbers["day"]
    hour, minute, second = numbers["hour"], numbers["minute"], numbers["second"]
    months = (year - 1970) * 12 + np.clip(month, 1, 12) - 1
    first = months.view("M8[M]").astype("M8[D]").astype(np.int64)
    following = (months + 1).view("M8[M]").astype("M8[D]").astype(np.int64)
    possible = (month >= 1) & (month <= 12) & (day >= 1) & (day <= following - first)
    possible &= (hour < 24) & (minute < 60) & (second < 60)
    return (first + day - 1) * _DAY_S + hour * 3600 + minute * 60 + second, possible


def to_texts(values: Microseconds, zone_name: str) -> pa.Array:
    """RFC 3339 in the zone, without trailing zeros: `2025-01-31T12:00:00.5+08:00`, `Z` for UTC."""
    offsets = offsets_at(values // SECOND_US, zone_name)
    clock = np.datetime_as_string((values + offsets * SECOND_US).view("M8[us]"), unit="us")
    trimmed = np.strings.rstrip(np.strings.rstrip(clock, "0"), ".")
    kinds, places = np.unique(offsets, return_inverse=True)
    suffixes = np.array([_suffix(offset) for offset in kinds.tolist()], "U9")
    texts = np.strings.add(trimmed, suffixes[places]) if len(values) else trimmed
    return pa.array(texts, pa.large_string())


def _suffix(offset_s: int) -> str:
    if offset_s == 0:
        return "Z"
    hours, minutes = divmod(abs(offset_s) // 60, 60)
    return f"{'-' if offset_s < 0 else '+'}{hours:02d}:{minutes:02d}"


def to_parts(values: Microseconds, zone_name: str, names: tuple[str, ...]) -> pa.Array:
    """The named `TIME_PARTS` of each moment on the zone's clock, as lists of integers in that order."""
    local = values + offsets_at(values // SECOND_US, zone_name) * SECOND_US
    days = (local // (SECOND_US * _DAY_S)).view("M8[D]")
    months, years = days.astype("M8[M]"), days.astype("M8[Y]")
    in_day_s = local // SECOND_US % _DAY_S
    found = {
        "year": years.astype(np.int64) + 1970,
        "month": (months - years.astype("M8[M]")).astype(np.int64) + 1,
        "day": (days - months.astype("M8[D]")).astype(np.int64) + 1,
        "hour": in_day_s // 3600,
        "minute": in_day_s // 60 % 60,
        "second": in_day_s % 60,
        "microsecond": local % SECOND_US,
        "nanosecond": local % SECOND_US * 1000,
    }
    flat = np.column_stack([found[name] for name in names]).reshape(-1).astype(np.int64)
    offsets = np.arange(len(values) + 1, dtype=np.int64) * len(names)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat))
