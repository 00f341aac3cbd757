"""What a card says of an objective: its name, its paper and its equation. The formulas are those of docs/objectives.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Method:
    """An objective, for people.

    Attributes:
        name: of the method.
        equation: its loss of a pair, as TeX; empty if it is not ours to state.
        paper: number on arXiv, or None.
        note: what else has to be known.
    """

    name: str
    equation: str = ""
    paper: str | None = None
    note: str = ""


_S = "s = A r + B,\\; s' = A r' + B:\\quad "
_GSIL_PAPER = "2410.10093"

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "sigmoid": Method("SPIN", r"\ell = \log\left(1 + e^{-\beta (r - r')}\right)", "2401.01335"),
        "hinge": Method("SPIN with the hinge loss", r"\ell = \max(0,\, 1 - \beta (r - r'))", "2401.01335"),
        "space": Method(
            "SPACE",
            r"\ell = \log\left(1 + \mu e^{-r}\right) + \mu \log\left(1 + e^{r'} / \mu\right)",
            "2512.07175",
        ),
        "tspin": Method(
            "T-SPIN",
            r"\ell = \log\left(1 + e^{-\alpha (L - L')}\right) + \beta \log\left(1 + e^{-\alpha (L' - L_0)}\right),"
            r"\quad L = \log \pi",
            "2601.08198",
            "$L_0$ is the log-probability of the start's own answer; at iteration 0 the second term is left out.",
        ),
        "spif": Method(
            "SPIF",
            r"\ell = \tfrac{c}{2}\left((R - \tfrac{1}{c})^2 + (R' + \tfrac{1}{c})^2\right),\quad R = b r",
            "2602.01357",
            "Reconstructed from the paper's abstract: its own formula could not be read.",
        ),
        "iris": Method(
            "IRIS",
            r"\ell = -\tfrac{1}{\alpha - 1} \log \operatorname{mean} e^{(\alpha - 1) r}"
            r" + \tfrac{1}{\alpha} \log \operatorname{mean} e^{\alpha r'}",
            "2604.20933",
            "The means run over the pairs of a gradient step.",
        ),
        "simpo": Method(
            "S-SimPO",
            r"\ell = \log\left(1 + e^{\gamma - \beta (L / |y| - L' / |y'|)}\right),\quad L = \log \pi",
            "2405.14734",
        ),
        "ipo": Method(
            "S-IPO", r"\ell = \left(\tfrac{r}{|y|} - \tfrac{r'}{|y'|} - \tfrac{1}{2 \beta}\right)^2", "2310.12036"
        ),
        "gsil_bernoulli": Method("GSIL (Bernoulli)", _S + r"\ell = \log(1 + e^{-s}) + \log(1 + e^{s'})", _GSIL_PAPER),
        "gsil_brier": Method("GSIL (Brier)", _S + r"\ell = (\sigma(s) - 1)^2 + \sigma(s')^2", _GSIL_PAPER),
        "gsil_hinge": Method("GSIL (hinge)", _S + r"\ell = \max(0, 1 - s) + \max(0, 1 + s')", _GSIL_PAPER),
        "gsil_kliep": Method("GSIL (KLIEP)", _S + r"\ell = -s + e^{s'}", _GSIL_PAPER),
        "gsil_lsif": Method("GSIL (LSIF)", _S + r"\ell = -e^{s} + \tfrac{1}{2} e^{2 s'}", _GSIL_PAPER),
        "sft": Method("negative log-likelihood of the real response", r"\ell = -\log \pi(y \mid x) / |y|"),
    }
)
"""By the name in `loss_type`."""


def methods_of(losses: Sequence[str]) -> list[Method]:
    """The methods that losses are; of those that TRL alone knows, their name."""
    return [METHODS.get(loss) or Method(f"TRL's `{loss}`") for loss in losses]
