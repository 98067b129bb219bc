"""The tables, as SQLAlchemy Core; those of the ledger are in `mythos.ledger.log`. The migrations make them; a
test compares the two.

Triggers (in the migrations) hold what no code path may get around: the ledger has no update, no delete and
no gap; decisions and keys are never deleted and a revocation is never undone; `generation` counts every
change to keys, weights, decisions and records, so that a cache of them can tell in one read if it is stale.
"""

import sqlalchemy as sa

from mythos.ledger.log import metadata

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("org", sa.String, nullable=False),
    sa.Column("secret_hash", sa.LargeBinary, nullable=False, unique=True),  # SHA-256
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("revoked", sa.Float),
    sa.Column("purpose", sa.String, nullable=False, server_default="local_tryout"),  # what it is used for
)

weights = sa.Table(
    "weights",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("family", sa.String, nullable=False),
    sa.Column("tier", sa.String, nullable=False),
    sa.Column("root", sa.String, nullable=False),
    sa.Column("lineage", sa.LargeBinary, nullable=False),  # canonical JSON
    sa.Column("created", sa.Float, nullable=False),
    # seq of the ledger event that registered it last; the highest of a tier is the one in use
    sa.Column("registered", sa.Integer, sa.ForeignKey("ledger.seq"), nullable=False),
    sa.UniqueConstraint("family", "tier", "root"),
)

decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("weights", sa.Integer, sa.ForeignKey("weights.id"), nullable=False),
    sa.Column("envelope", sa.LargeBinary, nullable=False),  # DSSE; the columns are never believed over it
    sa.Column("logged", sa.Integer, sa.ForeignKey("ledger.seq"), nullable=False),
    sa.Column("revoked", sa.Float),
)

