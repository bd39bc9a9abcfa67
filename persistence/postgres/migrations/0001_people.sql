-- People, groups, sign-in sessions and the keys that sign tokens.

CREATE TABLE users (
    id          uuid PRIMARY KEY,
    provider    text NOT NULL,
    provider_id text NOT NULL,
    email       text NOT NULL,
    name        text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (provider, provider_id)
);

-- Letters are folded as ASCII alone (COLLATE "C"): folding all of Unicode would make one mailbox of two,
-- for instance of mike@ written with the Kelvin sign and mike@.
CREATE INDEX users_by_email ON users (provider, lower(email COLLATE "C"));

-- The group `everyone` is built in and has no row here: see the view user_grants.
CREATE TABLE groups (
    id          uuid PRIMARY KEY,
    provider    text NOT NULL,
    provider_id text NOT NULL,
    name        text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (provider, provider_id)
);

CREATE TABLE group_members (
    group_id uuid NOT NULL REFERENCES groups ON DELETE CASCADE,
    user_id  uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    PRIMARY KEY (group_id, user_id)
);

CREATE INDEX group_members_by_user ON group_members (user_id);

CREATE TABLE sign_ins (
    id         uuid PRIMARY KEY,
    user_id    uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    started_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    ended_at   timestamptz
);

CREATE INDEX sign_ins_by_user ON sign_ins (user_id);
CREATE INDEX sign_ins_by_expiry ON sign_ins (expires_at);

-- Secrets are kept as SHA-256 only. The tokens of one sign-in are one family: a token that comes back after it
-- was used ends the sign-in, so used ones stay until they expire.
CREATE TABLE refresh_tokens (
    token_hash bytea PRIMARY KEY,
    sign_in_id uuid NOT NULL REFERENCES sign_ins ON DELETE CASCADE,
    expires_at timestamptz NOT NULL,
    used_at    timestamptz
);

CREATE INDEX refresh_tokens_by_sign_in ON refresh_tokens (sign_in_id);
CREATE INDEX refresh_tokens_by_expiry ON refresh_tokens (expires_at);

CREATE TABLE authorization_codes (
    code_hash      bytea PRIMARY KEY,
    user_id        uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    redirect_uri   text NOT NULL,
    code_challenge text NOT NULL,
    scope          text NOT NULL,
    expires_at     timestamptz NOT NULL
);

CREATE INDEX authorization_codes_by_user ON authorization_codes (user_id);
CREATE INDEX authorization_codes_by_expiry ON authorization_codes (expires_at);

CREATE TABLE signing_keys (
    kid         text PRIMARY KEY,
    algorithm   text NOT NULL,
    private_pem bytea NOT NULL,
    created_at  timestamptz NOT NULL
);
