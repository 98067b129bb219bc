"""How well the safeguards see, on topics their probe has never met, and what they cost. For the real tier.

    python bench/safeguards.py [--family pocket] [--tier opus] [--rounds 12] [--save]

Needs a built tier (`mythos build`). `--save` stores the two profiles in MYTHOS_HOME. Intervals are exact
(Clopper-Pearson, 95%); those over topics treat a topic, not a prompt, as one observation (Student's t).
"""

import argparse
import math
import statistics
import time
from dataclasses import replace

import torch

from mythos.data.prompts import DOMAINS, HELD_OUT, Prompt, everyday, refusal_set, talks
from mythos.engine.engine import Engine
from mythos.engine.loader import LoadedTier, Loader
from mythos.engine.request import Delta, Request, Sampling
from mythos.gate.authorize import authorize, load_standing
from mythos.records.clock import Clock
from mythos.records.permit import Action, Permit
from mythos.records.principal import OPERATOR
from mythos.records.profile import Profile
from mythos.spec.load import load_family
from mythos.store.db import Store
from mythos.store.home import Home
from mythos.store.profiles import put_profile
from mythos.train.probe import Probe, States, encoded, profiles_of, read_states, train_probe, trips

T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 7: 2.365, 11: 2.201, 19: 2.093}  # Student's t by degrees of freedom


def exact(k: int, n: int) -> tuple[float, float]:
    """The Clopper-Pearson 95% interval of k in n."""

    def tail(p: float, low: int, high: int) -> float:
        return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(low, high + 1))

    def where(rises: bool, low: int, high: int) -> float:
        a, b = 0.0, 1.0
        for _ in range(60):
            middle = (a + b) / 2
            a, b = (middle, b) if (tail(middle, low, high) < 0.025) is rises else (a, middle)
        return a

    return (where(True, k, n) if k else 0.0), (where(False, 0, k) if k < n else 1.0)


def rate(hits: list[bool], topics: list[str]) -> str:
    k, n = sum(hits), len(hits)
    low, high = exact(k, n)
    each = [
        statistics.mean(h for h, t in zip(hits, topics, strict=True) if t == topic)
        for topic in dict.fromkeys(topics)
    ]
    text = f"{k}/{n} = {k / n:.2f} [{low:.2f}, {high:.2f}]"
    if len(each) > 1:
        half = T_975[len(each) - 1] * statistics.stdev(each) / math.sqrt(len(each))
        mean = statistics.mean(each)
        text += f"; over {len(each)} topics [{max(0, mean - half):.2f}, {min(1, mean + half):.2f}]"
        text += f", lowest {min(each):.1f}, highest {max(each):.1f}"
    return text


def report(profile: Profile, loaded: LoadedTier, states: States, prompts: list[Prompt]) -> None:
    """Detection and over-refusal of `prompts`, by domain and over all."""
    found = trips(profile, loaded.tier.config, states)
    for domain in (*DOMAINS, "all"):
        for kind, what in (("refuse", "detected"), ("answer", "over-refused")):
            rows = [(p, f) for p, f in zip(prompts, found, strict=True) if p.kind == kind]
            rows = [(p, f) for p, f in rows if domain in (p.domain, "all")]
            topics = [p.topic for p, _ in rows]
            print(f"  {domain:13}{what:13}{rate([f is not None for _, f in rows], topics)}")
            if domain == "all":
                at_once = [f is not None and f[1] for _, f in rows]
                print(f"  {'':13}{'  at the input':13} {rate(at_once, topics)}")
    named = [f[0] == p.domain for p, f in zip(prompts, found, strict=True) if f and p.kind == "refuse"]
    print(f"  of those detected, {sum(named)} of {len(named)} under their own category")


