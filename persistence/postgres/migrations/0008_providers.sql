-- Sign-in at other services: what is waited for, and e-mail addresses that nobody vouches for.

-- Who went to an identity provider and has not come back. Of the state and of the browser's secret only SHA-256 is
-- kept; the provider's nonce and PKCE verifier are derived from both, so none of them can be read here.
CREATE TABLE pending_authorizations (
    state_hash     bytea PRIMARY KEY,
    browser_hash   bytea NOT NULL,
    provider       text NOT NULL,
    redirect_uri   text NOT NULL,
    client_state   text,
    code_challenge text NOT NULL,
    scope          text NOT NULL,
    expires_at     timestamptz NOT NULL
);

CREATE INDEX pending_authorizations_by_expiry ON pending_authorizations (expires_at);

-- Until now everybody came from the development provider, where the address is the id.
ALTER TABLE users ALTER COLUMN email_verified SET DEFAULT false;
UPDATE users SET email_verified = false WHERE provider <> 'tmi' AND email_verified;

-- The one place that says whom a grant means, as in migration 0002, but that an address counts only if the provider
-- vouches for it: else whoever may choose their address at a provider would be whom they like.
CREATE OR REPLACE VIEW user_grants AS
    SELECT u.id AS user_id, g.threat_model_id, g.role
    FROM users u
    JOIN grants g ON g.principal_type = 'user'
                 AND g.provider = u.provider
                 AND lower(g.provider_id COLLATE "C") IN (lower(u.provider_id COLLATE "C"), lower(u.email COLLATE "C"))
                 AND (g.provider_id = u.provider_id
                      OR (u.email_verified
                          AND lower(g.provider_id COLLATE "C") = lower(u.email COLLATE "C")))
UNION ALL
    SELECT m.user_id, g.threat_model_id, g.role
    FROM group_members m
    JOIN groups p ON p.id = m.group_id
    JOIN grants g ON g.principal_type = 'group'
                 AND g.provider = p.provider
                 AND lower(g.provider_id COLLATE "C") = lower(p.provider_id COLLATE "C")
                 AND g.provider_id = p.provider_id
UNION ALL
    SELECT u.id, g.threat_model_id, g.role
    FROM users u
    JOIN grants g ON g.principal_type = 'group'
                 AND g.provider IN ('tmi', '*')
                 AND lower(g.provider_id COLLATE "C") = 'everyone'
                 AND g.provider_id = 'everyone';
