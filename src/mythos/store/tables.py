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
