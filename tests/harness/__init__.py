"""Shared by the tests that drive the real service: the process, its REST side and the real clients."""
