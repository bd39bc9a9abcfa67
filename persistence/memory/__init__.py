"""In-memory twins of the PostgreSQL adapters: for tests and simulations. They keep what PostgreSQL
promises, but not on disk.
"""
