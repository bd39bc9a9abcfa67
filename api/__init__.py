"""What clients see: the REST routes, sign-in, and the live sockets."""
