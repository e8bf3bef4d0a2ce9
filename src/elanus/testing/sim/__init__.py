"""The simulator: a whole Elanus in one process, from one integer seed, faults included, on the production code.

Only the doors of `base/` and the ports differ. `loop` gives virtual time and processes that can be paused and killed at
any await; `network`, `bucket`, `keys` and `disks` are the world between and below them; `faults` breaks it by a plan;
`workload` is the clients; `linear` and `testing.invariants` say whether anything was lost; `run` plays one seed.
"""
