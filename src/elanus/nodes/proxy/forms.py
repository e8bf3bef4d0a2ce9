"""Values that are stored in another form than the wire carries them in: times and shapes.

A TIMESTAMPTZ is stored in microseconds since the epoch. It may be sent as such a number or as ISO text, which is read
in the collection's time zone where it names no offset; it is shown as ISO text in the zone of the request, else of the
collection, or as chosen parts of a date. A GEOMETRY is stored as WKB and sent and shown as WKT. Defaults in a stored
schema are in the stored form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from elanus.expr import FilterError, geometry, zones
from elanus.expr.timestamps import zone_of
from elanus.model.columns import Column
from elanus.model.errors import BadParameterError, RequestError
from elanus.model.requests import OutgoingField
from elanus.model.schema import CollectionSchema, FieldSchema
from elanus.model.types import DataType

TIMEZONE_PROPERTY: Final = "timezone"
DEFAULT_TIMEZONE: Final = "UTC"


class Clock(NamedTuple):
    """How times are shown: in which zone, and as which parts of a date (none: as ISO text)."""

    zone: str = DEFAULT_TIMEZONE
    parts: tuple[str, ...] = ()


def check_timezone(name: str) -> None:
    """Refuse what is no IANA time zone."""
    try:
        zone_of(name)
    except FilterError as error:
        raise BadParameterError(error.message) from None


def clock_of(params: Mapping[str, str], zone: str) -> Clock:
    """The clock a read asks for; `zone` is the collection's."""
    asked = params.get(TIMEZONE_PROPERTY, "")
    if asked:
        check_timezone(asked)
    parts = tuple(params.get("time_fields", "").replace(",", " ").split())
    unknown = next((part for part in parts if part not in zones.TIME_PARTS), None)
    if unknown is not None:
        raise BadParameterError(f"unsupported field for extraction: {unknown}")
    return Clock(asked or zone, parts)


# --- in -------------------------------------------------------------------------------------------------------------
def stored_times(values: Any, valid: npt.NDArray[np.bool_] | None, zone: str) -> npt.NDArray[np.int64] | None:
    """Microseconds of a column of times; None where it holds something else."""
    if isinstance(values, np.ndarray):
        return values.astype(np.int64, copy=False) if values.dtype.kind == "i" and values.ndim == 1 else None
    if not isinstance(values, pa.Array) or values.type != pa.large_string():
        return None
    parsed = zones.parse_texts(values, valid, zone)
    if parsed.wrong >= 0:
        raise BadParameterError(
            f"got invalid timestamptz string '{values[parsed.wrong]}': invalid timezone name; "
            "must be a valid IANA Time Zone ID (e.g., 'Asia/Shanghai' or 'UTC')"
        )
    return parsed.values


def stored_shapes(values: Any, valid: npt.NDArray[np.bool_] | None) -> pa.Array | None:
    """WKB of a column of shapes; None where it holds something else."""
    if not isinstance(values, pa.Array) or values.type not in (pa.large_string(), pa.large_binary()):
        return None
    is_text = values.type == pa.large_string()
    converted = geometry.from_texts(values, valid) if is_text else geometry.from_bytes(values, valid)
    if converted.wrong >= 0:
        shown = str(values[converted.wrong])[:64] if is_text else "bytes"
        raise BadParameterError(f"syntax error: row {converted.wrong} is not a valid geometry: {shown}")
    return converted.values


def stored_default(field: FieldSchema, zone: str) -> FieldSchema:
    """The field with its default in the stored form."""
    default = field.default
    if isinstance(default, str) and field.data_type is DataType.TIMESTAMPTZ:
        parsed = zones.parse_texts(pa.array([default], pa.large_string()), None, zone)
        if parsed.wrong >= 0:
            raise BadParameterError(f"invalid timestamp string: '{default}'. Does not match any known format")
        default = int(parsed.values[0])
    elif isinstance(default, str) and field.data_type is DataType.GEOMETRY:
        try:
            default = geometry.shape_of(default)
        except FilterError as error:
            raise RequestError(f"syntax error: the default of field {field.name}: {error.message}") from None
    return field if default is field.default else msgspec.structs.replace(field, default=default)


def with_stored_defaults(schema: CollectionSchema, zone: str) -> CollectionSchema:
    """The schema with all defaults in the stored form."""
    return msgspec.structs.replace(schema, fields=tuple(stored_default(field, zone) for field in schema.fields))


# --- out ------------------------------------------------------------------------------------------------------------
def with_shown_defaults(schema: CollectionSchema, zone: str) -> CollectionSchema:
    """The inverse of `with_stored_defaults`."""
    return msgspec.structs.replace(schema, fields=tuple(_shown_default(field, zone) for field in schema.fields))


def _shown_default(field: FieldSchema, zone: str) -> FieldSchema:
    if isinstance(field.default, int) and field.data_type is DataType.TIMESTAMPTZ:
        text = zones.to_texts(np.array([field.default], np.int64), zone)
    elif isinstance(field.default, bytes) and field.data_type is DataType.GEOMETRY:
        text = geometry.to_texts(pa.array([field.default], pa.large_binary()))
    else:
        return field
    return msgspec.structs.replace(field, default=text[0].as_py())


def shown(field: FieldSchema, column: Column, clock: Clock) -> OutgoingField:
    """A result column as clients see it."""
    values = column.values
    if field.data_type is DataType.GEOMETRY:
        return OutgoingField(field, Column(geometry.to_texts(values), column.valid))
    if field.data_type is not DataType.TIMESTAMPTZ or not isinstance(values, np.ndarray):
        return OutgoingField(field, column)
    if not clock.parts:
        return OutgoingField(field, Column(zones.to_texts(values, clock.zone), column.valid))
    lists = msgspec.structs.replace(field, data_type=DataType.ARRAY, element_type=DataType.INT64, default=None)
    return OutgoingField(lists, Column(zones.to_parts(values, clock.zone, clock.parts), column.valid))
