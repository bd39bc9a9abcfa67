#!/bin/sh
# Run once by PostgreSQL's image, on an empty volume: TMI's role, which owns its database and nothing else.
set -eu
password="$(cat "${TMI_DATABASE_PASSWORD_FILE:-/run/secrets/tmi_database_password}")"
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --set "password=$password" \
    --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
CREATE ROLE tmi LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'password';
CREATE DATABASE tmi OWNER tmi ENCODING 'UTF8' TEMPLATE template0;
REVOKE ALL ON DATABASE tmi FROM PUBLIC;
SQL
