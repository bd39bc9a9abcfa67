-- What threats, assets, documents, notes and repositories take counts for the quota of stored bytes, too: a kilobyte
-- each, and their content and metadata. The other fields are in that kilobyte, so that changing them, which is what
-- people do all day, locks no row of anybody's usage.

CREATE FUNCTION child_weight(content text, metadata jsonb) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT 1024 + octet_length(coalesce(content, '')) + octet_length(metadata::text)
$$;

-- Here, too, the usage is the last row that is locked: triggers of one event fire in the order of their names, and
-- these come after those of migration 0011.
CREATE FUNCTION weigh_children(model uuid[], weights bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM user_usage WHERE user_id IN (SELECT charged_to FROM threat_models WHERE id = ANY(model))
        ORDER BY user_id FOR UPDATE;
    UPDATE user_usage u SET stored_bytes = u.stored_bytes + c.weight
    FROM (SELECT t.charged_to, sum(w.weight) AS weight
          FROM unnest(model, weights) AS w (model, weight) JOIN threat_models t ON t.id = w.model
          GROUP BY t.charged_to) c
    WHERE u.user_id = c.charged_to;
END $$;

CREATE FUNCTION children_weighed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    models uuid[];
    weights bigint[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT array_agg(m), array_agg(w) INTO models, weights FROM (
            SELECT threat_model_id, sum(child_weight(content, metadata))::bigint FROM new_rows GROUP BY 1) AS t (m, w);
    ELSIF TG_OP = 'DELETE' THEN
        SELECT array_agg(m), array_agg(w) INTO models, weights FROM (
            SELECT threat_model_id, -sum(child_weight(content, metadata))::bigint FROM old_rows GROUP BY 1) AS t (m, w);
    ELSE
        SELECT array_agg(m), array_agg(w) INTO models, weights FROM (
            SELECT n.threat_model_id,
                   sum(child_weight(n.content, n.metadata) - child_weight(o.content, o.metadata))::bigint AS w
            FROM new_rows n JOIN old_rows o USING (id)
            WHERE n.content IS DISTINCT FROM o.content OR n.metadata IS DISTINCT FROM o.metadata
            GROUP BY 1) AS t (m, w) WHERE w <> 0;
    END IF;
    IF models IS NOT NULL THEN
        PERFORM weigh_children(models, weights);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER children_weighed_inserted AFTER INSERT ON children
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION children_weighed();
CREATE TRIGGER children_weighed_updated AFTER UPDATE ON children
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION children_weighed();
CREATE TRIGGER children_weighed_removed AFTER DELETE ON children
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION children_weighed();

-- Children that go with their threat model, by its foreign key, find nobody who is charged any more.
CREATE FUNCTION threat_model_weighed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE user_usage u SET stored_bytes = u.stored_bytes - (
        SELECT coalesce(sum(child_weight(c.content, c.metadata)), 0) FROM children c WHERE c.threat_model_id = OLD.id)
    WHERE u.user_id = OLD.charged_to;
    RETURN OLD;
END $$;

CREATE TRIGGER threat_models_weighed BEFORE DELETE ON threat_models
    FOR EACH ROW EXECUTE FUNCTION threat_model_weighed();

ALTER TRIGGER diagrams_counted ON diagrams RENAME TO diagrams_weighed;

-- CREATE TRIGGER has locked the table against writers until the end of this transaction, so this is complete.
UPDATE user_usage u SET stored_bytes = u.stored_bytes + w.weight
FROM (SELECT t.charged_to, sum(child_weight(c.content, c.metadata)) AS weight
      FROM children c JOIN threat_models t ON t.id = c.threat_model_id GROUP BY t.charged_to) w
WHERE u.user_id = w.charged_to;
