"""How servers that speak TLS are checked."""

import ssl
from functools import cache


@cache
def checking() -> ssl.SSLContext:
    """Certificate and host name have to be good, by the authorities of the system or of SSL_CERT_FILE."""
    return ssl.create_default_context()
