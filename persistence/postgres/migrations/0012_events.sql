-- The audit trail of threat models and their children: append only, and gone after its time.
--
-- No foreign keys: the trail outlives users, threat models and everything in them. `number` rises, and in one threat
-- model in the order of commits: whoever writes takes an advisory lock on the threat model until the commit. So a reader that
-- has seen a number has missed nothing below it.
CREATE TABLE events (
    number          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id              uuid NOT NULL UNIQUE,
    created_at      timestamptz NOT NULL,
    threat_model_id uuid NOT NULL,
    object_type     text NOT NULL,
    object_id       uuid NOT NULL,
    change_type     text NOT NULL,
    actor_id        uuid,
    provider        text NOT NULL,
    provider_id     text NOT NULL,
    email           text NOT NULL,
    name            text NOT NULL,
    version         bigint,
    summary         text,
    seq             bigint
);

CREATE INDEX events_by_threat_model ON events (threat_model_id, number);
CREATE INDEX events_by_object ON events (object_id, number);
CREATE INDEX events_by_email ON events (lower(email), number);
CREATE INDEX events_by_time ON events (created_at);

-- The state of an object after its event. Apart, since lists do not read it, and since it may go earlier.
CREATE TABLE event_states (
    number     bigint PRIMARY KEY,
    created_at timestamptz NOT NULL,
    state      jsonb NOT NULL
);

CREATE INDEX event_states_by_time ON event_states (created_at);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER events_are_final BEFORE UPDATE ON events FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER event_states_are_final BEFORE UPDATE ON event_states FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- Up to which update of its document a diagram's edits of cells are told of in the trail: once for each author and minute,
-- afterwards, by whoever has the row's lock. So appends, the hottest path, know nothing of it.
CREATE TABLE diagram_trails (
    diagram_id uuid PRIMARY KEY REFERENCES diagrams ON DELETE CASCADE,
    seq        bigint NOT NULL DEFAULT 0
);
