"""The models lists in both shapes (M12, M15, O4)."""

import pytest

from tests.serve.live import OLD, serve


def test_M15_the_shape_follows_the_version_header(live):
    with live.http() as http:
        page = http.get("/v1/models").json()
        assert [m["id"] for m in page["data"]] == ["small", "large"]
        assert page["has_more"] is False and page["first_id"] == "small" and page["last_id"] == "large"
        model = http.get("/v1/models/small").json()
        assert model == page["data"][0] and model["type"] == "model"
        assert model["lifecycle"] == "active" and model["max_input_tokens"] == 4096
    with live.http(version=None) as http:
        page = http.get("/v1/models").json()
        assert page["object"] == "list" and [m["id"] for m in page["data"]] == ["small", "large"]
        model = http.get("/v1/models/large").json()
        assert model == page["data"][1]
        assert model["object"] == "model" and model["owned_by"] == "tiny" and model["created"] > 1.7e9


@pytest.mark.parametrize(
    ("query", "ids", "more"),
    [
        ("limit=1", ["small"], True),
        ("limit=1&after_id=small", ["large"], False),
        ("limit=1&before_id=large", ["small"], False),
        ("after_id=large", [], False),
        ("after_id=unknown", [], False),
        ("before_id=unknown", [], False),
        ("lifecycle[]=retired", [], False),
        ("lifecycle=active&lifecycle=retired", ["small", "large"], False),
    ],
)
def test_M12_pages(live, query, ids, more):
    with live.http() as http:
        page = http.get(f"/v1/models?{query}").json()
    assert [m["id"] for m in page["data"]] == ids and page["has_more"] is more
    assert page["first_id"] == (ids[0] if ids else None)


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=-1", "limit=x", "limit=", "lifecycle=new"])
def test_M12_wrong_queries(live, query):
    for version in (OLD, None):
        with live.http(version=version) as http:
            assert http.get(f"/v1/models?{query}").status_code == 400


def test_M12_unknown_model(live):
    with live.http() as http:
        got = http.get("/v1/models/claude-opus-5-5")
        assert got.status_code == 404 and got.json()["error"]["type"] == "not_found_error"
        assert http.get("/v1/models/../models").status_code in (200, 404)
        assert http.get("/v1/models/%2e%2e%2fsmall%00").status_code == 404
    with live.http(version=None) as http:
        got = http.get("/v1/models/gpt-6")
        assert got.status_code == 404 and got.json()["error"]["code"] == "model_not_found"


def test_M12_aliases_resolve_and_are_named(tiny, engine):
    with serve(tiny, engine, aliases={"claude-opus-5-5": "small"}) as live, live.http() as http:
        got = http.get("/v1/models/claude-opus-5-5")
        assert got.json()["id"] == "small" and got.headers["mythos-alias"] == "claude-opus-5-5"
        body = {"model": "claude-opus-5-5", "max_tokens": 1, "messages": [{"role": "user", "content": "a"}]}
        got = http.post("/v1/messages", json=body)
        assert got.json()["model"] == "small" and got.headers["mythos-alias"] == "claude-opus-5-5"
