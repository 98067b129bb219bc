"""An S3-compatible bucket as its owner sees it, and as anybody does: what `import_bucket` takes in.

The client is botocore, an extra (`[s3]`): it finds credentials where other tools keep them, signs, and asks
again when a server is busy. They stay in its memory: nothing here reads, prints or keeps them.
"""

import contextlib
import ipaddress
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mythos.vault.blobs import PART
from mythos.vault.errors import VaultError
from mythos.vault.importing import Unreadable

TRIES = 4  # for one object whose transfer breaks off
PROBES = 16  # connections at the same time
# A policy's or an ACL's words for anybody, and for anybody with an account.
GROUPS = {"AllUsers": "anybody", "AuthenticatedUsers": "anybody with an account"}
NO_POLICY = {"NoSuchBucketPolicy", "NoSuchWebsiteConfiguration", "NoSuchPublicAccessBlockConfiguration"}


@dataclass(frozen=True, slots=True)
class Bucket:
    """`owner` asks with the user's credentials, `outsider` without any. Both are botocore clients."""

    name: str
    prefix: str
    endpoint: str  # "" for Amazon's own
    owner: Any
    outsider: Any


@dataclass(frozen=True, slots=True)
class Object:
    """One object as the listing names it."""

    key: str
    size: int
    tag: str
    changed: str


def open_bucket(url: str, endpoint: str = "") -> Bucket:
    """The bucket of `s3://BUCKET/PREFIX`. Nothing is asked of the server yet. VaultError."""
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc or "@" in parts.netloc or parts.query or parts.fragment:
        raise VaultError("that is not an address of a bucket", "for example s3://drafts/2026/")
    _check_endpoint(endpoint)
    try:
        import botocore.session  # type: ignore[import-not-found]
        from botocore import UNSIGNED  # type: ignore[import-not-found]
        from botocore.config import Config  # type: ignore[import-not-found]
    except ImportError:
        raise VaultError("the client for S3 is not installed", "pip install 'mythopoeia[s3]'") from None
    # At DEBUG it writes headers and signatures.
    logging.getLogger("botocore").setLevel(logging.CRITICAL)
    session = botocore.session.get_session()
    region = _told(lambda: session.get_config_variable("region")) or "us-east-1"
    config = Config(
        retries={"mode": "standard", "max_attempts": TRIES},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=PROBES,
        s3={"addressing_style": "path"} if endpoint else {},
    )

    def client(config: Any) -> Any:
        return session.create_client("s3", region, endpoint_url=endpoint or None, config=config)

    outsider = client(config.merge(Config(signature_version=UNSIGNED)))
    return Bucket(parts.netloc, parts.path.lstrip("/"), endpoint, _told(lambda: client(config)), outsider)


def objects(bucket: Bucket) -> Iterator[Object]:
    """Every object below the prefix, in the order of their keys. VaultError when they cannot be listed."""
    pages = bucket.owner.get_paginator("list_objects_v2")
    listing = iter(pages.paginate(Bucket=bucket.name, Prefix=bucket.prefix))
    while (page := _told(lambda: next(listing, None))) is not None:
        for one in page.get("Contents", ()):
            changed = one["LastModified"].isoformat()
            yield Object(one["Key"], int(one["Size"]), str(one.get("ETag", "")), changed)


def content(bucket: Bucket, one: Object) -> Iterator[bytes]:
    """The bytes of an object; a transfer that breaks off goes on where it was. Unreadable."""
    done = 0
    for last in (False,) * (TRIES - 1) + (True,):
        asked: dict[str, Any] = {"Bucket": bucket.name, "Key": one.key}
        if one.tag:
            asked["IfMatch"] = one.tag
        if done:
            asked["Range"] = f"bytes={done}-"
        try:
            got = bucket.owner.get_object(**asked)
            if done and not str(got.get("ContentRange", "")).startswith(f"bytes {done}-"):
                raise Unreadable("its transfer broke off, and the server does not go on")
            with contextlib.closing(got["Body"]) as body:
                while piece := body.read(PART):
                    done += len(piece)
                    yield piece
        except (Unreadable, GeneratorExit):
            raise
        except Exception as error:
            kind = type(error).__name__
            if last or refusal(error) or kind == "FlexibleChecksumError":  # what came is not what is there
                raise Unreadable(refusal(error) or kind) from None
            continue
        if done == one.size:
            return
        if done > one.size:
            break
    raise Unreadable(f"{done} bytes came, {one.size} were listed")


def seen_by_outsiders(bucket: Bucket, one: Object, acls: bool) -> tuple[str, bool]:
    """Who else could read an object, "" for nobody known; and whether its ACL could be read."""
    why = ""
    try:
        bucket.outsider.get_object(Bucket=bucket.name, Key=one.key, Range="bytes=0-0")["Body"].close()
        why = "answers anybody"
    except Exception as error:
        code = refusal(error)
        if code in ("InvalidRange", "416"):  # an empty one: told to those who may read it
            why = "answers anybody"
        elif not code:
            why = "unknown: the question without credentials got no answer"
    if acls:
        try:
            granted = _groups(bucket.owner.get_object_acl(Bucket=bucket.name, Key=one.key))
        except Exception:
            return why, False
        why = why or (f"its ACL lets {granted}" if granted else "")
    return why, True


