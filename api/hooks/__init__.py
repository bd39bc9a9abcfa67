"""Calls to the endpoints of webhooks."""
