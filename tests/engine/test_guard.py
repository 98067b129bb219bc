"""Safeguards in the engine: each refusal beside a twin that passes, and nothing unchecked ever leaves."""

import random
from dataclasses import asdict, replace

import pytest
from tests.guarded import ALWAYS, NEVER, classifier, input_score, profile_for, under
from tests.tiny import tiny_home

from mythos.engine.request import Delta, Finish, InvalidRequest, Request, Sampling
from mythos.records.canonical import RecordError, canonical
from mythos.records.profile import open_profile
from mythos.store.profiles import find_profile, get_profile, put_profile

GREEDY = Sampling(0.0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("guard")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYTHOS_KEYS", str(path / "keys"))
        yield tiny_home(path, ("small", "other"))


@pytest.fixture(scope="module")
def engine(tiny):
    with tiny.engine() as engine:
        yield engine


def prompt_of(length: int, seed: int) -> tuple[int, ...]:
    return tuple(random.Random(seed).randrange(3, 259) for _ in range(length))


def run(engine, permit, prompt, n=20, **more):
    *deltas, done = list(
        engine.submit(permit, Request(prompt, n, more.pop("sampling", GREEDY), stop_at_eos=False, **more))
    )
    assert all(isinstance(d, Delta) for d in deltas)
    return [t for d in deltas for t in d.tokens], "".join(d.text for d in deltas), done


def split(tiny, engine, length=40, first=0):
    """(prompt that trips, twin that passes, threshold between them) for the classifier of seed 1."""
    scored = sorted(
        (input_score(tiny, engine, p), p) for p in (prompt_of(length, first + i) for i in range(4))
    )
    return scored[-1][1], scored[0][1], (scored[-1][0] + scored[-2][0]) / 2


@pytest.mark.parametrize("length", [40, 300, 513])
def test_a_tripped_prompt_is_refused_and_its_twin_answered_as_without(tiny, engine, length):
    bad, good, between = split(tiny, engine, length)
    permit = under(tiny, profile_for(tiny.permit().root, classifier("cyber", input=between)))
    for _ in range(2):  # the second time its chunks are cached, and it is checked all the same
        tokens, text, done = run(engine, permit, bad)
        assert (tokens, text, done.finish, done.category) == ([], "", Finish.REFUSED, "cyber")
        assert done.completion_tokens == 0 and done.score >= between
        assert done.cached_tokens == (length - 1) // 256 * 256
    assert run(engine, tiny.permit(), bad)[2].finish is Finish.MAX_TOKENS  # without safeguards it is answered
    guarded, plain = run(engine, permit, good), run(engine, tiny.permit(), good)
    assert guarded[:2] == plain[:2] and guarded[2].finish is Finish.MAX_TOKENS


def test_a_prefix_cached_without_safeguards_is_checked_with_them(tiny, engine):
    bad, _, between = split(tiny, engine, 600, first=70)
    assert run(engine, tiny.permit(), bad)[2].finish is Finish.MAX_TOKENS
    permit = under(tiny, profile_for(tiny.permit().root, classifier("cyber", input=between)))
    _, _, done = run(engine, permit, bad)
    assert done.finish is Finish.REFUSED and done.cached_tokens == 512


def test_a_long_prefill_does_not_hide_the_prompt(tiny, engine):
    """The state that has read the prompt is checked, although the client's prefill follows it."""
    bad, good, between = split(tiny, engine)
    permit = under(tiny, profile_for(tiny.permit().root, classifier("cyber", input=between)))
    prefill = prompt_of(600, 9)
    for _ in range(2):
        assert run(engine, permit, bad + prefill, prefill=600)[2].finish is Finish.REFUSED
    assert run(engine, permit, good + prefill, prefill=600)[2].finish is Finish.MAX_TOKENS
    with pytest.raises(InvalidRequest):
        engine.submit(permit, Request(bad, 4, GREEDY, prefill=len(bad)))


def mean_scores(tiny, engine, prompt, every, n):
    """The output score of each window of an answer, read off by tripping one after the other."""
    scores, root = [], tiny.permit().root
    for window in range(n // every):
        profile = profile_for(root, classifier("cyber", output=ALWAYS), check_every=every * (window + 1))
        done = run(engine, under(tiny, profile), prompt, n)[2]
        scores.append(done.score * (window + 1) - sum(scores))
    return scores


@pytest.mark.parametrize(("every", "hold"), [(4, 0), (4, 4), (4, 6), (5, 3), (1, 0)])
def test_nothing_of_the_unchecked_window_leaves(tiny, engine, every, hold):
    prompt, n = prompt_of(30, 5), 20
    plain = run(engine, tiny.permit(), prompt, n)[0]
    scores = mean_scores(tiny, engine, prompt, every, n)
    worst = max(range(len(scores)), key=scores.__getitem__)
    threshold = (scores[worst] + max(s for i, s in enumerate(scores) if i != worst)) / 2
    profile = profile_for(
        tiny.permit().root, classifier("cyber", output=threshold), check_every=every, hold_back=hold
    )
    tokens, _, done = run(engine, under(tiny, profile), prompt, n)
    assert done.finish is Finish.REFUSED and done.completion_tokens == every * (worst + 1)
    # What left was checked at an earlier check, and lies `hold` tokens behind it.
    assert tokens == plain[: max(0, every * worst - hold)][: len(tokens)]
    high = profile_for(
        tiny.permit().root, classifier("cyber", output=NEVER), check_every=every, hold_back=hold
    )
    tokens, _, done = run(engine, under(tiny, high), prompt, n)
    assert tokens == plain and done.finish is Finish.MAX_TOKENS


def test_the_last_tokens_are_checked_before_they_leave(tiny, engine):
    """An answer shorter than a window, however it ends: everything is read, then it leaves or does not."""
    root, prompt = tiny.permit().root, prompt_of(30, 5)
    text = run(engine, tiny.permit(), prompt, 6)[1]
    for ends in ({"n": 1}, {"n": 6}, {"n": 6, "stop": (text[-2:],)}, {"n": 6, "logprobs": 2}):
        for kind in ("output", "exchange"):
            strict = profile_for(root, classifier("cyber", **{kind: ALWAYS}), check_every=64, hold_back=64)
            tokens, text_out, done = run(engine, under(tiny, strict), prompt, **ends)
            assert (tokens, text_out, done.finish) == ([], "", Finish.REFUSED), (ends, kind)
        lenient = profile_for(root, classifier("cyber"), check_every=64, hold_back=64)
        guarded, plain = (
            run(engine, under(tiny, lenient), prompt, **ends),
            run(engine, tiny.permit(), prompt, **ends),
        )
        assert guarded[:2] == plain[:2] and guarded[2].finish is plain[2].finish


def test_an_exempt_category_passes_and_the_others_do_not(tiny, engine):
    root, prompt = tiny.permit().root, prompt_of(40, 1)
    both = [classifier("cyber", 1, input=ALWAYS), classifier("cbrn", 2, input=NEVER)]
    assert run(engine, under(tiny, profile_for(root, *both)), prompt)[2].category == "cyber"
    trusted = profile_for(root, *both, name="trusted-cyber", exempt=("cyber",))
    assert run(engine, under(tiny, trusted), prompt)[2].finish is Finish.MAX_TOKENS
    other = [classifier("cyber", 1, input=NEVER), classifier("cbrn", 2, input=ALWAYS)]
    done = run(engine, under(tiny, profile_for(root, *other, exempt=("cyber",))), prompt)[2]
    assert (done.finish, done.category) == (Finish.REFUSED, "cbrn")


def test_the_decision_is_the_same_in_company(tiny, engine):
    bad, good, between = split(tiny, engine)
    guarded = under(tiny, profile_for(tiny.permit().root, classifier("cyber", input=between)))
    requests = [(guarded, bad), (guarded, good), (tiny.permit(), bad), (tiny.permit(), good)] * 3
    running = [engine.submit(p, Request(x, 12, GREEDY, stop_at_eos=False)) for p, x in requests]
    finishes = [list(g)[-1].finish for g in running]
    assert finishes == [Finish.REFUSED, *[Finish.MAX_TOKENS] * 3] * 3


def test_an_unknown_foreign_or_changed_profile_is_no_profile(tiny, engine):
    root, request = tiny.permit().root, Request(prompt_of(8, 1), 2, GREEDY)
    known = under(tiny, profile_for(root, classifier("cyber")))
    assert list(engine.submit(known, request))[-1].finish in (Finish.MAX_TOKENS, Finish.END)
    foreign = under(tiny, profile_for(tiny.permit("other").root, classifier("cyber")))
    deep = under(tiny, profile_for(root, classifier("cyber"), layer=3))
    lost = replace(known, profile="guarded@" + "0" * 16)
    renamed = replace(known, profile="trusted-cyber@" + known.profile[-16:])
    changed = under(tiny, profile_for(root, classifier("cyber"), hold_back=9))
    (file,) = (tiny.home.path / "profiles").glob(changed.profile[-16:] + "*")
    file.write_bytes(file.read_bytes().replace(b'"hold_back":9', b'"hold_back":0'))
    for name in ("", "None", "guarded", "../x@" + "0" * 16):
        with pytest.raises(PermissionError):
            engine.submit(replace(known, profile=name), request)
    for permit in (foreign, deep, lost, renamed, changed):
        with pytest.raises(PermissionError):
            engine.submit(permit, request)


def test_a_profile_is_kept_by_its_content(tiny):
    profile = profile_for("ab" * 32, classifier("cyber", input=0.25))
    assert open_profile(profile.data) == profile
    assert put_profile(tiny.home, profile) == profile.digest == put_profile(tiny.home, profile)
    assert get_profile(tiny.home, profile.digest) == profile == find_profile(tiny.home, profile.identity)
    assert get_profile(tiny.home, "0" * 64) is None
    good = asdict(profile)
    for wrong in (
        {"name": "none"}, {"root": "x"}, {"layer": -1}, {"check_every": 0}, {"hold_back": 1 << 20},
        {"classifiers": []}, {"classifiers": [*good["classifiers"]] * 2}, {"exempt": ["cyber"]},
        {"exempt": ["other"]}, {"fallback": " "}, {"more": 1}, {"layer": "1"},
        {"classifiers": [{**good["classifiers"][0], "direction": "AAA"}]},
        {"classifiers": [{**good["classifiers"][0], "direction": "AADAfw=="}]},  # a NaN
    ):  # fmt: skip
        with pytest.raises(RecordError):
            open_profile(canonical({**good, **wrong}))
