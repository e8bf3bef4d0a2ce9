"""Shipped test machinery: conformance suites per port, virtual doors, the disk that forgets, the simulator, and a pytest
fixture of real servers."""
