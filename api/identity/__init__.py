"""Where people prove who they are: identity providers, and what TMI asks of them.

The protocol's texts and checks are Authlib's, signatures are joserfc's (Authlib's own successor of its
`jose`), and httpx carries them. Authlib's httpx client is not used: it wants httpx2, and reads answers of any
length.
"""
