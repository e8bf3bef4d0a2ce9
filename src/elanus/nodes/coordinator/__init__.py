"""The coordinator: DDL, identity, time, and the placement of channels, segments and background tasks.

Exactly one is active. It is elected by creating one key under a lease; the key's create revision is its term, and every
transaction it runs compares that revision, so that a deposed one changes nothing. What it knows beyond the meta store
(where segments are loaded, how far a build is) is rebuilt by its loops, which compare wanted with seen and do the
missing steps, each of which may be repeated.
"""
