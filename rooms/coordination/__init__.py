"""Who owns which room: the coordinators."""
