"""Doors to time, chance, identity, tasks and the disk; errors and limits. Knows nothing about databases."""
