"""Kernels of the filter language, in two forms each; see `base.kernel`."""
