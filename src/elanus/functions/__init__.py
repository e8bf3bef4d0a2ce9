"""Computed fields and rerankers."""
