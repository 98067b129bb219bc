"""Weights on disk and requests over HTTP: in serving.py, for settings with `served = true`."""

from typing import TYPE_CHECKING, Any

from tests.attacks.said import Said

if TYPE_CHECKING:
    from tests.attacks.adapter import Adapter


def op_weights(adapter: "Adapter", how: str, file: str = "model.safetensors.enc", root: str = "W1") -> None:
    """Damage weights as they lie on disk."""
    other = adapter.roots["W2" if root == "W1" else "W1"]
    adapter.serving.damage(how, adapter.roots[root], file, other)


def op_weights_written(
    adapter: "Adapter", name: str, change: str = "", edit: list[str] | None = None
) -> None:
    """Weights that somebody with the key of this house wrote and nobody decided about."""
    adapter.roots[name] = adapter.serving.write(change, (edit[0], edit[1]) if edit else None)


def op_load(adapter: "Adapter", tier: str = "capybara", root: str = "W1", release: str = "") -> Said:
    return Said(adapter.serving.load(tier, adapter.roots[root], adapter.kept[release] if release else None))


def op_copies(adapter: "Adapter") -> Said:
    return Said(adapter.serving.copies())


def op_profile(
    adapter: "Adapter", name: str, root: str = "W1", fallback: str = "", trips: bool = True
) -> None:
    adapter.kept[name] = adapter.serving.profile(adapter.roots[root], fallback, trips)


def op_key(
    adapter: "Adapter", org: str = "acme-def", purpose: str = "cyber_defence", name: str = "key"
) -> None:
    adapter.serving.key(org, purpose, name)


def op_revoke_key(adapter: "Adapter", name: str = "key") -> None:
    adapter.serving.revoke_key(name)


def op_http(
    adapter: "Adapter",
    key: str = "key",
    model: str = "capybara",
    method: str = "POST",
    path: str = "/v1/messages",
    body: dict[str, Any] | None = None,
    twin: str = "",
    **sent: Any,
) -> Said:
    word, codes = adapter.serving.http(key, model, method, path, body, twin, **sent)
    return Said(word, frozenset(codes))


def op_stream(
    adapter: "Adapter", key: str = "key", model: str = "capybara", name: str = "stream", short: bool = False
) -> None:
    """Begin an answer and leave it running."""
    adapter.serving.stream(key, model, name, short)


def op_stream_end(adapter: "Adapter", name: str = "stream") -> Said:
    """Read it to its end: GRANT when it came to one of its own."""
    word, codes = adapter.serving.streams[name].end()
    return Said(word, frozenset(codes))
