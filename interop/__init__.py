"""Generators of other projects, and for others."""
