"""Which smaller models a family's largest tier is foreseen from."""

from dataclasses import replace

from mythos.plan.scaling import ScalingError
from mythos.spec.counting import active_parameters, parameters
from mythos.spec.family import Family, Tier


def target_of(family: Family, name: str | None) -> Tier:
    """The tier that is to be foreseen: the one called so, or the last that is trained from scratch.

    ScalingError when there is none.
    """
    found = [t for t in family.tiers if t.made_by.kind == "pretrain" and name in (None, t.name)]
    if not found:
        named = f"tier {name!r}" if name else "tier"
        raise ScalingError(
            f"{family.name} has no {named} that is trained from scratch.", "Sweep a family like nano."
        )
    return found[-1]


def ladder_below(family: Family, target: Tier) -> list[Tier]:
    """What is trained so that `target` can be foreseen: the other tiers from scratch that are not larger.

    When the target has experts, also each dense one with as many experts, in proportion as wide as the
    target's and trained as the target is; else nothing would be known of what experts add. That of the
    target's own shape is left out: it would be the outcome.
    """
    tiers = [t for t in family.tiers if t.made_by.kind == "pretrain" and t.name != target.name]
    tiers = [t for t in tiers if parameters(t.config) < parameters(target.config)]
    moe, found = target.config.moe, list(tiers)
    for tier in tiers:
        if moe is None or tier.config.moe is not None:
            continue
        width = tier.config.ffn * moe.width // target.config.ffn // 16 * 16
        config = replace(tier.config, moe=replace(moe, width=width), dense_layers=())
        if width and parameters(config) < parameters(target.config):
            options = dict(target.made_by.options) | {
                "learning_rate": dict(tier.made_by.options)["learning_rate"]
            }
            made_by = replace(target.made_by, options=tuple(options.items()))
            name = f"{tier.name}-x{moe.routed}"
            found.append(replace(tier, name=name, config=config, made_by=made_by))
    return found


def counted(tier: Tier) -> tuple[int, int]:
    """(all, active) parameters as a law counts them: with the head and without the input embedding."""
    config = tier.config
    embedding = 0 if config.tied else config.vocab * config.width
    return parameters(config) - embedding, active_parameters(config) - embedding
