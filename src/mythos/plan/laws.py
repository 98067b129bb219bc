"""Published scaling laws by name, as their authors print them.

A law tells the loss of `active` parameters after `tokens` tokens, with `ratio` times as many parameters in
all, or only how to split a training compute. Losses of different laws do not compare: each has its own text
and tokenizer. "recalled" in a source: from the paper as remembered, the coefficients were not read again.

All functions take numbers or numpy arrays of one shape.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mythos.plan.scaling import FLOPS_PER_PARAMETER_AND_TOKEN, Law, ScalingError

Number = float | NDArray[np.float64]
DEFAULT_LAW = "epoch"

EPOCH = Law(e=1.8169, a=482.0, alpha=0.3478, b=2085.4, beta=0.3658)
EPOCH_STANDARD_ERRORS = Law(e=0.026, a=124.5, alpha=0.015, b=1293.0, beta=0.021)
# Where Hoffmann's runs lie, as a geometric mean: there a law is known best, and its exponents turn around it.
EPOCH_CENTRE = (1e9, 2e10)
HOFFMANN = Law(e=1.69, a=406.4, alpha=0.34, b=410.7, beta=0.28)
MUENNIGHOFF = Law(
    e=math.exp(0.6254804), a=math.exp(6.255414), alpha=0.3526596, b=math.exp(7.3049974), beta=0.3526596
)
REPEATED_TOKENS, REPEATED_PARAMETERS = 15.387756, 5.309743
SHARE_OF_EXPERTS = 2 / 3  # of a dense block's parameters, in its MLP: what routing multiplies

Loss = Callable[[Number, Number, Number], Number]
Split = Callable[[Number], tuple[Number, Number]]


@dataclass(frozen=True, slots=True)
class PublishedLaw:
    """`loss(active, tokens, ratio)` in nats per token, or None for a law that only splits compute:
    `split(flops)` gives parameters and tokens."""

    name: str
    source: str
    loss: Loss | None = None
    split: Split | None = None
    fixed_tokens: float | None = None  # the one number of tokens that it holds for


def law(name: str) -> PublishedLaw:
    """The law of that name; ScalingError names the known ones."""
    if name not in LAWS:
        raise ScalingError(f"no scaling law is called {name}", f"one of {', '.join(sorted(LAWS))}")
    return LAWS[name]


def kaplan_loss(n: Number, d: Number, ratio: Number = 1.0) -> Number:
    """[(Nc/N)^(aN/aD) + Dc/D]^aD, N without embeddings (Kaplan et al. 2020, eq. 1.5)."""
    return ((8.8e13 / n) ** (0.076 / 0.095) + 5.4e13 / d) ** 0.095


def clark_loss(n: Number, d: Number, ratio: Number = 1.0) -> Number:
    """10^(a log N + b log E + c log N log E + d) in base 10, E saturating between its ends; 130B tokens,
    whatever `d` is (Clark et al. 2022, S-BASE)."""
    log_n, log_e = np.log10(n), np.log10(_saturated(experts_of(ratio), 1.847, 314.478))
    return 10 ** (-0.082 * log_n - 0.108 * log_e + 0.009 * log_n * log_e + 1.104) + 0 * np.asarray(d)


def krajewski_loss(n: Number, d: Number, ratio: Number = 1.0, granularity: float = 8.0) -> Number:
    """c + (g/G^gamma + a)/N^alpha + b/D^beta, N all parameters of a model with 64 times as many experts as
    one MLP holds (Krajewski et al. 2024)."""
    whole = n * (1 + 63 * SHARE_OF_EXPERTS) + 0 * np.asarray(ratio)
    return 0.47 + (2.1 / granularity**0.58 + 18.1) / whole**0.115 + 30.8 / d**0.147


def joint_loss(n: Number, d: Number, ratio: Number = 1.0) -> Number:
    """a E^delta N^(alpha + gamma ln E) + b E^omega D^(beta + zeta ln E) + c, E saturating (Ludziejewski et
    al. 2025), fitted to at most 32 experts, 2.7B active and 5B in all.

    Signs of the exponents are those under which more experts help within that range, as the paper finds.
    """
    log_e = np.log(_saturated(experts_of(ratio), 2.0732, 290.4521))
    size = 35.91 * np.exp(-0.2285 * log_e) * n ** (-0.1889 + 0.0098 * log_e)
    data = 35.98 * np.exp(0.5529 * log_e) * d ** (-0.1775 - 0.0259 * log_e)
    return size + data + 1.3637


def supervised_loss(n: Number, d: Number, ratio: Number = 1.0) -> Number:
    """E + (A/N^alpha + B/D^beta)^gamma (Busbridge et al. 2025, the law beside that of distillation)."""
    return 1.220 + (3355 / n**0.408 + 18186 / d**0.431) ** 0.452 + 0 * np.asarray(ratio)


def distilled_loss(n: Number, d: Number, teacher: Number) -> Number:
    """Loss of a student of `n` parameters after `d` distilled tokens of a teacher with the loss `teacher`.

    L_T + L_T^-c0 (1 + (L_T / (d1 L_S))^(1/f1))^(-c1 f1) (A'/N^a' + B'/D^b')^g', where L_S is what the same
    student reaches by itself (Busbridge et al. 2025, eq. 8). A teacher far better than the student hurts.
    """
    alone = supervised_loss(n, d)
    gap = (1 + (teacher / (1.315 * alone)) ** (1 / 0.0905)) ** (-522.61 * 0.0905)
    return teacher + teacher**-2.549 * gap * (2243 / n**0.321 + 24181 / d**0.637) ** 0.764


def effective_tokens(tokens: Number, unique: Number) -> Number:
    """What `tokens` tokens out of `unique` different ones are worth: U + U R (1 - e^(-(D/U - 1)/R))."""
    return _worth(tokens, unique, REPEATED_TOKENS)


def effective_parameters(n: Number, unique: Number, of: Law = MUENNIGHOFF) -> Number:
    """Likewise for parameters beyond those that `unique` tokens are the best amount for."""
    best = optimal_parameters(of, unique)
    return _worth(n, best, REPEATED_PARAMETERS)


def turned(size_exponent: float, data_exponent: float, floor: float) -> Law:
    """Epoch's law with other exponents, its two terms unchanged at `EPOCH_CENTRE`, and another floor."""
    n, d = EPOCH_CENTRE
    return Law(
        e=floor,
        a=EPOCH.a * n ** (size_exponent - EPOCH.alpha),
        alpha=size_exponent,
        b=EPOCH.b * d ** (data_exponent - EPOCH.beta),
        beta=data_exponent,
    )


