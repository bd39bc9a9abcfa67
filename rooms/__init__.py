"""Live collaboration: the room (sans-I/O), its runner, sessions, presence and ownership."""