def has_acls(bucket: Bucket) -> bool:
    """Whether the store tells ACLs: asked for an object's, one without them may send the object itself."""
    try:
        return bool(bucket.owner.get_bucket_acl(Bucket=bucket.name).get("Grants"))
    except Exception:
        return False


def listed_by_outsiders(bucket: Bucket) -> bool:
    """Whether anybody gets a list of what is in the bucket."""
    try:
        bucket.outsider.list_objects_v2(Bucket=bucket.name, Prefix=bucket.prefix, MaxKeys=1)
    except Exception:
        return False
    return True


def settings_of(bucket: Bucket) -> list[str]:
    """What the bucket's ACL, policy, public access block and website say, a line each; or why not."""
    owner, name = bucket.owner, {"Bucket": bucket.name}
    questions: tuple[tuple[str, Callable[[], str]], ...] = (
        ("ACL", lambda: _groups(owner.get_bucket_acl(**name)) or "named accounts only"),
        ("policy", lambda: _policy(owner.get_bucket_policy(**name)["Policy"])),
        ("public access block", lambda: _block(owner.get_public_access_block(**name))),
        ("website", lambda: "serves its objects as pages" if owner.get_bucket_website(**name) else "none"),
    )
    said = []
    for what, ask in questions:
        try:
            said.append(f"{what}: {ask()}")
        except Exception as error:
            code = refusal(error)
            said.append(
                f"{what}: {'none' if code in NO_POLICY else f'not told ({code or type(error).__name__})'}"
            )
    return said


def older_versions(bucket: Bucket) -> int | None:
    """How many older versions and markers of deletion lie below the prefix; None when that is not told."""
    count = 0
    try:
        pages = bucket.owner.get_paginator("list_object_versions")
        for page in pages.paginate(Bucket=bucket.name, Prefix=bucket.prefix):
            count += sum(not one.get("IsLatest", True) for one in page.get("Versions", ()))
            count += len(page.get("DeleteMarkers", ()))
    except Exception:
        return None
    return count


def refusal(error: Exception) -> str:
    """The server's code for a refusal, "" when the error is none of those. Never the error's own text."""
    answer = getattr(error, "response", None)
    code = answer.get("Error", {}).get("Code", "") if isinstance(answer, Mapping) else ""
    return "".join(c for c in str(code) if c.isalnum())[:60]


def _told(ask: Callable[[], Any]) -> Any:
    """What `ask` returns; its failure as a VaultError that names what is wrong and nothing else."""
    try:
        return ask()
    except Exception as error:
        code, kind = refusal(error), type(error).__name__
        if kind in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"):
            cure = "Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            raise VaultError("there are no credentials for the bucket", cure) from None
        cure = "Check bucket, endpoint and rights (s3:ListBucket, s3:GetObject); run it again to go on."
        raise VaultError(f"the bucket does not answer: {code or kind}", cure) from None


def _check_endpoint(endpoint: str) -> None:
    if not endpoint:
        return
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise VaultError("that is not an endpoint", "for example --endpoint https://s3.example.org")
    try:
        loopback = parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        loopback = False
    if parts.scheme == "http" and not loopback:
        raise VaultError("the contents would travel in the clear", "Use https, or an SSH tunnel to it.")


def _groups(acl: Mapping[str, Any]) -> str:
    """What an ACL lets those do that it does not name one by one."""
    found = []
    for grant in acl.get("Grants", ()):
        group = str(grant.get("Grantee", {}).get("URI", "")).rpartition("/")[2]
        if group in GROUPS:
            found.append(f"{GROUPS[group]} {str(grant.get('Permission', '')).lower()[:40]}")
    return ", ".join(dict.fromkeys(found))


def _policy(text: str) -> str:
    """What a policy allows to anybody: who else it names is not told."""
    found = []
    statements = json.loads(text).get("Statement", ())
    for one in [statements] if isinstance(statements, Mapping) else statements:
        who = one.get("Principal")
        named = who.get("AWS", ()) if isinstance(who, Mapping) else who
        anybody = "*" in ([named] if isinstance(named, str) else list(named or ()))
        if one.get("Effect") == "Allow" and (anybody or "NotPrincipal" in one):
            actions = one.get("Action", one.get("NotAction", "?"))
            words = [actions] if isinstance(actions, str) else list(actions)
            limited = " under a condition" if one.get("Condition") else ""
            found.append(f"anybody may {', '.join(map(str, words))[:120]}{limited}")
    return "; ".join(found) or "nothing for anybody"


def _block(answer: Mapping[str, Any]) -> str:
    settings = answer.get("PublicAccessBlockConfiguration", {})
    off = sorted(name for name, on in settings.items() if not on)
    return f"off for {', '.join(off)}" if off else "on"