def optimal_parameters(of: Law, tokens: Number) -> Number:
    """The parameters for which `tokens` is the best amount at their compute: alpha A/N^alpha = beta
    B/D^beta."""
    return (of.alpha * of.a / (of.beta * of.b)) ** (1 / of.alpha) * tokens ** (of.beta / of.alpha)


def experts_of(ratio: Number) -> Number:
    """How many experts, one of them used, give `ratio` times as many parameters as are active."""
    return 1 + (np.asarray(ratio, dtype=float) - 1) / SHARE_OF_EXPERTS


def _chinchilla(of: Law) -> Loss:
    return lambda n, d, ratio: of.e + of.a * n**-of.alpha + of.b * d**-of.beta + 0 * np.asarray(ratio)


def _data_limited(n: Number, d: Number, ratio: Number = 1.0) -> Number:
    return _chinchilla(MUENNIGHOFF)(n, d, ratio)


def _saturated(experts: Number, start: float, most: float) -> Number:
    return 1 / (1 / (experts - 1 + 1 / (1 / start - 1 / most)) + 1 / most)


def _worth(amount: Number, once: Number, constant: float) -> Number:
    used = np.minimum(amount, once)
    again = np.maximum(amount / used - 1, 0)
    return used + used * constant * -np.expm1(-again / constant)


def _llama3(flops: Number) -> tuple[Number, Number]:
    # The exponent is printed as 0.53, which gives 10.5T at 3.8e25; the paper's own 16.55T needs 0.5378.
    tokens = 0.29 * flops**0.5378
    return flops / FLOPS_PER_PARAMETER_AND_TOKEN / tokens, tokens


def _deepseek(flops: Number) -> tuple[Number, Number]:
    """M = 0.1715 C^0.5243 non-embedding FLOPs per token; N = M/6 leaves out attention's share."""
    per_token = 0.1715 * flops**0.5243
    return per_token / FLOPS_PER_PARAMETER_AND_TOKEN, 5.8316 * flops**0.4757


LAWS = {
    one.name: one
    for one in (
        PublishedLaw(
            "epoch",
            "Besiroglu et al. 2024, arXiv 2404.10102: Hoffmann's data, fitted again",
            _chinchilla(EPOCH),
        ),
        PublishedLaw(
            "hoffmann", "Hoffmann et al. 2022, arXiv 2203.15556, as rounded there", _chinchilla(HOFFMANN)
        ),
        PublishedLaw("kaplan", "Kaplan et al. 2020, arXiv 2001.08361 (recalled)", kaplan_loss),
        PublishedLaw(
            "muennighoff", "Muennighoff et al. 2023, huggingface/datablations README", _data_limited
        ),
        PublishedLaw(
            "clark", "Clark et al. 2022, arXiv 2202.01169 (recalled)", clark_loss, fixed_tokens=1.3e11
        ),
        PublishedLaw("krajewski", "Krajewski et al. 2024, arXiv 2402.07871 (recalled)", krajewski_loss),
        PublishedLaw("joint", "Ludziejewski et al. 2025, arXiv 2502.05172 (recalled)", joint_loss),
        PublishedLaw("busbridge", "Busbridge et al. 2025, arXiv 2502.08606 (recalled)", supervised_loss),
        PublishedLaw("deepseek", "DeepSeek LLM 2024, arXiv 2401.02954", split=_deepseek),
        PublishedLaw("llama3", "Llama 3 2024, arXiv 2407.21783", split=_llama3),
    )
}
