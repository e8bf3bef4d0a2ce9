"""Shipped test machinery: conformance suites per port, virtual doors, the disk that forgets."""
