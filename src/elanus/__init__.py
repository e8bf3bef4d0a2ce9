"""Elanus: the Milvus architecture as a Python package.

`elanus.connect("./demo.db")` gives a `pymilvus.MilvusClient` of a folder; `elanus serve` runs a server.
"""

from elanus.app.embedded import connect

__version__ = "0.1.0"
__all__ = ["__version__", "connect"]
