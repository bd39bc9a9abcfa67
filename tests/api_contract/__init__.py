"""How this service's API differs from the published contract."""
