"""Our own worker on a tiny tier, and the server over it, as `mythos bench` asks them."""

import os
import time
from pathlib import Path

import pytest

from mythos.cli.bench_measure import CHAT, MESSAGES, Api, Case, measure, measure_drafts
from mythos.cli.bench_peers import worker
from mythos.cli.bench_protocol import WorkerError
from mythos.cli.bench_rounds import Arm, by_engine, by_server
from tests.tiny import CONFIG, tiny_home


def family_file(path: Path) -> Path:
    """The tiny home's family as a file, which the worker reads by itself."""
    names = ("vocab", "layers", "width", "heads", "kv_heads", "head_dim", "ffn", "context")
    config = "".join(f"{name} = {getattr(CONFIG, name)}\n" for name in names)
    path.write_text(
        'name = "tiny"\ndescription = "for tests"\nlicence = "none"\n'
        f"[config]\n{config}tied = true\n"
        "[sampling]\ntemperature = 0.2\ntop_p = 0.9\n"
        '[[tiers]]\nname = "small"\ndescription = "random weights"\n'
        f"price = {{ input = 1.0, output = 2.0 }}\ncontext = {CONFIG.context}\nmax_output = 1024\n"
        '[tiers.made_by]\nkind = "fetch"\nsource = "nowhere==1"\nfile = "a/b.gguf"\nfile_bytes = 1\n'
        f'file_sha256 = "{"0" * 64}"\nwheel_bytes = 1\nwheel_sha256 = "{"0" * 64}"\n'
    )
    return path


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory):
    place = tmp_path_factory.mktemp("ours")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYTHOS_KEYS", str(place / "keys"))
        patch.setenv("MYTHOS_HOME", str(place / "home"))
        tiny_home(place)
        with worker("mythos", ["-m", "mythos.cli.bench_ours"], threads=1) as process:
            about = process.ask("load", family=str(family_file(place / "tiny.toml")), tier="small")
            yield Arm("mythos", process, about)


def test_it_says_what_it_is(ours: Arm) -> None:
    assert set(ours.about) >= {"versions", "settings", "weight_bytes", "load_seconds", "base_url", "key"}
    matrices = CONFIG.vocab * CONFIG.width  # the tied embedding alone
    assert ours.about["weight_bytes"] > matrices


def test_every_case_runs_on_it(ours: Arm) -> None:
    for case in (Case("prefill", 512), Case("decode", 1, 32), Case("decode", 16, 64), Case("prefix", 1)):
        figures = measure(case, ours.worker, CONFIG.vocab, 1)
        assert set(figures) == {metric.name for metric in case.metrics}
        assert all(value > 0 for value in figures.values())


def test_a_question_as_a_prompt_may_be_drafted(ours: Arm) -> None:
    prompts = ours.worker.ask("encode", texts=["a a a a", "b"])["prompts"]
    case = Case("drafts", 1, 32, "chat")
    assert measure_drafts(case, ours.worker, prompts)["drafts-chat"] > 0


@pytest.mark.parametrize("api", [MESSAGES, CHAT], ids=lambda api: api.path)
def test_the_server_gives_the_engines_answers(ours: Arm, api: Api) -> None:
    lengths: list[list[int]] = []
    texts = ["a", "bb", "ccc"]
    assert by_engine(ours, texts, 16, lengths) > 0
    assert by_server(api, ours, "small", texts, 16, lengths) > 0
    assert lengths[0] and all(1 <= n <= 16 for n in lengths[0])
    with pytest.raises(WorkerError, match="other lengths"):
        by_server(api, ours, "small", texts, 16, [[99, 99, 99]])


@pytest.mark.parametrize("api", [MESSAGES, CHAT], ids=lambda api: api.path)
def test_a_server_that_refuses_is_an_error(ours: Arm, api: Api) -> None:
    with pytest.raises(WorkerError, match="HTTP/1.1 404"):
        by_server(api, ours, "nothing", ["a"], 4, [[4]])
    elsewhere = Arm("mythos", ours.worker, {**ours.about, "base_url": "http://127.0.0.1:9"})
    with pytest.raises(WorkerError, match="could not be reached"):
        by_server(api, elsewhere, "small", ["a"], 4, [[4]])


def test_no_user_variable_about_threads_reaches_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    with worker("toy", ["-c", "import time; time.sleep(30)"], threads=3) as process:
        seen = Path(f"/proc/{process.pid}/environ")
        if not seen.exists():
            pytest.skip("needs /proc")
        while not (text := seen.read_text()):  # the new program's variables are not in place at once
            time.sleep(0.01)
        variables = dict(v.split("=", 1) for v in text.split("\0") if "=" in v)
        process._process.kill()
    assert variables["OMP_NUM_THREADS"] == "3"
    assert "OMP_WAIT_POLICY" not in variables
    assert variables["PATH"] == os.environ["PATH"]
