"""The meta store: a small transactional key-value store, and the catalog of everything durable that lives in it.

`store` is the port, `memory` and `sqlite` are its local implementations (both on `local` and `state`), `etcd` that of a
cluster, `records` and `catalog` say what is stored and how it changes, `manifests` commits shard manifests.
"""
