"""Rerankers: how the hits of several searches become one order."""
