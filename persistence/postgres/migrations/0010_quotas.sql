-- Quotas of users, settings that change while the service runs, and preferences.

-- Who is charged for a threat model and what is in it: its creator, until ownership is transferred. Code that does
-- not know the column leaves it to the trigger below. No trigger on UPDATE: only a transfer changes it, and counts.
ALTER TABLE threat_models ADD COLUMN charged_to uuid REFERENCES users ON DELETE SET NULL;

CREATE INDEX threat_models_by_charge ON threat_models (charged_to);

-- An administrator's word for one user. NULL: as for everybody; 0: no limit.
CREATE TABLE user_quotas (
    user_id           uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    requests_per_min  bigint NOT NULL CHECK (requests_per_min >= 0),
    requests_per_hour bigint CHECK (requests_per_hour >= 0),
    threat_models     bigint CHECK (threat_models >= 0),
    diagrams          bigint CHECK (diagrams >= 0),
    stored_bytes      bigint CHECK (stored_bytes >= 0),
    connections       bigint CHECK (connections >= 0),
    created_at        timestamptz NOT NULL DEFAULT now(),
    modified_at       timestamptz NOT NULL DEFAULT now()
);

-- What users are charged for. The row is the last that any transaction locks: after threat models, diagrams and
-- fences; whoever creates something holds it until its commit, so that no two pass a quota together.
CREATE TABLE user_usage (
    user_id       uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    threat_models bigint NOT NULL DEFAULT 0,
    diagrams      bigint NOT NULL DEFAULT 0,
    stored_bytes  bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 70);

CREATE INDEX user_usage_by_size ON user_usage (stored_bytes DESC);

-- What a diagram's updates up to `counted_seq` and its snapshots take, as of its last snapshot. Each snapshot adds
-- itself and the updates since the one before, so every row of the log is looked at once more, and appends stay as
-- quick as they were. Diagrams of before this migration are counted at their next snapshot. No foreign key, as with
-- the log itself; the trigger on diagrams deletes the row.
CREATE TABLE diagram_sizes (
    diagram_id   uuid PRIMARY KEY,
    counted_seq  bigint NOT NULL,
    stored_bytes bigint NOT NULL
) WITH (fillfactor = 70);

CREATE FUNCTION threat_model_is_charged() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.charged_to := coalesce(NEW.charged_to, NEW.created_by);
    RETURN NEW;
END $$;

CREATE TRIGGER threat_models_charged BEFORE INSERT ON threat_models
    FOR EACH ROW EXECUTE FUNCTION threat_model_is_charged();

-- Triggers count, and not the statements of the program: whoever inserts or deletes, and by whatever statement, is
-- counted. Rows of several users are locked in the order of their ids.
CREATE FUNCTION count_threat_models() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE step bigint := CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END;
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO user_usage (user_id)
            SELECT DISTINCT charged_to FROM changed WHERE charged_to IS NOT NULL ORDER BY charged_to
            ON CONFLICT DO NOTHING;
    END IF;
    PERFORM FROM user_usage WHERE user_id IN (SELECT charged_to FROM changed) ORDER BY user_id FOR UPDATE;
    UPDATE user_usage u SET threat_models = u.threat_models + step * c.n
    FROM (SELECT charged_to, count(*) AS n FROM changed GROUP BY charged_to) c
    WHERE u.user_id = c.charged_to;
    RETURN NULL;
END $$;

CREATE TRIGGER threat_models_counted AFTER INSERT ON threat_models
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION count_threat_models();
CREATE TRIGGER threat_models_uncounted AFTER DELETE ON threat_models
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION count_threat_models();

CREATE FUNCTION count_diagrams() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM user_usage WHERE user_id IN (
        SELECT t.charged_to FROM changed c JOIN threat_models t ON t.id = c.threat_model_id) ORDER BY user_id FOR UPDATE;
    UPDATE user_usage u SET diagrams = u.diagrams + c.n
    FROM (SELECT t.charged_to, count(*) AS n FROM changed d JOIN threat_models t ON t.id = d.threat_model_id
          GROUP BY t.charged_to) c
    WHERE u.user_id = c.charged_to;
    RETURN NULL;
END $$;

CREATE FUNCTION uncount_diagrams() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM user_usage WHERE user_id IN (
        SELECT t.charged_to FROM changed c JOIN threat_models t ON t.id = c.threat_model_id) ORDER BY user_id FOR UPDATE;
    WITH sizes AS (
        DELETE FROM diagram_sizes s USING changed d WHERE s.diagram_id = d.id RETURNING s.diagram_id, s.stored_bytes
    ), gone AS (
        SELECT t.charged_to, count(*) AS n, coalesce(sum(s.stored_bytes), 0) AS size
        FROM changed d JOIN threat_models t ON t.id = d.threat_model_id LEFT JOIN sizes s ON s.diagram_id = d.id
        GROUP BY t.charged_to
    )
    UPDATE user_usage u SET diagrams = u.diagrams - g.n, stored_bytes = u.stored_bytes - g.size
    FROM gone g WHERE u.user_id = g.charged_to;
    RETURN NULL;
END $$;

CREATE TRIGGER diagrams_counted AFTER INSERT ON diagrams
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION count_diagrams();
CREATE TRIGGER diagrams_uncounted AFTER DELETE ON diagrams
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION uncount_diagrams();

-- CREATE TRIGGER has locked both tables against writers until the end of this transaction, so this is complete.
UPDATE threat_models SET charged_to = created_by;

INSERT INTO user_usage (user_id, threat_models, diagrams)
    SELECT t.charged_to, count(DISTINCT t.id), count(d.id)
    FROM threat_models t LEFT JOIN diagrams d ON d.threat_model_id = t.id
    WHERE t.charged_to IS NOT NULL GROUP BY t.charged_to;

CREATE TABLE system_settings (
    key         text PRIMARY KEY,
    value       text NOT NULL,
    kind        text NOT NULL,
    description text,
    modified_at timestamptz NOT NULL DEFAULT now(),
    modified_by uuid REFERENCES users ON DELETE SET NULL
);

-- JSON as the client wrote it, up to a kilobyte.
CREATE TABLE user_preferences (
    user_id     uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    preferences text NOT NULL,
    modified_at timestamptz NOT NULL DEFAULT now()
);
