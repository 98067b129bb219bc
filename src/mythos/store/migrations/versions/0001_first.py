"""Keys, weights, decisions, usage and the ledger."""

from alembic import op

revision = "0001"
down_revision = None

TABLES = """
CREATE TABLE ledger (
    seq INTEGER NOT NULL PRIMARY KEY,
    time FLOAT NOT NULL,
    event BLOB NOT NULL,
    salt BLOB NOT NULL CHECK (length(salt) = 16),
    leaf BLOB NOT NULL CHECK (length(leaf) = 32)
);
CREATE TABLE api_keys (
    id VARCHAR NOT NULL PRIMARY KEY,
    name VARCHAR NOT NULL,
    org VARCHAR NOT NULL,
    secret_hash BLOB NOT NULL UNIQUE,
    created FLOAT NOT NULL,
    revoked FLOAT
);
CREATE TABLE weights (
    id INTEGER NOT NULL PRIMARY KEY,
    family VARCHAR NOT NULL,
    tier VARCHAR NOT NULL,
    root VARCHAR NOT NULL,
    lineage BLOB NOT NULL,
    created FLOAT NOT NULL,
    registered INTEGER NOT NULL REFERENCES ledger (seq),
    UNIQUE (family, tier, root)
);
CREATE TABLE decisions (
    id VARCHAR NOT NULL PRIMARY KEY,
    weights INTEGER NOT NULL REFERENCES weights (id),
    envelope BLOB NOT NULL,
    logged INTEGER NOT NULL REFERENCES ledger (seq),
    revoked FLOAT
);
CREATE TABLE usage (
    request_id VARCHAR NOT NULL PRIMARY KEY,
    time FLOAT NOT NULL,
    day VARCHAR NOT NULL,
    org VARCHAR NOT NULL,
    principal VARCHAR NOT NULL,
    tier VARCHAR NOT NULL,
    input_tokens INTEGER NOT NULL CHECK (input_tokens >= 0),
    cached_tokens INTEGER NOT NULL CHECK (cached_tokens BETWEEN 0 AND input_tokens),
    output_tokens INTEGER NOT NULL CHECK (output_tokens >= 0),
    cost FLOAT NOT NULL CHECK (cost >= 0),
    finish VARCHAR NOT NULL,
    seconds FLOAT NOT NULL CHECK (seconds >= 0)
);
CREATE INDEX usage_by_org_day ON usage (org, day, tier);
CREATE TABLE generation (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    value INTEGER NOT NULL
);
INSERT INTO generation (id, value) VALUES (1, 0)
"""

# INSERT OR REPLACE deletes without firing a delete trigger, so the insert trigger demands the next free seq.
REFUSALS = {
    "ledger_next": "BEFORE INSERT ON ledger WHEN NEW.seq IS NOT"
    " (SELECT coalesce(max(seq) + 1, 0) FROM ledger)",
    "ledger_no_update": "BEFORE UPDATE ON ledger",
    "ledger_no_delete": "BEFORE DELETE ON ledger",
    "keys_no_delete": "BEFORE DELETE ON api_keys",
    "keys_only_revoke": "BEFORE UPDATE ON api_keys WHEN OLD.revoked IS NOT NULL OR NEW.id IS NOT OLD.id"
    " OR NEW.org IS NOT OLD.org OR NEW.secret_hash IS NOT OLD.secret_hash",
    "keys_no_replace": "BEFORE INSERT ON api_keys WHEN EXISTS (SELECT 1 FROM api_keys"
    " WHERE id = NEW.id OR secret_hash = NEW.secret_hash)",
    "decisions_no_delete": "BEFORE DELETE ON decisions",
    "decisions_only_revoke": "BEFORE UPDATE ON decisions WHEN OLD.revoked IS NOT NULL OR NEW.id IS NOT OLD.id"
    " OR NEW.weights IS NOT OLD.weights OR NEW.envelope IS NOT OLD.envelope",
    "decisions_no_replace": "BEFORE INSERT ON decisions WHEN EXISTS"
    " (SELECT 1 FROM decisions WHERE id = NEW.id)",
}


def upgrade() -> None:
    for statement in TABLES.split(";\n"):
        op.execute(statement)
    for name, when in REFUSALS.items():
        op.execute(f"CREATE TRIGGER {name} {when} BEGIN SELECT raise(ABORT, '{name}'); END")
    for table in ("api_keys", "weights", "decisions"):
        for verb in ("INSERT", "UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_count_{verb.lower()} AFTER {verb} ON {table}"
                " BEGIN UPDATE generation SET value = value + 1; END"
            )
