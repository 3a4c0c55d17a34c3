"""Full fine-tuning: every weight of the backbone trains."""


class FullFineTuning:
    """Train all weights and attach nothing. Refused on a quantized backbone, whose weights cannot move."""
