"""Shipped test machinery: conformance suites per port, virtual doors, the disk that forgets, the simulator, and a
fixture of pytest's with real servers."""
