"""Tests; their names mirror the packages they test."""
