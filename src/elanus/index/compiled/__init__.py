"""Kernels of our own: loops that NumPy has no words for, compiled by numba where it is installed.

`kernel` decides how a kernel runs; `postings` holds those of sparse vectors, `distances`, `beam` and `vamana` those of
the graph on disk. Each kernel has a twin in NumPy that gives the same answer, slower, and runs where numba is absent.
"""
