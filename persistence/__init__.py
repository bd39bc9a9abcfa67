"""Where TMI keeps what it must not lose: PostgreSQL, and in-memory twins of the same ports."""