# Signed records in the order of the ledger: the state of the gate is what they add up to, nothing else.
records = sa.Table(
    "records",
    metadata,
    sa.Column("seq", sa.Integer, sa.ForeignKey("ledger.seq"), primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("envelope", sa.LargeBinary, nullable=False),  # DSSE; its SHA-256 stands in the ledger event
)

# Every copy of weights that we know of: served, cached, compiled, handed out.
copies = sa.Table(
    "copies",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("root", sa.String, nullable=False),
    sa.Column("place", sa.String, nullable=False),
    sa.Column("form", sa.String, nullable=False),  # encrypted | plain | compiled
    sa.Column("logged", sa.Integer, sa.ForeignKey("ledger.seq"), nullable=False),
    sa.Column("removed", sa.Float),
)

receipts = sa.Table(
    "receipts",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("principal", sa.String, nullable=False),  # who may read it, with its salts
    sa.Column("org", sa.String, nullable=False),
    sa.Column("logged", sa.Integer, sa.ForeignKey("ledger.seq"), nullable=False),
    sa.Column("envelope", sa.LargeBinary, nullable=False),  # DSSE
    sa.Column("opening", sa.LargeBinary, nullable=False),  # canonical JSON: what opens its digests
)

usage = sa.Table(
    "usage",
    metadata,
    sa.Column("request_id", sa.String, primary_key=True),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("day", sa.String, nullable=False),  # UTC, YYYY-MM-DD
    sa.Column("org", sa.String, nullable=False),
    sa.Column("principal", sa.String, nullable=False),
    sa.Column("tier", sa.String, nullable=False),
    sa.Column("input_tokens", sa.Integer, nullable=False),
    sa.Column("cached_tokens", sa.Integer, nullable=False),
    sa.Column("output_tokens", sa.Integer, nullable=False),
    sa.Column("cost", sa.Float, nullable=False),
    sa.Column("finish", sa.String, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Index("usage_by_org_day", "org", "day", "tier"),
)

generation = sa.Table(
    "generation",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),  # one row, id 1
    sa.Column("value", sa.Integer, nullable=False),
)

# Assets. Titles, names, previews, words and reasons lie only in the sealed columns (`mythos.vault.keys`).

assets = sa.Table(
    "assets",
    metadata,
    sa.Column("id", sa.String, primary_key=True),  # random: it is the address
    sa.Column("owner", sa.String, nullable=False),
    sa.Column("org", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("retention", sa.String, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),  # the newest
    sa.Column("size", sa.Integer, nullable=False),  # bytes of the newest
    sa.Column("deleted", sa.Float),
    sa.Column("logged", sa.Integer, sa.ForeignKey("ledger.seq"), nullable=False),
    sa.Index("assets_by_owner", "org", "owner", "logged"),
)

asset_blobs = sa.Table(
    "asset_blobs",
    metadata,
    sa.Column("id", sa.String, primary_key=True),  # also the file's name
    sa.Column("org", sa.String, nullable=False),
    sa.Column("owner", sa.String, nullable=False),
    sa.Column("tag", sa.LargeBinary, nullable=False),  # keyed, different for each owner: see `vault.blobs`
    sa.Column("size", sa.Integer, nullable=False),  # bytes in plain
    sa.Column("sealed_key", sa.LargeBinary),  # NULL: destroyed, and with it the content
    sa.Index("asset_blobs_by_tag", "org", "owner", "tag"),
)

asset_versions = sa.Table(
    "asset_versions",
    metadata,
    sa.Column("asset", sa.String, sa.ForeignKey("assets.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("id", sa.String, nullable=False, unique=True),  # random: the entity tag over HTTP
    sa.Column("blob", sa.String, sa.ForeignKey("asset_blobs.id"), nullable=False),
    sa.Column("by", sa.String, nullable=False),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("about", sa.LargeBinary),  # sealed; NULL once deleted
    sa.Column("logged", sa.Integer, sa.ForeignKey("ledger.seq"), nullable=False),
    sa.Index("asset_versions_by_blob", "blob"),
    sa.Index("asset_versions_by_logged", "logged"),
)

asset_shares = sa.Table(
    "asset_shares",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("asset", sa.String, sa.ForeignKey("assets.id"), nullable=False),
    sa.Column("org", sa.String, nullable=False),
    sa.Column("principal", sa.String, nullable=False),
    sa.Column("actions", sa.String, nullable=False),  # words with spaces between
    sa.Column("starts_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
    sa.Column("parent", sa.String, nullable=False),
    sa.Column("by", sa.String, nullable=False),
    sa.Column("placed", sa.Integer, nullable=False),  # `logged` of the asset: its place in lists
    sa.Column("revoked", sa.Float),
    sa.Column("logged", sa.Integer, sa.ForeignKey("ledger.seq"), nullable=False),
    sa.Index("asset_shares_by_asset", "asset"),
    sa.Index("asset_shares_by_org", "org", "placed"),
)

asset_holds = sa.Table(
    "asset_holds",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("asset", sa.String, sa.ForeignKey("assets.id"), nullable=False),
    sa.Column("by", sa.String, nullable=False),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("reason", sa.LargeBinary, nullable=False),  # sealed
    sa.Column("released", sa.Float),
    sa.Column("logged", sa.Integer, sa.ForeignKey("ledger.seq"), nullable=False),
    sa.Index("asset_holds_by_asset", "asset"),
)

# Who read what: from this an incident is counted and a principal's egress is limited.
asset_reads = sa.Table(
    "asset_reads",
    metadata,
    sa.Column("seq", sa.Integer, sa.ForeignKey("ledger.seq"), primary_key=True, autoincrement=False),
    sa.Column("asset", sa.String, sa.ForeignKey("assets.id"), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("principal", sa.String, nullable=False),
    sa.Column("org", sa.String, nullable=False),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("bytes", sa.Integer, nullable=False),  # asked for, counted before the first is sent
    sa.Index("asset_reads_by_principal", "org", "principal", "time", "bytes"),
    sa.Index("asset_reads_by_asset", "asset"),
)

egress_limits = sa.Table(
    "egress_limits",
    metadata,
    sa.Column("org", sa.String, primary_key=True),
    sa.Column("principal", sa.String, primary_key=True),
    sa.Column("reads", sa.Integer, nullable=False),  # in 24 hours
    sa.Column("bytes", sa.Integer, nullable=False),
)

# What an import has taken already, by a keyed tag of the file, so that no path stands in clear.
asset_imports = sa.Table(
    "asset_imports",
    metadata,
    sa.Column("tag", sa.LargeBinary, primary_key=True),
    sa.Column("asset", sa.String, sa.ForeignKey("assets.id"), nullable=False),
)

# The copy that a publication makes; what is decided about it are signed records.
publication_copies = sa.Table(
    "publication_copies",
    metadata,
    sa.Column("request", sa.String, primary_key=True),
    sa.Column("blob", sa.String, sa.ForeignKey("asset_blobs.id"), nullable=False),
    sa.Column("about", sa.LargeBinary, nullable=False),  # sealed
)
