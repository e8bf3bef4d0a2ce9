"""The data node: compaction and index building, one task at a time, new files only."""
