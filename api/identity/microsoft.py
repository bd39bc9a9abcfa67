"""Microsoft Entra: OpenID Connect by tenants.

Who runs a tenant of their own may give its accounts any e-mail address there is. So an address counts only
where Microsoft says that its owner verified it (`xms_edov`), or where the operator named one tenant and
trusts it; and people are known by `sub`, never by an address.
"""

from collections.abc import Mapping
from typing import Any

from api.identity.openid import WELL_KNOWN, Metadata, OpenIdProvider

ANY_TENANT = "*"
SHARED_TENANTS = ("common", "organizations")
PLACEHOLDER = "{tenantid}"


class Microsoft(OpenIdProvider):
    """An `IdentityProvider` by Microsoft's tenants."""

    default_name = "Microsoft"

    def _discovery_url(self) -> str:
        return f"{self.options.issuer.rstrip('/')}/{self.options.tenant}/v2.0{WELL_KNOWN}"

    def _is_issuer(self, issuer: object, claims: Mapping[str, Any] | None = None) -> bool:
        # The documents of shared tenants name a template, which the token's own tenant fills.
        shared = self.options.tenant in SHARED_TENANTS
        present = PLACEHOLDER if shared else self.options.tenant
        tenant = present if claims is None else str(claims.get("tid"))
        is_ours = claims is None or self._is_allowed(tenant)
        return is_ours and issuer == f"{self.options.issuer.rstrip('/')}/{tenant}/v2.0"

    def _is_allowed(self, tenant: str) -> bool:
        if self.options.tenant not in SHARED_TENANTS:
            return tenant == self.options.tenant
        return ANY_TENANT in self.options.allowed_tenants or tenant in self.options.allowed_tenants

    def _check_sender(self, metadata: Metadata, answer: Mapping[str, str]) -> None:
        # A template can't be compared with what one tenant calls itself. The ID token decides.
        if self.options.tenant not in SHARED_TENANTS:
            super()._check_sender(metadata, answer)

    def _address_of(self, claims: Mapping[str, Any]) -> tuple[str, bool]:
        email = str(claims.get("email") or claims.get("preferred_username") or "")
        verified = claims.get("xms_edov") in (True, 1, "1", "true") and "email" in claims
        return email, verified or self.options.trust_emails

    def _wants_more(self, claims: Mapping[str, Any]) -> bool:
        return "email" not in claims and "preferred_username" not in claims
