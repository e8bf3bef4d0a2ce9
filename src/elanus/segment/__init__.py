"""Segments: growing rows in memory, sealed rows in files, the deletes that hide them, and the reader both offer."""
