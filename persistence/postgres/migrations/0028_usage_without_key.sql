-- A row that is updated twice in a transaction has its foreign keys checked anew, under a lock of the user: out of
-- order for all that change usage, which is the last row that they lock. So usage has no foreign key any more. Its
-- rows are made for users who are charged, and those exist; and they go with the user as before.
ALTER TABLE user_usage DROP CONSTRAINT user_usage_user_id_fkey;

CREATE FUNCTION usage_goes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM user_usage WHERE user_id = OLD.id;
    RETURN NULL;
END $$;

CREATE TRIGGER users_usage_goes AFTER DELETE ON users FOR EACH ROW EXECUTE FUNCTION usage_goes();
