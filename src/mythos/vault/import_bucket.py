"""Taking in a bucket: every object becomes a private asset, and what was public there is told."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mythos.records.asset import Kind
from mythos.records.clock import Clock
from mythos.records.principal import Principal
from mythos.store.db import Store
from mythos.vault import importing
from mythos.vault.assets import require_served
from mythos.vault.blobs import sweep
from mythos.vault.bucket import (
    PROBES,
    Bucket,
    Object,
    content,
    has_acls,
    listed_by_outsiders,
    objects,
    older_versions,
    seen_by_outsiders,
    settings_of,
)
from mythos.vault.importing import Item, imported, keyed_tag, take, taken_before


@dataclass(frozen=True, slots=True)
class BucketReport:
    """What an import did, and who else could read the bucket. The bucket itself is left as it is.

    `open_objects`: key, and why others could read it. `listed`: anybody got the list of them. `settings`:
    what the bucket's own rules say, a line each. `older`: older versions that stay there, None for unknown.
    """

    taken: int
    already: int
    bytes: int
    open_objects: tuple[tuple[str, str], ...]
    listed: bool
    settings: tuple[str, ...]
    older: int | None
    skipped: tuple[tuple[str, str], ...]  # key, why


def import_bucket(
    store: Store,
    clock: Clock,
    principal: Principal,
    bucket: Bucket,
    kind: Kind | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> BucketReport:
    """Take every object below the bucket's prefix, its key being its title; streamed, a part at a time.

    Each object is asked for without credentials as well, also those that were taken before. VaultError when
    the bucket cannot be listed, or the disk is full; run it again to go on.
    """
    require_served(store, clock, principal, "asset.import")
    sweep(store)
    skipped: list[tuple[str, str]] = []
    opened: list[tuple[str, str]] = []
    taken, already, size, acls = 0, 0, 0, has_acls(bucket)
    known = taken_before(store)
    batch: list[Object] = []

    def work() -> None:
        nonlocal taken, already, size, acls
        with ThreadPoolExecutor(PROBES) as pool:
            seen = list(pool.map(lambda one: seen_by_outsiders(bucket, one, acls), batch))
        opened.extend((one.key, why) for one, (why, _) in zip(batch, seen, strict=True) if why)
        acls = acls and all(told for _, told in seen)  # a store without ACLs is not asked for each
        wanted = []
        for one in batch:
            tag = keyed_tag(store, "s3", bucket.endpoint, bucket.name, one.key, one.tag, one.changed)
            if tag in known:
                already += 1
            else:
                wanted.append(Item(one.key, tag, functools.partial(content, bucket, one)))
        count, more = take(store, clock, principal, wanted, kind, skipped)
        taken, size = taken + count, size + more
        batch.clear()
        progress(taken)

    for one in objects(bucket):
        if one.key.endswith("/") and not one.size:
            continue  # a folder as some tools write it: nothing is in it
        batch.append(one)
        if len(batch) == importing.BATCH:
            work()
    if batch:
        work()
    imported(store, clock, principal, taken, already, len(opened), len(skipped))
    return BucketReport(
        taken,
        already,
        size,
        tuple(opened),
        listed_by_outsiders(bucket),
        tuple(settings_of(bucket)),
        older_versions(bucket),
        tuple(skipped),
    )
