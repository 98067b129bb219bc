"""A safeguard profile for the tiny tier: a random direction, thresholds as a test sets them."""

import random
from dataclasses import replace

from mythos.engine.engine import Engine
from mythos.engine.request import Done, Request, Sampling
from mythos.records.permit import Permit
from mythos.records.profile import Classifier, Profile, packed
from mythos.store.profiles import put_profile
from tests.tiny import TinyHome

NEVER, ALWAYS = 1e9, -1e9


def classifier(category: str, seed: int = 1, **thresholds: float) -> Classifier:
    values = random.Random(seed)
    direction = packed(values.gauss(0, 1) for _ in range(128))
    return Classifier(
        category, direction, 0.0, **{"input": NEVER, "output": NEVER, "exchange": NEVER} | thresholds
    )


def profile_for(root: str, *classifiers: Classifier, **more) -> Profile:
    fields = {"hold_back": 4, "check_every": 4, "fallback": "", "exempt": (), "name": "guarded", "layer": 1}
    return Profile(root=root, classifiers=classifiers, **fields | more)


def under(tiny: TinyHome, profile: Profile, tier: str = "small") -> Permit:
    """A permit for this profile, which is stored first."""
    put_profile(tiny.home, profile)
    return replace(tiny.permit(tier), profile=profile.identity)


def input_score(tiny: TinyHome, engine: Engine, prompt: tuple[int, ...], tier: str = "small") -> float:
    """What the classifier of seed 1 says of a prompt: everything trips at the lowest threshold."""
    permit = under(tiny, profile_for(tiny.permit(tier).root, classifier("cyber", input=ALWAYS)), tier)
    (done,) = list(engine.submit(permit, Request(prompt, 1, Sampling(0.0))))
    assert isinstance(done, Done) and done.score is not None
    return done.score
