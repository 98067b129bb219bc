"""The half of the adapter for assets and publication: the vault's own functions, and its two listeners."""

from contextlib import ExitStack
from functools import partial
from typing import Any

import httpx

from mythos.gate.submit import submit
from mythos.records.asset import AssetAction, Kind
from mythos.records.clock import ClockError
from mythos.records.ids import new_id
from mythos.records.principal import OPERATOR, Principal
from mythos.records.publication import PublicationVote
from mythos.records.release import Choice
from mythos.records.signed import digest, seal
from mythos.serve.apart import running
from mythos.serve.listening import bind
from mythos.serve.public_app import create_public_app
from mythos.serve.vault_app import create_vault_app
from mythos.serve.vault_front import VaultService
from mythos.store.keys import create_key
from mythos.vault import assets, own_exposure, publications, search, shares
from mythos.vault.egress import Egress, set_limit
from mythos.vault.errors import NoAsset, NotAllowedHere, OverLimit
from tests.attacks import adapter_incidents
from tests.attacks.said import Said
from tests.gate.town import DAY
from tests.vault.test_exposure import seen

TABLES = ("assets", "asset_versions", "asset_shares", "asset_holds", "asset_blobs", "publication_copies")


class Vaulted:
    """Callers are named by their organisation; `operator` is the operator. Listeners start when asked."""

    def __init__(self, adapter: Any) -> None:
        self.adapter = adapter
        self.secrets: dict[str, str] = {"": ""}
        self._urls: dict[str, str] = {}
        self._running = ExitStack()

    def __getattr__(self, name: str) -> Any:
        """Operations on incidents and reports: in adapter_incidents.py."""
        return partial(getattr(adapter_incidents, name), self)

    def stop(self) -> None:
        self._running.close()
        self._urls = {}

    def rows(self) -> Any:
        """Everything the vault keeps, comparable."""
        with self.town.store.read() as conn:
            rows = [conn.exec_driver_sql(f"SELECT * FROM {table}").all() for table in TABLES]
        return rows if any(rows) else []

    @property
    def town(self) -> Any:
        return self.adapter.town

    def place(self, who: str) -> tuple[Any, Any, Principal]:
        caller = OPERATOR if who == "operator" else Principal(f"key_{who}", "key", who)
        return self.town.store, self.town.clock, caller

    def asked(self, work: Any) -> Any:
        """GRANT; or DENY, for what does not exist to the caller, or the reason, as the log has it."""
        try:
            got = work()
        except ClockError:
            return Said("DENY", frozenset({"CLOCK"}))
        except (NoAsset, NotAllowedHere, OverLimit) as error:
            reason = str(self.adapter.attempts()[-1]["facts"]["reason"])
            return Said("DENY" if isinstance(error, NoAsset) else reason, frozenset({reason}))
        return got if isinstance(got, Said) else Said("GRANT")

    def op_asset_put(
        self, name: str = "asset", who: str = "operator", text: str = "a draft", title: str = "A draft",
        kind: str = "draft", refers: str = "",
    ) -> Any:  # fmt: skip
        content = text + (f" {self.adapter.kept[refers]}" if refers else "")

        def work() -> None:
            made = assets.put_asset(
                *self.place(who), [content.encode()], title, Kind(kind), media="text/plain"
            )
            self.adapter.kept[name] = made.id

        return self.asked(work)

    def op_asset_version(self, who: str = "operator", asset: str = "asset", text: str = "new") -> Any:
        return self.asked(lambda: assets.put_version(*self.place(who), self.id(asset), [text.encode()]))

    def op_asset_get(
        self, who: str = "operator", asset: str = "asset", version: int = 0, start: int = 0,
        end: int | None = None, head: bool = False,
    ) -> Any:  # fmt: skip
        def work() -> None:
            wanted = version or None
            got = assets.read_asset(*self.place(who), self.id(asset), wanted, start, end, head)
            b"".join(got.chunks)

        return self.asked(work)

    def op_asset_list(self, who: str, asset: str = "asset") -> Any:
        found = assets.list_assets(*self.place(who))
        return self.listed(found, asset)

    def op_asset_search(self, who: str, query: str = "draft", asset: str = "asset") -> Any:
        return self.listed(search.search_assets(*self.place(who), query), asset)

    def op_asset_share(
        self, org: str = "acme-def", days: float = 1.0, who: str = "operator", asset: str = "asset",
        to: str = "", parent: str = "", write: bool = False, starts: float = 0.0, name: str = "share",
    ) -> Any:  # fmt: skip
        def work() -> None:
            now = self.town.now
            actions = (AssetAction.READ, AssetAction.WRITE) if write else (AssetAction.READ,)
            above = self.adapter.kept[parent] if parent else ""
            times = (now + days * DAY, to, actions, now + starts * DAY, above)
            made = shares.share_asset(*self.place(who), self.id(asset), org, *times)
            self.adapter.kept[name] = made.id

        return self.asked(work)

    def op_asset_revoke(self, share: str = "share", who: str = "operator") -> Any:
        return self.asked(lambda: shares.revoke_share(*self.place(who), self.id(share)))

    def op_asset_hold(self, asset: str = "asset", who: str = "operator", name: str = "hold") -> Any:
        def work() -> None:
            self.adapter.kept[name] = assets.hold_asset(*self.place(who), self.id(asset), "case 7")

        return self.asked(work)

    def op_asset_release_hold(self, hold: str = "hold", who: str = "operator") -> Any:
        return self.asked(lambda: assets.release_hold(*self.place(who), self.id(hold)))

    def op_asset_delete(self, asset: str = "asset", who: str = "operator") -> Any:
        return self.asked(lambda: assets.delete_asset(*self.place(who), self.id(asset)))

    def op_asset_limit(self, org: str, reads: int, size: int) -> None:
        set_limit(*self.place("operator"), org, f"key_{org}", Egress(reads, size))

    def op_asset_http(
        self, key: str = "operator", method: str = "GET", path: str = "/v1/assets/{asset}", twin: str = "",
        headers: dict[str, str] | None = None, body: str = "",
    ) -> Any:  # fmt: skip
        """`twin` is sent as well, and must be answered in the same bytes."""
        before = len(self.adapter.attempts())
        got = self.send(key, method, path, headers, body)
        codes = {str(got.status_code)}
        if got.status_code >= 400 and method != "HEAD":
            codes.add(str(got.json()["error"]["code"]))
        if twin and seen(got) != seen(self.send(key, method, twin, headers, body)):
            return Said("LEAK", frozenset(codes))
        # The caller hears one 404; the log knows why.
        logged = [entry["facts"] for entry in self.adapter.attempts()[before:]]
        codes |= {facts["reason"] for facts in logged if "asset" in facts}
        return Said("GRANT" if got.status_code < 400 else "DENY", frozenset(codes))

    def op_publish_request(
        self, signer: str = "requester-1", asset: str = "asset", days: float = 0.0, until: float = 0.0,
        name: str = "request", who: str = "operator",
    ) -> Any:  # fmt: skip
        def work() -> None:
            now = self.town.now
            times = (now + days * DAY, now + until * DAY if until else 0.0)
            secret = self.adapter.secret(signer)
            made = publications.request_publication(
                *self.place(who), self.id(asset), *times, "why", signer, secret
            )
            self.adapter.kept[name] = made.id

        return self.asked(work)

    def op_publish_vote(
        self, signer: str, request: str = "request", choice: str = "approve", seen: str = ""
    ) -> None:
        """`seen` is the request that the signer was shown, if it is another than the one they vote on."""
        secret, state = self.adapter.secret(signer), self.town.state
        about = digest(state.requests[self.id(seen or request)])
        vote = PublicationVote(
            new_id("pubvote"), state.deployment, signer, Choice(choice), self.id(request), about
        )
        submit(*self.place("operator"), seal(vote, secret))

    def op_publish(self, request: str = "request", signer: str = "gate", name: str = "public") -> Any:
        def work() -> None:
            secret = self.town.gate if signer == "gate" else self.town.keys[signer]
            made = publications.publish(*self.place("operator"), self.id(request), secret)
            self.adapter.kept[name] = made.id

        return self.asked(work)

    def op_unpublish(self, signer: str = "board-2", request: str = "request") -> None:
        secret = self.adapter.secret(signer)
        publications.withdraw(*self.place("operator"), self.id(request), "why", signer, secret)

    def op_public_get(
        self,
        public: str = "public",
        headers: dict[str, str] | None = None,
        end: str = "",
        method: str = "GET",
        path: str = "/p/{}",
    ) -> Any:
        """Ask the public area, and for a made-up name as well: what is not public must look like that."""
        publications.lay_out(*self.place("operator"))
        made_up = self.id(public).partition("_")[0] + "_" + "x" * 22
        paths = [path.format(name) + end for name in (self.id(public), made_up)]
        got, other = (httpx.request(method, self.url("public") + path, headers=headers) for path in paths)
        word = "GRANT" if got.status_code < 400 else "DENY" if seen(got) == seen(other) else "LEAK"
        return Said(word, frozenset({str(got.status_code)}))

    def op_opened_outside(self, how: str) -> None:
        """Somebody changes the files past the application."""
        if how == "a file in the public area":
            place = publications.place(self.town.store) / "drafts"
            place.mkdir(parents=True, mode=0o700)
        else:
            (self.town.home.path / "vault" / "blobs").chmod(0o755)

    def op_exposure_audit(self) -> Any:
        found = own_exposure.open_files(self.town.store)
        found += own_exposure.strays(self.town.store, self.town.clock)
        return Said("EXPOSED", frozenset(f.what for f in found)) if found else Said("OK")

    def id(self, name: str) -> str:
        return self.adapter.kept.get(name, name)

    def listed(self, found: list[Any], asset: str) -> Any:
        return Said("GRANT" if self.id(asset) in {entry.asset.id for entry in found} else "DENY")

    def send(
        self, key: str, method: str, path: str, headers: dict[str, str] | None, body: str
    ) -> httpx.Response:
        place = path.replace("{asset}", self.id("asset")).replace("{share}", self.id("share"))
        sent = {**(headers or {}), **({"x-api-key": self.secret(key)} if key else {})}
        return httpx.request(method, self.url("assets") + place, headers=sent, content=body.encode() or None)

    def secret(self, key: str) -> str:
        if key not in self.secrets:
            org = None if key == "operator" else key
            more = {} if org is None else {"org": org, "purpose": "cyber_defence"}
            self.secrets[key] = create_key(*self.place("operator"), key, **more)[1]
        return self.secrets[key]

    def url(self, name: str) -> str:
        if name not in self._urls:
            store, clock, _ = self.place("operator")
            app: Any = create_public_app(store, clock)
            if name == "assets":
                app = create_vault_app(VaultService(store, clock))
            listener = self._running.enter_context(bind("127.0.0.1", 0))
            self._urls[name] = self._running.enter_context(running(app, listener))
        return self._urls[name]
