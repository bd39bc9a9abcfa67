-- Client credentials, what a sign-in came from, codes that were used, and the terms of signing keys.

-- Of a secret only its SHA-256 is kept.
CREATE TABLE client_credentials (
    id           uuid PRIMARY KEY,
    user_id      uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    client_id    text NOT NULL UNIQUE,
    secret_hash  bytea NOT NULL,
    name         text NOT NULL,
    description  text,
    is_active    boolean NOT NULL DEFAULT true,
    created_at   timestamptz NOT NULL DEFAULT now(),
    modified_at  timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    last_used_at timestamptz
);

CREATE INDEX client_credentials_by_user ON client_credentials (user_id, created_at);

-- A sign-in that a credential began has no refresh token.
ALTER TABLE sign_ins
    ADD COLUMN credential_id uuid REFERENCES client_credentials ON DELETE SET NULL,
    ADD COLUMN client text,
    ADD COLUMN refreshed_at timestamptz;

CREATE INDEX sign_ins_by_credential ON sign_ins (credential_id) WHERE credential_id IS NOT NULL;

-- A code that comes back after it was used was copied by somebody: the sign-in that it began ends. In a table
-- of their own, so that a node of an older version cannot take one of them for a fresh one.
CREATE TABLE used_codes (
    code_hash  bytea PRIMARY KEY,
    sign_in_id uuid,
    replayed   boolean NOT NULL DEFAULT false,
    expires_at timestamptz NOT NULL
);

CREATE INDEX used_codes_by_expiry ON used_codes (expires_at);

-- A key signs from `signs_from` on (NULL: since it was made) until the next one does. What it signed ends at
-- most `token_ttl` later. The default is the longest that the settings allow.
ALTER TABLE signing_keys
    ADD COLUMN signs_from timestamptz,
    ADD COLUMN token_ttl interval NOT NULL DEFAULT interval '24 hours';
