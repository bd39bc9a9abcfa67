-- What open sockets and remembered sign-ins have to follow is told by the database, with the commit of what
-- happened: nobody who changes something can be killed in between, and what is changed by hand is told as well.
-- Payloads are those of persistence/postgres/signals.py. The same payload twice in a transaction is sent once.

CREATE FUNCTION tell(happened text, ids uuid[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- An id takes 39 bytes of the 8,000 that a payload may have.
    FOR n IN 1 .. coalesce(cardinality(ids), 0) BY 100 LOOP
        PERFORM pg_notify('tmi_signals', json_build_array(happened, ids[n : n + 99])::text);
    END LOOP;
END $$;

-- Triggers for rows say in their arguments what has happened, and tell the row's id.
CREATE FUNCTION row_told() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM tell(TG_ARGV[0], ARRAY[OLD.id]);
    RETURN NULL;
END $$;

CREATE TRIGGER sign_ins_told_ended AFTER UPDATE ON sign_ins FOR EACH ROW
    WHEN (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL) EXECUTE FUNCTION row_told('sign_in_ended');

-- Those that go with their account: that is told of the account, below.
CREATE FUNCTION sign_in_told_gone() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM users WHERE id = OLD.user_id) THEN
        PERFORM tell('sign_in_ended', ARRAY[OLD.id]);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER sign_ins_told_gone AFTER DELETE ON sign_ins FOR EACH ROW
    WHEN (OLD.ended_at IS NULL AND OLD.expires_at > now()) EXECUTE FUNCTION sign_in_told_gone();

-- Whom a grant means depends on these.
CREATE TRIGGER users_told_changed AFTER UPDATE ON users FOR EACH ROW
    WHEN ((OLD.provider, OLD.provider_id, OLD.email, OLD.email_verified, OLD.name)
          IS DISTINCT FROM (NEW.provider, NEW.provider_id, NEW.email, NEW.email_verified, NEW.name))
    EXECUTE FUNCTION row_told('people_changed');
CREATE TRIGGER users_told_gone AFTER DELETE ON users FOR EACH ROW EXECUTE FUNCTION row_told('people_changed');

CREATE FUNCTION members_told() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM tell('people_changed', array_agg(DISTINCT user_id)) FROM changed;
    RETURN NULL;
END $$;

CREATE TRIGGER group_members_told_new AFTER INSERT ON group_members
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION members_told();
CREATE TRIGGER group_members_told_gone AFTER DELETE ON group_members
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION members_told();

-- A new threat model has no diagrams yet, so its grants tell nothing.
CREATE FUNCTION grants_told() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM tell('access_changed', array_agg(d.id ORDER BY d.id)) FROM diagrams d
    WHERE d.threat_model_id IN (SELECT threat_model_id FROM changed) AND d.deleted_at IS NULL;
    RETURN NULL;
END $$;

CREATE TRIGGER grants_told_new AFTER INSERT ON grants
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION grants_told();
CREATE TRIGGER grants_told_changed AFTER UPDATE ON grants
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION grants_told();
CREATE TRIGGER grants_told_gone AFTER DELETE ON grants
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION grants_told();

CREATE TRIGGER diagrams_told_deleted AFTER UPDATE ON diagrams FOR EACH ROW
    WHEN (OLD.deleted_at IS NULL AND NEW.deleted_at IS NOT NULL) EXECUTE FUNCTION row_told('deleted');
CREATE TRIGGER diagrams_told_gone AFTER DELETE ON diagrams FOR EACH ROW
    WHEN (OLD.deleted_at IS NULL) EXECUTE FUNCTION row_told('deleted');

-- A session that goes with its diagram closes its sockets for the diagram's sake.
CREATE FUNCTION collaboration_told() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM diagrams WHERE id = OLD.diagram_id AND deleted_at IS NULL) THEN
        PERFORM tell('collaboration_ended', ARRAY[OLD.id]);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER collaborations_told AFTER DELETE ON collaborations
    FOR EACH ROW EXECUTE FUNCTION collaboration_told();
