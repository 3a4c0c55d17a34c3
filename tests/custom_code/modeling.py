"""An encoder with the traits that make hub models with their own code hard: a fused ``qkv_proj``, rotary buffers that
are built in ``__init__`` and never saved, and settings that ask for a package that is not there."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from .configuration import FusedConfig


class Rotary(nn.Module):
    def __init__(self, config):
        super().__init__()
        size = config.hidden_size // config.num_attention_heads
        inverse = 1.0 / config.rope_theta ** (torch.arange(0, size, 2).float() / size)
        angles = torch.outer(torch.arange(config.max_position_embeddings).float(), inverse)
        angles = torch.cat([angles, angles], dim=-1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x):
        length = x.shape[-2]
        first, second = x.chunk(2, dim=-1)
        turned = torch.cat([-second, first], dim=-1)
        return x * self.cos[:length].to(x.dtype) + turned * self.sin[:length].to(x.dtype)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        if config.use_memory_efficient_attention:
            raise ImportError("use_memory_efficient_attention needs xformers")
        self.heads = config.num_attention_heads
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x, mask, rotary):
        rows, length, size = x.shape
        q, k, v = self.qkv_proj(x).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(rotary(q), rotary(k), v, attn_mask=mask)
        return self.o_proj(out.transpose(1, 2).reshape(rows, length, size))


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention = Attention(config)
        self.up_gate_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)
        self.attn_ln = nn.LayerNorm(config.hidden_size)
        self.mlp_ln = nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x, mask, rotary):
        x = self.attn_ln(x + self.dropout(self.attention(x, mask, rotary)))
        up, gate = self.up_gate_proj(x).chunk(2, dim=-1)
        return self.mlp_ln(x + self.dropout(self.down_proj(F.gelu(gate) * up)))


class FusedPreTrainedModel(PreTrainedModel):
    config_class = FusedConfig
    base_model_prefix = "new"
    supports_gradient_checkpointing = False

    def _init_weights(self, module):
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.data.normal_(std=0.02)
            if getattr(module, "bias", None) is not None:
                module.bias.data.zero_()


class FusedModel(FusedPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.rotary = Rotary(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def forward(self, input_ids, attention_mask=None, token_type_ids=None, **kwargs):
        x = self.embeddings(input_ids)
        mask = None if attention_mask is None else attention_mask[:, None, None, :].bool()
        for layer in self.layers:
            x = layer(x, mask, self.rotary)
        return BaseModelOutput(last_hidden_state=x)


class FusedForSequenceClassification(FusedPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.new = FusedModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, token_type_ids=None, labels=None, **kwargs):
        hidden = self.new(input_ids, attention_mask=attention_mask).last_hidden_state
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(hidden[:, 0])))
