"""Scalar indexes: files that say which rows hold which values, and how they answer the leaves of a filter.

`values` makes of a column what is indexed, `keys` are the distinct values in order, `holders` the rows of each, `keyed`
an index of those three. `contract` is what the rest of the package sees. An answer is always that of a scan over the
column, or a set of rows that holds it.
"""
