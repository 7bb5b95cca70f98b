-- The peer's tables: users, and follows with a unique key and an index for each direction of reading.
CREATE TABLE users (
    number bigint PRIMARY KEY,
    id text NOT NULL UNIQUE,
    login text NOT NULL UNIQUE,
    display_name text NOT NULL,
    avatar_url text,
    is_available boolean NOT NULL
);
CREATE TABLE follows (
    follower bigint NOT NULL REFERENCES users,
    followed bigint NOT NULL REFERENCES users,
    created_at timestamptz NOT NULL DEFAULT now(),
    notifications boolean NOT NULL DEFAULT false,
    UNIQUE (follower, followed)
);
CREATE INDEX follows_followers ON follows (followed, created_at DESC, follower DESC);
CREATE INDEX follows_following ON follows (follower, created_at DESC, followed DESC);
