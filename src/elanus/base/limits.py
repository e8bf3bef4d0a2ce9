"""Every bound in the system, by name. Milvus's own limits keep Milvus's values."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

# --- the wire -------------------------------------------------------------------------------------------------------
REQUEST_BYTES_MAX: Final = 64 * MIB
RESPONSE_BYTES_MAX: Final = 256 * MIB
OUTPUT_BYTES_MAX: Final = 100 * MIB
INTERNAL_MESSAGE_BYTES_MAX: Final = 512 * MIB
INTERNAL_CALLS_MAX: Final = 4096

# --- schema ---------------------------------------------------------------------------------------------------------
NAME_LENGTH_MAX: Final = 255
FIELD_COUNT_MAX: Final = 64
VECTOR_FIELD_COUNT_MAX: Final = 10
SHARD_COUNT_MAX: Final = 16
PARTITION_COUNT_MAX: Final = 1024
DIMENSION_MIN: Final = 2
DIMENSION_MAX: Final = 32768
VARCHAR_BYTES_MAX: Final = 65535
ARRAY_CAPACITY_MAX: Final = 4096
JSON_BYTES_MAX: Final = 65536
COLLECTION_COUNT_MAX: Final = 65536
DATABASE_COUNT_MAX: Final = 64

# --- requests -------------------------------------------------------------------------------------------------------
TOP_K_MAX: Final = 16384
QUERY_COUNT_MAX: Final = 16384
RESULT_WINDOW_MAX: Final = 16384
QUERY_GROUP_COUNT_MAX: Final = 1_000_000

# --- log and growing data -------------------------------------------------------------------------------------------
LOG_BATCH_BYTES_MAX: Final = 16 * MIB
LOG_BATCH_RECORDS_MAX: Final = 1024
LOG_FILE_BYTES_MAX: Final = 64 * MIB
LOG_FRAME_BYTES_MAX: Final = 512 * MIB
PENDING_WRITES_MAX: Final = 1024
PENDING_WRITE_BYTES_MAX: Final = 256 * MIB

# --- coordinator ----------------------------------------------------------------------------------------------------
META_TRANSACTION_OPERATIONS_MAX: Final = 120
"""Below etcd's 128, with room for what a store adds of its own."""
META_VALUE_BYTES_MAX: Final = 1 * MIB
TIMESTAMP_WINDOW_MS: Final = 3000
