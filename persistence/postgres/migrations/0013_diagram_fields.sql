-- What REST writes of a diagram beside its name and its cells. Constant defaults rewrite no row; the code before this
-- migration names its columns and never sees these.
ALTER TABLE diagrams
    ADD COLUMN IF NOT EXISTS image_svg           text,
    ADD COLUMN IF NOT EXISTS image_update_vector bigint CHECK (image_update_vector >= 0),
    ADD COLUMN IF NOT EXISTS include_in_report   boolean NOT NULL DEFAULT true,
    ADD COLUMN IF NOT EXISTS timmy_enabled       boolean NOT NULL DEFAULT true,
    ADD COLUMN IF NOT EXISTS metadata            jsonb NOT NULL DEFAULT '{}';
