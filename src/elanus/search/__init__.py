"""Searching and querying over segment readers: masks, execution, and the reduction of partial results."""
