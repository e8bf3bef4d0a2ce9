"""Frozen values without I/O: schema, columns, timestamps, channels, segments, indexes, records, requests, errors."""
