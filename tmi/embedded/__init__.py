"""Servers that TMI runs by itself where none is given."""
