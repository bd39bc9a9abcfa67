-- Collaboration sessions with their tickets.

CREATE TABLE collaborations (
    id         uuid PRIMARY KEY,
    diagram_id uuid NOT NULL UNIQUE REFERENCES diagrams ON DELETE CASCADE,
    host_id    uuid REFERENCES users ON DELETE SET NULL,
    started_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX collaborations_by_host ON collaborations (host_id);

-- Of a ticket only its SHA-256 is kept. It is redeemed by deleting its row.
CREATE TABLE tickets (
    ticket_hash      bytea PRIMARY KEY,
    collaboration_id uuid NOT NULL REFERENCES collaborations ON DELETE CASCADE,
    user_id          uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    sign_in_id       uuid NOT NULL REFERENCES sign_ins ON DELETE CASCADE,
    expires_at       timestamptz NOT NULL
);

CREATE INDEX tickets_by_collaboration ON tickets (collaboration_id);
CREATE INDEX tickets_by_user ON tickets (user_id);
CREATE INDEX tickets_by_sign_in ON tickets (sign_in_id);
CREATE INDEX tickets_by_expiry ON tickets (expires_at);

-- What administrators see and keep of accounts and groups.

ALTER TABLE users
    ADD COLUMN IF NOT EXISTS email_verified boolean NOT NULL DEFAULT true,
    ADD COLUMN IF NOT EXISTS modified_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS last_login timestamptz;

ALTER TABLE groups
    ADD COLUMN description text,
    ADD COLUMN is_builtin boolean NOT NULL DEFAULT false;

ALTER TABLE group_members
    ADD COLUMN id uuid NOT NULL DEFAULT gen_random_uuid(),
    ADD COLUMN added_by uuid REFERENCES users ON DELETE SET NULL,
    ADD COLUMN added_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ADD COLUMN notes text;

CREATE INDEX group_members_by_adder ON group_members (added_by);

-- The row of `everyone` is for lists: it has no members, and the view user_grants says whom it means.
INSERT INTO groups (id, provider, provider_id, name, description, is_builtin) VALUES
    ('00000000-0000-0000-0000-000000000000', 'tmi', 'everyone', 'Everyone', 'Everybody who has signed in', true),
    ('00000000-0000-0000-0000-000000000002', 'tmi', 'administrators', 'Administrators',
     'Those who run this service', true)
ON CONFLICT (provider, provider_id) DO UPDATE SET is_builtin = true;

-- One challenge at a time for each account that its user wants to delete.
CREATE TABLE deletion_challenges (
    user_id        uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    challenge_hash bytea NOT NULL,
    expires_at     timestamptz NOT NULL
);

CREATE INDEX deletion_challenges_by_expiry ON deletion_challenges (expires_at);

-- The system audit: append only, and gone after its time. No foreign keys: it outlives whom it tells of.
CREATE TABLE system_audit (
    number      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id          uuid NOT NULL UNIQUE,
    created_at  timestamptz NOT NULL,
    actor_id    uuid,
    provider    text NOT NULL,
    provider_id text NOT NULL,
    email       text NOT NULL,
    name        text NOT NULL,
    http_method text NOT NULL,
    http_path   text NOT NULL,
    field_path  text NOT NULL,
    old_value   text,
    new_value   text,
    summary     text
);

CREATE INDEX system_audit_by_time ON system_audit (created_at);
CREATE INDEX system_audit_by_email ON system_audit (lower(email), number);
