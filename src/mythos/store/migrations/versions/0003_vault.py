"""Assets: versions, shares, holds, reads, imports, copies for publication."""

from alembic import op

revision = "0003"
down_revision = "0002"

TABLES = """
CREATE TABLE assets (
    id VARCHAR NOT NULL PRIMARY KEY,
    owner VARCHAR NOT NULL,
    org VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    retention VARCHAR NOT NULL,
    created FLOAT NOT NULL,
    version INTEGER NOT NULL CHECK (version > 0),
    size INTEGER NOT NULL CHECK (size >= 0),
    deleted FLOAT,
    logged INTEGER NOT NULL REFERENCES ledger (seq)
);
CREATE INDEX assets_by_owner ON assets (org, owner, logged);
CREATE TABLE asset_blobs (
    id VARCHAR NOT NULL PRIMARY KEY,
    org VARCHAR NOT NULL,
    owner VARCHAR NOT NULL,
    tag BLOB NOT NULL CHECK (length(tag) = 32),
    size INTEGER NOT NULL CHECK (size >= 0),
    sealed_key BLOB
);
CREATE INDEX asset_blobs_by_tag ON asset_blobs (org, owner, tag);
CREATE TABLE asset_versions (
    asset VARCHAR NOT NULL REFERENCES assets (id),
    number INTEGER NOT NULL,
    id VARCHAR NOT NULL UNIQUE,
    blob VARCHAR NOT NULL REFERENCES asset_blobs (id),
    by VARCHAR NOT NULL,
    time FLOAT NOT NULL,
    about BLOB,
    logged INTEGER NOT NULL REFERENCES ledger (seq),
    PRIMARY KEY (asset, number)
);
CREATE INDEX asset_versions_by_blob ON asset_versions (blob);
CREATE INDEX asset_versions_by_logged ON asset_versions (logged);
CREATE TABLE asset_shares (
    id VARCHAR NOT NULL PRIMARY KEY,
    asset VARCHAR NOT NULL REFERENCES assets (id),
    org VARCHAR NOT NULL,
    principal VARCHAR NOT NULL,
    actions VARCHAR NOT NULL,
    starts_at FLOAT NOT NULL,
    expires_at FLOAT NOT NULL CHECK (expires_at > starts_at),
    parent VARCHAR NOT NULL,
    by VARCHAR NOT NULL,
    placed INTEGER NOT NULL,
    revoked FLOAT,
    logged INTEGER NOT NULL REFERENCES ledger (seq)
);
CREATE INDEX asset_shares_by_asset ON asset_shares (asset);
CREATE INDEX asset_shares_by_org ON asset_shares (org, placed);
CREATE TABLE asset_holds (
    id VARCHAR NOT NULL PRIMARY KEY,
    asset VARCHAR NOT NULL REFERENCES assets (id),
    by VARCHAR NOT NULL,
    time FLOAT NOT NULL,
    reason BLOB NOT NULL,
    released FLOAT,
    logged INTEGER NOT NULL REFERENCES ledger (seq)
);
CREATE INDEX asset_holds_by_asset ON asset_holds (asset);
CREATE TABLE asset_reads (
    seq INTEGER NOT NULL PRIMARY KEY REFERENCES ledger (seq),
    asset VARCHAR NOT NULL REFERENCES assets (id),
    version INTEGER NOT NULL,
    principal VARCHAR NOT NULL,
    org VARCHAR NOT NULL,
    time FLOAT NOT NULL,
    bytes INTEGER NOT NULL CHECK (bytes >= 0)
);
CREATE INDEX asset_reads_by_principal ON asset_reads (org, principal, time, bytes);
CREATE INDEX asset_reads_by_asset ON asset_reads (asset);
CREATE TABLE egress_limits (
    org VARCHAR NOT NULL,
    principal VARCHAR NOT NULL,
    reads INTEGER NOT NULL CHECK (reads >= 0),
    bytes INTEGER NOT NULL CHECK (bytes >= 0),
    PRIMARY KEY (org, principal)
);
CREATE TABLE asset_imports (
    tag BLOB NOT NULL PRIMARY KEY,
    asset VARCHAR NOT NULL REFERENCES assets (id)
);
CREATE TABLE publication_copies (
    request VARCHAR NOT NULL PRIMARY KEY,
    blob VARCHAR NOT NULL REFERENCES asset_blobs (id),
    about BLOB NOT NULL
)
"""

