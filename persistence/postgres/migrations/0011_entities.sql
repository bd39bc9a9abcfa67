-- Threats, assets, documents, notes and repositories; metadata; what is deleted and can be restored.

-- One table for five kinds, their fields in one jsonb. Every query is by id or within one threat model, so no index on a
-- field would ever be used; a new field is a row in the table of kinds (tmi/domain/kinds.py) and no migration; and
-- what the audit keeps, what is exported and what is stored are one form. `content` is the bulky field of a kind
-- that has one: apart, so that lists do not read it. It costs the names of fields in each row, about 200 bytes.
-- References to diagrams and assets are checked as they are written, under locks of what they name; they are no
-- foreign keys, since what they name may be deleted and restored.
CREATE TABLE children (
    id              uuid PRIMARY KEY,
    threat_model_id uuid NOT NULL REFERENCES threat_models ON DELETE CASCADE,
    kind            text NOT NULL CHECK (kind IN ('threat', 'asset', 'document', 'note', 'repository')),
    alias           bigint NOT NULL CHECK (alias >= 1),
    fields          jsonb NOT NULL CHECK (jsonb_typeof(fields) = 'object'),
    content         text,
    metadata        jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    auto_generated  boolean NOT NULL DEFAULT false,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    modified_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    deleted_at      timestamptz,
    version         bigint NOT NULL DEFAULT 1,
    UNIQUE (threat_model_id, kind, alias)
);

-- Pages in the usual order are found in this index alone.
CREATE INDEX children_living ON children (threat_model_id, kind, alias) INCLUDE (id) WHERE deleted_at IS NULL;
CREATE INDEX children_deleted ON children (deleted_at) WHERE deleted_at IS NOT NULL;

-- Per threat model and kind (diagrams included), the last alias, and how many there are that are not deleted, so
-- that a list of threat models counts nothing. Short rows with free space: updates stay on their page. Aliases of diagrams are
-- counted in threat_models.last_diagram_alias, as before.
CREATE TABLE child_counters (
    threat_model_id uuid NOT NULL REFERENCES threat_models ON DELETE CASCADE,
    kind            text NOT NULL,
    last_alias      bigint NOT NULL DEFAULT 0,
    living          bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (threat_model_id, kind)
) WITH (fillfactor = 70);

ALTER TABLE threat_models
    ADD COLUMN status            text NOT NULL DEFAULT 'not_started',
    ADD COLUMN status_updated    timestamptz,
    ADD COLUMN security_reviewer jsonb,
    ADD COLUMN metadata          jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN deleted_at        timestamptz;

CREATE INDEX threat_models_deleted ON threat_models (deleted_at) WHERE deleted_at IS NOT NULL;

-- A deleted diagram keeps its log, and has no fence row: so nobody can claim or load its room or append to its log,
-- by the rules of migration 0003 and without a further check. Restored, it gets a fence above `deleted_fence`.
ALTER TABLE diagrams
    ADD COLUMN IF NOT EXISTS metadata jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN deleted_at    timestamptz,
    ADD COLUMN deleted_fence bigint;

CREATE INDEX diagrams_living ON diagrams (threat_model_id, alias) INCLUDE (id) WHERE deleted_at IS NULL;
CREATE INDEX diagrams_deleted ON diagrams (deleted_at) WHERE deleted_at IS NOT NULL;

-- `living` is kept by triggers, once per statement: whoever writes, the count is right, the code of before included.
CREATE FUNCTION count_children(model uuid[], kinds text[], aliases bigint[], changes bigint[]) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO child_counters AS c (threat_model_id, kind, last_alias, living)
    SELECT u.model, u.kind, u.alias, u.change
    FROM unnest(model, kinds, aliases, changes) AS u (model, kind, alias, change) WHERE u.change > 0
    ORDER BY u.model, u.kind
    ON CONFLICT (threat_model_id, kind) DO UPDATE
        SET living = c.living + excluded.living, last_alias = greatest(c.last_alias, excluded.last_alias);
    UPDATE child_counters c SET living = c.living + u.change
    FROM unnest(model, kinds, changes) AS u (model, kind, change)
    WHERE u.change < 0 AND c.threat_model_id = u.model AND c.kind = u.kind;
$$;

CREATE FUNCTION children_counted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM count_children(array_agg(m), array_agg(k), array_agg(a), array_agg(n)) FROM (
            SELECT threat_model_id, kind, max(alias), count(*) FILTER (WHERE deleted_at IS NULL)
            FROM new_rows GROUP BY 1, 2) AS t (m, k, a, n);
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM count_children(array_agg(m), array_agg(k), array_agg(0::bigint), array_agg(n)) FROM (
            SELECT threat_model_id, kind, -count(*) FILTER (WHERE deleted_at IS NULL)
            FROM old_rows GROUP BY 1, 2) AS t (m, k, n);
    ELSE
        PERFORM count_children(array_agg(m), array_agg(k), array_agg(0::bigint), array_agg(n)) FROM (
            SELECT n.threat_model_id, n.kind, sum(CASE WHEN n.deleted_at IS NULL THEN 1 ELSE -1 END)::bigint
            FROM new_rows n JOIN old_rows o USING (id)
            WHERE (n.deleted_at IS NULL) <> (o.deleted_at IS NULL) GROUP BY 1, 2) AS t (m, k, n);
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION diagrams_counted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM count_children(array_agg(m), array_agg('diagram'::text), array_agg(0::bigint), array_agg(n)) FROM (
            SELECT threat_model_id, count(*) FILTER (WHERE deleted_at IS NULL)
            FROM new_rows GROUP BY 1) AS t (m, n);
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM count_children(array_agg(m), array_agg('diagram'::text), array_agg(0::bigint), array_agg(n)) FROM (
            SELECT threat_model_id, -count(*) FILTER (WHERE deleted_at IS NULL)
            FROM old_rows GROUP BY 1) AS t (m, n);
    ELSE
        PERFORM count_children(array_agg(m), array_agg('diagram'::text), array_agg(0::bigint), array_agg(n)) FROM (
            SELECT n.threat_model_id, sum(CASE WHEN n.deleted_at IS NULL THEN 1 ELSE -1 END)::bigint
            FROM new_rows n JOIN old_rows o USING (id)
            WHERE (n.deleted_at IS NULL) <> (o.deleted_at IS NULL) GROUP BY 1) AS t (m, n);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER children_inserted AFTER INSERT ON children
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION children_counted();
CREATE TRIGGER children_updated AFTER UPDATE ON children
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION children_counted();
CREATE TRIGGER children_removed AFTER DELETE ON children
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION children_counted();

CREATE TRIGGER diagrams_inserted AFTER INSERT ON diagrams
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION diagrams_counted();
CREATE TRIGGER diagrams_updated AFTER UPDATE ON diagrams
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION diagrams_counted();
CREATE TRIGGER diagrams_removed AFTER DELETE ON diagrams
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION diagrams_counted();

INSERT INTO child_counters (threat_model_id, kind, living)
SELECT threat_model_id, 'diagram', count(*) FROM diagrams GROUP BY threat_model_id;
