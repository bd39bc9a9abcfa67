#!/bin/sh
# Makes the secrets that deploy/compose.yaml hands to its services, in deploy/secrets. Those that are there stay.
# Compose mounts the files as they are, for accounts of other numbers, so all may read them; the folder is ours alone.
set -eu
umask 077
folder="${1:-$(dirname "$0")/secrets}"
mkdir -p "$folder"
chmod 700 "$folder"
cd "$folder"

random() {
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n'
}
write() { # NAME VALUE
    [ -e "$1" ] || printf '%s\n' "$2" >"$1.new"
    [ -e "$1" ] || mv "$1.new" "$1"
    chmod 444 "$1"
}

write postgres_password "$(random)"
write tmi_database_password "$(random)"
write tmi_database_url "postgresql://tmi:$(cat tmi_database_password)@postgres/tmi"
write tmi_metrics_token "$(random)"
write tmi_webhook_key "$(random)"
[ -e valkey_conf ] || {
    password="$(random)"
    write tmi_redis_url "redis://:$password@valkey:6379/0"
    write valkey_conf "requirepass $password
save \"\"
appendonly no
maxmemory 256mb
maxmemory-policy noeviction"
}
