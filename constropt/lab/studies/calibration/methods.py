"""The calibration losses by name, with the hyper-parameters of the thesis (appendix V-6 and Table V-4)."""

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from constropt.lab.runs.specs import RecipeSpec
from constropt.lab.studies.tables import Method, build, parse_method
from constropt.problems import calibration as losses
from constropt.problems.calibration.entrywise import EntrywiseLoss, of_label

MARGIN, TEXT_MARGIN = 10.0, 6.0  # of MbLS, CALS-HR and CALS-ALM, in units of the logits


class CrossEntropy(EntrywiseLoss):
    """``-log s_y``, in the form of the other losses.

    >>> import torch
    >>> round(CrossEntropy()(torch.zeros(1, 2), torch.tensor([0])).item(), 4)
    0.6931
    """

    def entrywise(self, logits: Tensor, labels: Tensor) -> Tensor:
        return -of_label(functional.log_softmax(logits, 1), labels)


METHODS: Mapping[str, Method] = {
    "ce": Method("CE", CrossEntropy),
    "mmce": Method("MMCE", partial(losses.MMCE, weight=0.1)),
    "mmce-kumar": Method("MMCE (root, weighted)", partial(losses.MMCE, weight=0.1, form="kumar", weighted=True)),
    "ecp": Method("ECP", partial(losses.ECP, weight=0.1)),
    "ls": Method("LS", partial(losses.LabelSmoothing, alpha=0.05)),
    "ls-torch": Method("LS (torch)", partial(losses.LabelSmoothing, alpha=0.05, convention="torch")),
    "fl": Method("FL", partial(losses.FocalLoss, gamma=3.0)),
    "flsd": Method("FLSD", partial(losses.FLSD, low=5.0, high=3.0, threshold=0.2)),
    "cpc": Method("CPC", partial(losses.CPC, discrimination=10.0, exclusion=1.0)),
    "mbls": Method("MbLS", partial(losses.MbLS, weight=0.1)),
    "mbls-official": Method("MbLS (official)", partial(losses.MbLS, weight=0.1, preset="official")),
    "cals-hr": Method("CALS-HR", losses.CALSHR),
    "cals-hr-official": Method("CALS-HR (official)", partial(losses.CALSHR, preset="official")),
    "cals-alm": Method("CALS-ALM", losses.CALS),
    "cals-alm-official": Method("CALS-ALM (official)", partial(losses.CALS, preset="official")),
    "cals-alm-p2": Method("CALS-ALM (P2)", partial(losses.CALS, penalty="P2")),
    "cals-alm-p3": Method("CALS-ALM (P3)", partial(losses.CALS, penalty="P3")),
}


def build_loss(spec: RecipeSpec | str, num_classes: int, *, text: bool = False, ignore_index: int = -100) -> nn.Module:
    """The loss of a method, as ``NAME[KEY=VALUE,...]``, for ``num_classes``; ``text`` makes the margin 6 instead of 10.
    A factory named as ``module:factory`` gets those of ``num_classes``, ``margin`` and ``ignore_index`` that it takes.
    Raises ``ValueError`` for an unknown name or option and for one whose result is no ``nn.Module``.

    >>> build_loss("mbls", 20, text=True).margin
    6.0
    """
    spec = parse_method(spec, METHODS, "method") if isinstance(spec, str) else spec
    margin = TEXT_MARGIN if text else MARGIN
    available = {"num_classes": num_classes, "classes": num_classes, "margin": margin, "ignore_index": ignore_index}
    return build(spec, METHODS, available, what="method")
