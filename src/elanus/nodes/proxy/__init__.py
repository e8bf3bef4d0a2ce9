"""The proxy: the role that clients talk to.

It owns nothing durable. It checks what clients send, turns rows into columns, routes them to the shards by primary key,
asks every shard's delegator on reads and merges the answers. What it remembers (collections, blocks of ids, search
plans) is a cache that may be dropped at any moment. Any number of proxies may serve the same collections.

Invariants
- Nothing is sent to a shard before the whole request was found valid: a refused request changes nothing.
- A write is sent again only on an answer that proves it was not stamped; otherwise the client is told that the outcome
  is unknown.
- Each record of an upsert lies in one shard, the shard of the key it replaces.
- What a client asks and the server cannot do is refused; options that change results are never ignored.
"""
