-- Pages of a user's threat models are found in an index, in the order in which they are listed.

-- A grant knows its threat model's alias, which never changes, and whether that is there: so the newest models of a principal
-- are the first entries of an index, and neither sorted nor looked up. Triggers keep both; no program writes them.
ALTER TABLE grants
    ADD COLUMN model_alias bigint,
    ADD COLUMN is_living   boolean;

UPDATE grants g SET model_alias = t.alias, is_living = t.deleted_at IS NULL
FROM threat_models t WHERE t.id = g.threat_model_id;

ALTER TABLE grants
    ALTER COLUMN model_alias SET NOT NULL,
    ALTER COLUMN is_living SET NOT NULL;

CREATE INDEX grants_listed ON grants
    (provider, lower(provider_id COLLATE "C"), principal_type, model_alias DESC)
    INCLUDE (threat_model_id, provider_id) WHERE is_living;

-- The lock makes a deletion wait for grants that are being written, and then see them, and the other way round.
CREATE FUNCTION grant_is_placed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT alias, deleted_at IS NULL INTO NEW.model_alias, NEW.is_living
    FROM threat_models WHERE id = NEW.threat_model_id FOR SHARE;
    RETURN NEW;
END $$;

CREATE TRIGGER grants_placed BEFORE INSERT ON grants FOR EACH ROW EXECUTE FUNCTION grant_is_placed();

CREATE FUNCTION threat_model_is_shown() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE grants SET is_living = NEW.deleted_at IS NULL WHERE threat_model_id = NEW.id;
    RETURN NULL;
END $$;

CREATE TRIGGER threat_models_shown AFTER UPDATE OF deleted_at ON threat_models FOR EACH ROW
    WHEN ((OLD.deleted_at IS NULL) <> (NEW.deleted_at IS NULL)) EXECUTE FUNCTION threat_model_is_shown();

-- By which names grants mean a user: as in the view user_grants, of which this is the other half. `exactly`: the provider_id that a
-- grant has to have; NULL where its letters may be of any case.
CREATE VIEW user_names AS
    SELECT u.id AS user_id, 'user' AS principal_type, u.provider,
           lower(u.provider_id COLLATE "C") AS name, u.provider_id AS exactly
    FROM users u
    WHERE NOT (u.email_verified AND lower(u.provider_id COLLATE "C") = lower(u.email COLLATE "C"))
UNION ALL
    SELECT u.id, 'user', u.provider, lower(u.email COLLATE "C"), NULL
    FROM users u WHERE u.email_verified
UNION ALL
    SELECT m.user_id, 'group', p.provider, lower(p.provider_id COLLATE "C"), p.provider_id
    FROM group_members m JOIN groups p ON p.id = m.group_id
UNION ALL
    SELECT u.id, 'group', e.provider, 'everyone', 'everyone'
    FROM users u CROSS JOIN (VALUES ('tmi'), ('*')) AS e (provider);
