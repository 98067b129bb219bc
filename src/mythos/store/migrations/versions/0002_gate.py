"""Signed records, tree heads, copies of weights, receipts."""

from alembic import op

revision = "0002"
down_revision = "0001"

TABLES = """
CREATE TABLE records (
    seq INTEGER NOT NULL PRIMARY KEY REFERENCES ledger (seq),
    kind VARCHAR NOT NULL,
    envelope BLOB NOT NULL
);
CREATE TABLE tree_heads (
    size INTEGER NOT NULL PRIMARY KEY,
    note BLOB NOT NULL,
    time FLOAT NOT NULL
);
CREATE TABLE copies (
    id VARCHAR NOT NULL PRIMARY KEY,
    root VARCHAR NOT NULL,
    place VARCHAR NOT NULL,
    form VARCHAR NOT NULL,
    logged INTEGER NOT NULL REFERENCES ledger (seq),
    removed FLOAT
);
CREATE TABLE receipts (
    id VARCHAR NOT NULL PRIMARY KEY,
    principal VARCHAR NOT NULL,
    org VARCHAR NOT NULL,
    logged INTEGER NOT NULL REFERENCES ledger (seq),
    envelope BLOB NOT NULL,
    opening BLOB NOT NULL
)
"""

REFUSALS = {
    "records_no_update": "BEFORE UPDATE ON records",
    "records_no_delete": "BEFORE DELETE ON records",
    "records_next": "BEFORE INSERT ON records WHEN NEW.seq <= (SELECT coalesce(max(seq), -1) FROM records)",
    "tree_heads_no_delete": "BEFORE DELETE ON tree_heads",
    "copies_no_delete": "BEFORE DELETE ON copies",
    "receipts_no_update": "BEFORE UPDATE ON receipts",
}


def upgrade() -> None:
    op.execute("ALTER TABLE api_keys ADD COLUMN purpose VARCHAR NOT NULL DEFAULT 'local_tryout'")
    op.execute(
        "CREATE TRIGGER keys_same_purpose BEFORE UPDATE ON api_keys WHEN NEW.purpose IS NOT OLD.purpose"
        " BEGIN SELECT raise(ABORT, 'keys_same_purpose'); END"
    )
    for statement in TABLES.split(";\n"):
        op.execute(statement)
    for name, when in REFUSALS.items():
        op.execute(f"CREATE TRIGGER {name} {when} BEGIN SELECT raise(ABORT, '{name}'); END")
    op.execute(
        "CREATE TRIGGER records_count_insert AFTER INSERT ON records"
        " BEGIN UPDATE generation SET value = value + 1; END"
    )
