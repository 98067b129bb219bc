"""`mythos vault` at the command line, with a home of its own."""

import json
from pathlib import Path

import pytest

from mythos.cli.main import run
from mythos.vault import importing


@pytest.fixture
def mythos(tmp_path: Path, monkeypatch, capsysbinary):
    monkeypatch.setenv("MYTHOS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MYTHOS_KEYS", str(tmp_path / "keys"))

    def call(*words: str):
        code = run([*words, "--json"])
        return code, json.loads(capsysbinary.readouterr().out.splitlines()[-1])

    return call


def test_from_a_file_and_back(mythos, tmp_path):
    file = tmp_path / "plan.txt"
    file.write_text("launch plan of capybara")
    _, made = mythos("vault", "add", str(file), "--kind", "draft")
    assert [one["title"] for one in mythos("vault", "list")[1]["assets"]] == ["plan.txt"]
    assert mythos("vault", "search", "capybara")[1]["assets"][0]["id"] == made["id"]
    out = tmp_path / "out"
    assert mythos("vault", "get", made["id"], "--out", str(out))[0] == 0
    assert out.read_text() == file.read_text() and out.stat().st_mode & 0o077 == 0
    shown = mythos("vault", "show", made["id"])[1]
    assert [one["principal"] for one in shown["readers"]] == ["operator"]
    assert mythos("vault", "share", made["id"], "--org", "acme", "--days", "1")[0] == 4
    hold = mythos("vault", "hold", made["id"], "--reason", "case 7")[1]["hold"]
    assert mythos("vault", "delete", made["id"])[0] == 4
    assert mythos("vault", "hold", hold, "--release")[0] == 0
    assert mythos("vault", "delete", made["id"])[0] == 0
    gone, made_up = mythos("vault", "show", made["id"]), mythos("vault", "show", "ast_" + "x" * 22)
    assert (gone[0], gone[1]["error"].replace(made["id"], "ID")) == (
        made_up[0],
        made_up[1]["error"].replace("ast_" + "x" * 22, "ID"),
    )


def test_an_import_tells_what_was_open_and_makes_all_private(mythos, tmp_path, monkeypatch):
    folder = tmp_path / "store"
    folder.mkdir()
    monkeypatch.setattr(
        importing, "_others_reach", lambda place, below=None: True
    )  # tests lie in a closed one
    for name, mode in (("open.txt", 0o644), ("closed.txt", 0o600)):
        (folder / name).write_text(name)
        (folder / name).chmod(mode)
    (folder / "link").symlink_to("/etc/hostname")
    code, report = mythos("vault", "import", str(folder))
    assert (code, report["taken"], report["skipped"]) == (0, 2, [["link", "a link"]])
    assert report["open_files"] == ["open.txt"]
    again = mythos("vault", "import", str(folder))[1]
    assert (again["taken"], again["already"]) == (0, 2)
    assert len(mythos("vault", "list")[1]["assets"]) == 2
    (folder / "open.txt").write_text("changed since")
    assert mythos("vault", "import", str(folder))[1]["taken"] == 1


def test_the_leak_of_one_store_and_not_of_the_other(mythos):
    code, told = mythos("demo", "leak", "--drafts", "40")
    assert code == 0
    assert (told["there"]["drafts"], told["here"]["drafts"], told["here"]["pages"]) == (40, 0, 0)
    assert told["here"]["addresses"] == 40
