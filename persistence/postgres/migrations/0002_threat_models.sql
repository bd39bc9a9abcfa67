-- Threat models, who may use them, and their diagrams.

CREATE TABLE threat_models (
    id                     uuid PRIMARY KEY,
    alias                  bigint NOT NULL UNIQUE CHECK (alias >= 1),
    name                   text NOT NULL,
    description            text,
    threat_model_framework text NOT NULL,
    issue_uri              text,
    is_confidential        boolean NOT NULL,
    created_by             uuid REFERENCES users ON DELETE SET NULL,
    created_at             timestamptz NOT NULL DEFAULT clock_timestamp(),
    modified_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    version                bigint NOT NULL DEFAULT 1,
    last_diagram_alias     bigint NOT NULL DEFAULT 0
);

CREATE INDEX threat_models_by_creator ON threat_models (created_by);

-- A counter and not a sequence: a sequence leaves gaps when a transaction fails, and an alias is never given twice.
CREATE TABLE threat_model_aliases (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    last      bigint NOT NULL DEFAULT 0
);

INSERT INTO threat_model_aliases DEFAULT VALUES;

-- role: 1 reader, 2 writer, 3 owner. A principal may be named before it first signs in, so it is no foreign key.
CREATE TABLE grants (
    threat_model_id uuid NOT NULL REFERENCES threat_models ON DELETE CASCADE,
    position        integer NOT NULL,
    principal_type  text NOT NULL CHECK (principal_type IN ('user', 'group')),
    provider        text NOT NULL,
    provider_id     text NOT NULL,
    email           text,
    display_name    text,
    role            smallint NOT NULL CHECK (role BETWEEN 1 AND 3),
    PRIMARY KEY (threat_model_id, position),
    UNIQUE (threat_model_id, principal_type, provider, provider_id)
);

CREATE INDEX grants_by_principal ON grants (provider, lower(provider_id COLLATE "C"), principal_type)
    INCLUDE (threat_model_id, role, provider_id);

-- The one place that says whom a grant means:
--   a user, whose provider is the grant's and whose id there is the grant's provider_id, or whose e-mail
--     equals it but for the case of ASCII letters (so that people can be named before they first sign in);
--   the members of a group of that provider and id;
--   every user, where the group is `everyone` of provider `tmi` or `*`.
CREATE VIEW user_grants AS
    SELECT u.id AS user_id, g.threat_model_id, g.role
    FROM users u
    JOIN grants g ON g.principal_type = 'user'
                 AND g.provider = u.provider
                 AND lower(g.provider_id COLLATE "C") IN (lower(u.provider_id COLLATE "C"), lower(u.email COLLATE "C"))
                 AND (g.provider_id = u.provider_id
                      OR lower(g.provider_id COLLATE "C") = lower(u.email COLLATE "C"))
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

CREATE TABLE diagrams (
    id              uuid PRIMARY KEY,
    threat_model_id uuid NOT NULL REFERENCES threat_models,
    alias           bigint NOT NULL CHECK (alias >= 1),
    name            text NOT NULL,
    type            text NOT NULL,
    description     text,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    modified_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    version         bigint NOT NULL DEFAULT 1,
    UNIQUE (threat_model_id, alias)
);
