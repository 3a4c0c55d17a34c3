"""Every row of the table keeps P1, P2, P3, P4, P6 and P10: two fits a row, and each contract asks its own of them."""

from __future__ import annotations

from functools import cache

from peftlit.plugins import TrainabilityGuard, precision
from tests import device
from tests.contracts.recorded import record
from tests.contracts.test_p01_heads import HEADS, contract_heads
from tests.contracts.test_p02_trainability import contract_trainability
from tests.contracts.test_p03_dropout import contract_dropout
from tests.contracts.test_p04_precision import contract_precision
from tests.contracts.test_p06_optimizer import contract_optimizer
from tests.contracts.test_p10_padding import EXACT, LargerPositions, contract_padding
from tests.modules.cases import make_module, over_every_row

NO_CHECKPOINTING = {"custom-code": "FusedForSequenceClassification does not support gradient checkpointing"}
"""What peftlit says where a family's code cannot recompute activations."""


@over_every_row
def test_p01_p02_p03_p04_p06_p10_a_row_keeps_its_promises(case, model_folder, tmp_path, kept_or_refused, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)  # slowly where it has to be emulated
    folder = model_folder(case.family)

    def seen(*callbacks, backbone, **arguments):
        module = make_module(case, folder, backbone=backbone)
        return record(module, folder, TrainabilityGuard(), *callbacks, **arguments)

    plain = cache(lambda: seen(LargerPositions(), backbone=EXACT))
    recomputed = cache(lambda: seen(backbone={"gradient_checkpointing": True}, precision="bf16-mixed"))
    with kept_or_refused("P1", case.refused):
        contract_heads(plain(), HEADS[case.family], tmp_path / "adapter")
    with kept_or_refused("P2", case.refused):
        contract_trainability(plain())
    with kept_or_refused("P2", case.refused or NO_CHECKPOINTING.get(case.family)):
        contract_trainability(recomputed())
    with kept_or_refused("P3", case.refused):
        contract_dropout(plain())
    with kept_or_refused("P10", case.refused):
        contract_padding(plain().module.to(device.current), case, folder)
    if case.refused is None:
        contract_optimizer(plain())
        low = seen(backbone={}, precision="bf16-mixed") if case.family in NO_CHECKPOINTING else recomputed()
        contract_precision(low, "bf16-mixed")
