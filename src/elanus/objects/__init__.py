"""The object store: immutable files under names that are taken once.

`store` is the port, `memory` and `posix` are implementations, `paths` alone knows names, `checksums` writes and reads
what a manifest names.
"""
