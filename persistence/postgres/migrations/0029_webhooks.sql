-- Webhooks: subscriptions, the outbox of deliveries, which is their log as well, and quotas.

-- The secret has to sign, so it is not hashed. It is sealed with a key of the settings if there is one
-- (persistence/sealing.py), and then a copy of the database signs nothing.
CREATE TABLE webhook_subscriptions (
    id              uuid PRIMARY KEY,
    owner_id        uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    name            text NOT NULL,
    url             text NOT NULL,
    events          text[] NOT NULL,
    threat_model_id uuid,
    secret          bytea NOT NULL,
    status          text NOT NULL DEFAULT 'pending_verification'
                    CHECK (status IN ('pending_verification', 'active', 'pending_delete')),
    challenges_sent integer NOT NULL DEFAULT 0,
    challenge_due_at timestamptz NOT NULL DEFAULT now(),
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    modified_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_success_at timestamptz,
    failures        bigint NOT NULL DEFAULT 0
);

CREATE INDEX webhook_subscriptions_by_owner ON webhook_subscriptions (owner_id);
CREATE INDEX webhook_subscriptions_to_verify ON webhook_subscriptions (challenge_due_at)
    WHERE status = 'pending_verification';

-- A row is written in the transaction of the change that it tells of. `due_at` is when it is tried next; while it is being
-- tried, when the lease of who tries it ends; null once it is settled. So one index finds all that there is to do.
-- `payload` is text and not jsonb: what is signed are its bytes. No foreign key: a change may not fail because a subscription
-- is deleted in that moment. What is left of one is not sent, and goes after its time.
CREATE TABLE webhook_deliveries (
    id              uuid PRIMARY KEY,
    subscription_id uuid NOT NULL,
    event_type      text NOT NULL,
    payload         text NOT NULL,
    status          text NOT NULL DEFAULT 'pending'
                    CHECK (status IN ('pending', 'in_progress', 'delivered', 'failed')),
    attempts        integer NOT NULL DEFAULT 0,
    due_at          timestamptz DEFAULT clock_timestamp(),
    last_error      text,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    active_at       timestamptz,
    delivered_at    timestamptz
) WITH (fillfactor = 80);

CREATE INDEX webhook_deliveries_due ON webhook_deliveries (subscription_id, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX webhook_deliveries_tried ON webhook_deliveries (subscription_id) WHERE status = 'in_progress';
CREATE INDEX webhook_deliveries_by_time ON webhook_deliveries (created_at, id);
CREATE INDEX webhook_deliveries_by_subscription ON webhook_deliveries (subscription_id, created_at, id);

CREATE TABLE webhook_quotas (
    user_id          uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    subscriptions    integer NOT NULL CHECK (subscriptions >= 1),
    events_per_min   integer NOT NULL CHECK (events_per_min >= 1),
    requests_per_min integer NOT NULL CHECK (requests_per_min >= 1),
    requests_per_day integer NOT NULL CHECK (requests_per_day >= 1),
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    modified_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- How many attempts were made for an owner in the minute that is now. Lost with a crash without harm.
CREATE UNLOGGED TABLE webhook_rates (
    user_id uuid PRIMARY KEY,
    minute  timestamptz NOT NULL,
    sent    integer NOT NULL
);

-- Ids of version 7 (RFC 9562, section 5.7), which rise with time; before PostgreSQL 18 there is no uuidv7().
CREATE FUNCTION webhook_delivery_id() RETURNS uuid LANGUAGE sql VOLATILE AS $$
    SELECT encode(set_bit(set_bit(overlay(
        uuid_send(gen_random_uuid())
        PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
        FROM 1 FOR 6), 52, 1), 53, 1), 'hex')::uuid
$$;
