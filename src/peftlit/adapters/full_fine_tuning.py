"""Full fine-tuning: every weight of the backbone trains."""

from peftlit.errors import AdapterError


class FullFineTuning:
    """Train all weights and attach nothing. Refused on a quantized backbone, whose weights cannot move."""

    def check(self, *, quantized: bool) -> None:
        """Refuse what cannot train.

        Args:
            quantized: Whether the backbone is quantized.

        Raises:
            AdapterError: It is.
        """
        if quantized:
            raise AdapterError(
                "adapter: FullFineTuning cannot train quantized weights; set backbone.quantization: null, or use a "
                "peft adapter such as peft.LoraConfig"
            )
