-- Sign-in sessions that a browser keeps as a cookie. Of its secret only the SHA-256 is kept.

CREATE TABLE browser_sessions (
    secret_hash bytea PRIMARY KEY,
    sign_in_id  uuid NOT NULL REFERENCES sign_ins ON DELETE CASCADE,
    idle_until  timestamptz NOT NULL
);

CREATE INDEX browser_sessions_by_sign_in ON browser_sessions (sign_in_id);
CREATE INDEX browser_sessions_by_idling ON browser_sessions (idle_until);
