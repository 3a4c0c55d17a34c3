"""The contracts that are about arithmetic, over the very same rows, computed on a CUDA device."""

import pytest

from tests.adapters.test_adalora import test_micro_batches_count_as_one_step
from tests.contracts.conftest import bert
from tests.contracts.test_own_heads import test_p01_p02_p03_p10_an_own_head_keeps_its_promises
from tests.contracts.test_p02_trainability import (
    test_p02_gradient_checkpointing_gives_the_same_weights,
    test_p02_p03_what_trains_moves_in_training_mode_and_what_is_frozen_stays,
)
from tests.contracts.test_p04_precision import (
    bfloat16_everywhere,
    test_p04_steps_skipped_by_the_scaler_are_counted,
    test_p04_trainables_stay_float32_on_frozen_weights_of_16_bits,
    test_p04_trainables_stay_float32_under_float16,
)
from tests.contracts.test_p05_accumulation import (
    test_p05_a_penalty_counts_once_for_a_step,
    test_p05_ragged_micro_batches_and_a_short_last_window,
    test_p05_rows_by_themselves_are_one_batch,
    test_p05_under_bfloat16_the_difference_is_one_of_rounding,
    test_p05_under_float16_the_scaler_takes_no_part,
)
from tests.contracts.test_p05_tokens import test_p05_ragged_numbers_of_label_tokens_and_a_short_last_window, train
from tests.contracts.test_p06_optimizer import test_p06_whatever_the_optimizer
from tests.contracts.test_p13_likelihood import byte_folder, test_p13_probabilities_are_those_of_plain_transformers
from tests.contracts.test_p14_perplexity import test_p14_perplexity_is_that_of_plain_transformers
from tests.contracts.test_rows import test_p01_p02_p03_p04_p06_p10_a_row_keeps_its_promises

pytestmark = pytest.mark.gpu
