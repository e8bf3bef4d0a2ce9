"""The object store: immutable files under names that are taken once.

`store` is the port, `memory`, `posix` and `remote` are implementations, `cache` keeps what a remote store gave, `paths`
alone knows names, `checksums` writes and reads what a manifest names.
"""
