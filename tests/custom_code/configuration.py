"""Configuration of a small encoder with code of its own, as some hub models bring."""

from transformers import PretrainedConfig


class FusedConfig(PretrainedConfig):
    model_type = "fused_encoder"

    def __init__(
        self,
        vocab_size=30528,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        max_position_embeddings=8192,
        rope_theta=160000.0,
        hidden_dropout_prob=0.1,
        use_memory_efficient_attention=True,
        unpad_inputs=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.max_position_embeddings = max_position_embeddings
        self.rope_theta = rope_theta
        self.hidden_dropout_prob = hidden_dropout_prob
        self.use_memory_efficient_attention = use_memory_efficient_attention
        self.unpad_inputs = unpad_inputs
