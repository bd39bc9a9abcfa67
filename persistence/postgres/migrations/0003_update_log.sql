-- The log of every document: updates in order, snapshots that bound loading, and the fence that says who may write.

-- One row per diagram, made with the diagram. Each claim of its room raises `fence`; an append or a snapshot locks the
-- row FOR SHARE and counts only where the fence is its own. Short rows and free space: claims stay on their page.
CREATE TABLE diagram_fences (
    diagram_id uuid PRIMARY KEY REFERENCES diagrams,
    fence      bigint NOT NULL DEFAULT 0,
    owner      text,
    claimed_at timestamptz
) WITH (fillfactor = 70);

-- Append only: rows are inserted, and go with their diagram. No foreign keys: each would run a trigger and lock a row for
-- every row of the hottest table. Nothing is lost by it. An append inserts only while it holds a share lock on the fence
-- row, so whoever deletes a diagram deletes its fence row first (which waits for appends under way and lets no
-- other begin), then updates and snapshots by later statements of the same transaction, which see all
-- that was committed until then. And a diagram cannot go before its fence row, which does refer to it.
--
-- origin: 1 an Update frame, 2 a SyncStep2, 3 REST, 4 the server itself.
CREATE TABLE diagram_updates (
    diagram_id uuid NOT NULL,
    seq        bigint NOT NULL CHECK (seq >= 1),
    fence      bigint NOT NULL,
    author     uuid,
    origin     smallint NOT NULL CHECK (origin BETWEEN 1 AND 4),
    created_at timestamptz NOT NULL DEFAULT now(),
    data       bytea NOT NULL,
    PRIMARY KEY (diagram_id, seq)
);

-- Updates are small and hardly compress; to try would cost the backend more than the disk it saves.
ALTER TABLE diagram_updates ALTER COLUMN data SET STORAGE EXTERNAL;

CREATE TABLE diagram_snapshots (
    diagram_id uuid NOT NULL,
    seq        bigint NOT NULL CHECK (seq >= 1),
    fence      bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    state      bytea NOT NULL,
    PRIMARY KEY (diagram_id, seq)
);

ALTER TABLE diagram_snapshots ALTER COLUMN state SET STORAGE EXTERNAL;
