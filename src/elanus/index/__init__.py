"""Indexes over arrays: what exists, how it is built and mapped, and how a search through a row mask keeps its promise.

Knows arrays and masks, never segments. `registry` finds an index type by name, `exact` answers without an index,
`plan` chooses between the two.
"""
