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
