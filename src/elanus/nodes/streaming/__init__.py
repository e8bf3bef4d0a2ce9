"""The streaming node: the log's owner, and the delegator of its shards.

What it owns: pchannels under a term (`channel`), the growing rows and recent deletes of their shards and the view that
reads are served from (`shard`), sealing (`flush`), and reads (`delegate`). What it does not own: the catalog, sealed
files, timestamps (granted in windows by the coordinator, `stamps`).

Invariants, each told in the module that keeps it:

- An acknowledged write is durable in the log, in order, under the current term, and already visible here.
- Log order is timestamp order; every record has a timestamp of its own (`channel`, `stamps`).
- A view is a function of a committed manifest and a position; swapping it loses and doubles nothing (`shard`).
- A manifest moves only under this owner's term, over what its files hold; the log is released below it (`flush`).
- A Strong read rests on evidence gathered after it arrived, never on a lease (`delegate`).
"""