# What no code path may get around: an asset keeps its owner, kind, age and retention, what is deleted stays
# so, a share is never widened or brought back, a hold never forgotten, no read unwritten.
REFUSALS = {
    "assets_no_delete": "BEFORE DELETE ON assets",
    "assets_same": "BEFORE UPDATE ON assets WHEN OLD.deleted IS NOT NULL OR NEW.id IS NOT OLD.id"
    " OR NEW.owner IS NOT OLD.owner OR NEW.org IS NOT OLD.org OR NEW.kind IS NOT OLD.kind"
    " OR NEW.retention IS NOT OLD.retention OR NEW.created IS NOT OLD.created"
    " OR NEW.logged IS NOT OLD.logged OR NEW.version < OLD.version",
    "assets_held": "BEFORE UPDATE ON assets WHEN NEW.deleted IS NOT NULL AND EXISTS"
    " (SELECT 1 FROM asset_holds WHERE asset = OLD.id AND released IS NULL)",
    "assets_no_replace": "BEFORE INSERT ON assets WHEN EXISTS (SELECT 1 FROM assets WHERE id = NEW.id)",
    "versions_no_delete": "BEFORE DELETE ON asset_versions",
    "versions_same": "BEFORE UPDATE ON asset_versions WHEN NEW.about IS NOT NULL OR NEW.id IS NOT OLD.id"
    " OR NEW.asset IS NOT OLD.asset OR NEW.number IS NOT OLD.number OR NEW.blob IS NOT OLD.blob",
    "blobs_no_delete": "BEFORE DELETE ON asset_blobs",
    "blobs_only_destroy": "BEFORE UPDATE ON asset_blobs WHEN NEW.sealed_key IS NOT NULL"
    " OR NEW.id IS NOT OLD.id OR NEW.org IS NOT OLD.org OR NEW.owner IS NOT OLD.owner",
    "shares_no_delete": "BEFORE DELETE ON asset_shares",
    "shares_only_revoke": "BEFORE UPDATE ON asset_shares WHEN OLD.revoked IS NOT NULL"
    " OR NEW.id IS NOT OLD.id OR NEW.asset IS NOT OLD.asset OR NEW.org IS NOT OLD.org"
    " OR NEW.principal IS NOT OLD.principal OR NEW.actions IS NOT OLD.actions"
    " OR NEW.starts_at IS NOT OLD.starts_at OR NEW.expires_at IS NOT OLD.expires_at"
    " OR NEW.parent IS NOT OLD.parent",
    "shares_no_replace": "BEFORE INSERT ON asset_shares WHEN EXISTS"
    " (SELECT 1 FROM asset_shares WHERE id = NEW.id)",
    "holds_no_delete": "BEFORE DELETE ON asset_holds",
    "holds_only_release": "BEFORE UPDATE ON asset_holds WHEN OLD.released IS NOT NULL"
    " OR NEW.id IS NOT OLD.id OR NEW.asset IS NOT OLD.asset OR NEW.reason IS NOT OLD.reason",
    "reads_no_update": "BEFORE UPDATE ON asset_reads",
    "reads_no_delete": "BEFORE DELETE ON asset_reads",
}


def upgrade() -> None:
    for statement in TABLES.split(";\n"):
        op.execute(statement)
    for name, when in REFUSALS.items():
        op.execute(f"CREATE TRIGGER {name} {when} BEGIN SELECT raise(ABORT, '{name}'); END")
