"""Google: OpenID Connect, where a verified address is not always somebody's own."""

from collections.abc import Mapping
from typing import Any

from api.errors import OAuthError
from api.identity.openid import OpenIdProvider


class Google(OpenIdProvider):
    """An `IdentityProvider` by Google's accounts."""

    default_name = "Google"

    def _parameters(self) -> Mapping[str, str]:
        return {"hd": self.options.hosted_domain} if self.options.hosted_domain else {}

    def _check(self, claims: Mapping[str, Any]) -> None:
        # The parameter only helps to choose an account: the claim decides.
        wanted = self.options.hosted_domain
        if wanted and claims.get("hd") != wanted:
            raise OAuthError("access_denied", f"sign in with an account of {wanted}")

    def _address_of(self, claims: Mapping[str, Any]) -> tuple[str, bool]:
        # Google is the authority on addresses of its own and of its Workspaces' domains. An account with an
        # address from elsewhere had it verified once, and may have lost it since.
        email, verified = super()._address_of(claims)
        domain = email.rpartition("@")[2].lower()
        return email, verified and (domain in ("gmail.com", "googlemail.com") or bool(claims.get("hd")))
