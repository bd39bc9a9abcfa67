"""Threat models, diagrams, roles, errors, ids and ports. Pure; every other package may import it."""
