"""Expert parallelism: each rank has some of a layer's experts, and tokens go to them and back.

Shape letters: T token rows of one rank, D width, F inner width, A experts per token, E experts, N ranks,
O = E / N experts of one rank, S = T * A slots sent, R slots received
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from mythos.model.moe import Experts, Router, TakeRows, expert_matmul
from mythos.train.parallel.collectives import exchange_rows


class SplitExperts(nn.Module):
    """`Experts` whose rank has O of E. `even`: what comes is known beforehand (`even_ids`)."""

    def __init__(self, experts: Experts, routed: int, group: dist.ProcessGroup, even: bool) -> None:
        super().__init__()
        self.gate_up_proj, self.down_proj = experts.gate_up_proj, experts.down_proj
        self._routed, self._group, self._even = routed, group, even

    def forward(self, x_TD: Tensor, ids_TA: Tensor, weights_TA: Tensor) -> Tensor:
        """Slots sorted by expert go to its rank, there again by expert through the grouped product."""
        ranks, own = self._group.size(), self.down_proj.shape[0]
        order_S = ids_TA.flatten().argsort(stable=True)
        places_S = order_S.argsort()
        counts_E = torch.zeros(self._routed, dtype=torch.int64, device=x_TD.device)
        counts_E.scatter_add_(0, ids_TA.flatten(), torch.ones_like(order_S))
        counts_NO = torch.empty_like(counts_E)
        dist.all_to_all_single(counts_NO, counts_E, group=self._group)
        if self._even:
            each = even_counts(ids_TA.numel(), self._routed)
            sent = [sum(each[i : i + own]) for i in range(0, self._routed, own)]
            received = [sent[self._group.rank()]] * ranks
        else:
            sent = counts_E.view(ranks, own).sum(1).tolist()
            received = counts_NO.view(ranks, own).sum(1).tolist()
        x_SD = TakeRows.apply(x_TD, order_S, places_S, ids_TA.shape[-1])
        x_RD = exchange_rows(x_SD, sent, received, self._group)
        of_R = torch.arange(own, device=x_TD.device).repeat(ranks)
        of_R = of_R.repeat_interleave(counts_NO, output_size=sum(received))
        sorted_R, order_R = of_R.sort(stable=True)
        places_R = order_R.argsort()
        ends_O = torch.searchsorted(
            sorted_R, torch.arange(own, device=x_TD.device), right=True, out_int32=True
        )
        x_RD = TakeRows.apply(x_RD, order_R, places_R, 1)
        gate_RF, up_RF = expert_matmul(x_RD, self.gate_up_proj, ends_O).chunk(2, dim=-1)
        y_RD = expert_matmul(F.silu(gate_RF) * up_RF, self.down_proj, ends_O)
        y_SD = exchange_rows(TakeRows.apply(y_RD, places_R, order_R, 1), received, sent, self._group)
        y_TAD = TakeRows.apply(y_SD, places_S, order_S, 1).unflatten(0, ids_TA.shape)
        return (y_TAD * weights_TA[..., None]).sum(-2).to(x_TD.dtype)


def even_ids(tokens: int, top_k: int, routed: int, device: torch.device) -> Tensor:
    """(T, A) expert ids that load all experts as evenly as can be: forced-uniform routing."""
    return (torch.arange(tokens * top_k, device=device) % routed).view(tokens, top_k)


def even_counts(slots: int, routed: int) -> list[int]:
    """Slots of each expert under `even_ids`."""
    share, more = divmod(slots, routed)
    return [share + (expert < more) for expert in range(routed)]


class CountingRouter(Router):
    """A router that adds up how many tokens went to each expert, (E,) in `load_E`.

    Under recomputation a step counts twice; only the balance between experts is looked at.
    """

    def __init__(self, router: Router) -> None:
        nn.Module.__init__(self)
        self.moe, self.weight = router.moe, router.weight
        self.register_buffer("e_score_correction_bias", router.e_score_correction_bias)
        self.load_E: Tensor | None = None

    def forward(self, x_TD: Tensor, ids_TA: Tensor | None = None) -> tuple[Tensor, Tensor]:
        ids_TA, weights_TA = super().forward(x_TD, ids_TA)
        if self.load_E is None:
            self.load_E = torch.zeros(self.moe.routed, dtype=torch.int64, device=x_TD.device)
        self.load_E.scatter_add_(0, ids_TA.flatten(), torch.ones_like(ids_TA.flatten()))
        return ids_TA, weights_TA