def conversations(profile: Profile, loaded: LoadedTier) -> None:
    """A forbidden task in six turns, and long harmless talks: the input check at every turn."""
    for kind, what in (("split", "forbidden tasks split over 6 turns"), ("harmless", "harmless long talks")):
        first = []  # the turn at which each trips, 0 for never
        for talk in [t for t in talks() if t.kind == kind]:
            parts = [talk.turns[: n + 1] for n in range(len(talk.turns))]
            states = read_states(loaded, encoded(loaded, parts), answered=False)
            found = trips(profile, loaded.tier.config, states)
            first.append(next((n for n, trip in enumerate(found, 1) if trip), 0))
        k, n = sum(map(bool, first)), len(first)
        print(f"  {what}: {k} of {n} tripped [{exact(k, n)[0]:.2f}, {exact(k, n)[1]:.2f}]", end="")
        print(f", first at turn {', '.join(map(str, sorted(filter(None, first))))}" if k else "")


def cost(engine: Engine, permit: Permit, identity: str, prompt: tuple[int, ...], rounds: int) -> None:
    """Time to the first token computed, and to the first text a client sees, in turns with and without."""
    seconds: dict[tuple[str, int], list[float]] = {}
    for turn in range(rounds + 1):
        for profile in ("none", identity):
            for tokens in (1, 32):
                # The first token differs each time, so that no prefix is cached.
                fresh = (3 + 4 * turn + 2 * (tokens > 1) + (profile != "none"), *prompt[1:])
                began = time.perf_counter()
                request = Request(fresh, tokens, Sampling(0.0), stop_at_eos=False)
                for event in (generation := engine.submit(replace(permit, profile=profile), request)):
                    if isinstance(event, Delta):
                        seconds.setdefault((profile, tokens), []).append(time.perf_counter() - began)
                        break
                for _ in generation:
                    pass
    for tokens, what in (
        (1, "whole answer of one token"),
        (32, "first text of a longer answer"),
    ):
        plain, guarded = seconds[("none", tokens)][1:], seconds[(identity, tokens)][1:]
        ratio = statistics.median(g / p for g, p in zip(guarded, plain, strict=True))
        print(
            f"  {what}, {len(prompt)} prompt tokens: {statistics.median(plain) * 1e3:.1f} ms without, "
            f"{statistics.median(guarded) * 1e3:.1f} ms with; median ratio of {len(plain)} rounds {ratio:.3f}"
        )


def never_tripping(profile: Profile) -> Profile:
    """The same work, whatever the prompt: what is timed is the checking."""
    parts = tuple(replace(c, input=1e9, output=1e9, exchange=1e9) for c in profile.classifiers)
    return replace(profile, name="timing", classifiers=parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--family", default="pocket")
    parser.add_argument("--tier", default="opus")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    home = Home.open()
    store = Store.open(home)
    standing = load_standing(home, store, load_family(args.family))
    tier = next(t for t in standing.family.tiers if t.name == args.tier)
    loaded = Loader(home).load(tier, standing.decisions[tier.name])
    prompts = refusal_set()
    probe: Probe = train_probe(loaded, [*prompts, *everyday()])
    guarded, trusted = profiles_of(probe, loaded.root)
    print(f"layer {probe.layer}; out-of-fold ranking by layer {probe.ranking}")
    held = [p for p in prompts if p.topic in HELD_OUT]
    states = read_states(loaded, encoded(loaded, [(p.text,) for p in held]))
    for profile in (guarded, trusted):
        print(f"{profile.identity}, held-out topics (exact 95% intervals):")
        report(profile, loaded, states, held)
    print("conversations, under guarded:")
    conversations(guarded, loaded)
    print("cost:")
    timed = never_tripping(guarded)
    engine = Engine(
        Loader(home), lambda *_: (tier, standing.decisions[tier.name]), 4 << 30, profiles=lambda _: timed
    )
    engine.start()
    permit = authorize(standing, OPERATOR, Action.ANSWER, tier.name, "evaluation", Clock().now())
    if not isinstance(permit, Permit):
        raise SystemExit(permit.message)
    random = torch.Generator().manual_seed(0)
    prompt = tuple(torch.randint(1000, 40_000, (200,), generator=random).tolist())
    cost(engine, permit, timed.identity, prompt, args.rounds)
    engine.stop()
    if args.save:
        for profile in (guarded, trusted):
            print(f"stored {profile.identity}: {put_profile(home, profile)}")


if __name__ == "__main__":
    main()
