-- The fence row says who may write, and where that node is reached: what nodes go by while Redis is away.
--
-- `named_fence` is the fence that name and address belong to. Code that does not know these columns raises the fence
-- and leaves them alone, so that they are recognised as somebody else's. `owner` is null: nobody has the room.
-- No index: updates stay on their page (HOT).

ALTER TABLE diagram_fences
    ADD COLUMN owner_name  text,
    ADD COLUMN owner_url   text,
    ADD COLUMN named_fence bigint,
    ADD COLUMN seen_at     timestamptz;
