"""Rooms across nodes: replicas of rooms that another node owns, and what the two say to each other."""
