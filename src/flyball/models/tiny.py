"""A tiny policy made from nothing: a BPE tokenizer trained on the job's own text and a small Llama.

The tokenizer follows the field's habits: byte level, numbers in pieces of up to three digits, a letter before a
number apart from it, role and tool tokens of its own. The chat template names tools and parameters and leaves their
descriptions out: a policy made from nothing cannot read them, and would pay for them in every step. The folder is a
plain Hugging Face model folder.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

PAD, SYSTEM, USER, ASSISTANT, TOOL, END = "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>"
CALL, END_CALL = "<tool_call>", "</tool_call>"
SPECIAL = [PAD, SYSTEM, USER, ASSISTANT, TOOL, END, CALL, END_CALL]

CHAT_TEMPLATE = """\
{%- macro line(t) -%}
{{ t.name }}({% for p in t.parameters.properties %}{{ p }}{% if p not in (t.parameters.required or []) %}?\
{% endif %}{% if not loop.last %}, {% endif %}{% endfor %})
{%- endmacro -%}
<|system|>{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}
{%- for tool in tools or [] %}{{ "\n" }}
{{- line(tool.function) }}
{%- endfor %}<|end|>
{%- for m in messages %}
{%- if m.role == 'assistant' %}<|assistant|>{{ m.content or '' }}
{%- for c in m.tool_calls or [] %}<tool_call>{"name": {{ c.function.name | tojson }}, "arguments": \
{{ c.function.arguments | tojson }}}</tool_call>{% endfor %}<|end|>
{%- elif m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}<|end|>
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""


_NUMBERS = [" ".join(str(n) for n in range(10**k)) for k in (1, 2, 3)] * 20
"""Every number of up to three digits becomes a token, however rare: copying one is then one step."""


PIECES = (
    r"\d{1,3}",
    r"\$",
    r"[A-Z](?=\d)",  # the letter of an order number, the same token whether a blank stands before it or not
    r" (?=[A-Z]\d)",
    r'[A-Za-z_]+": ?["{\[]*',  # a JSON key with what opens its value: one step to say, one place to copy from
    r" ?[A-Za-z_]+",
    r"\s+",
    r'[^\sA-Za-z_\d$]+(?: ["{\[]+)?',  # what closes one value and opens the next key
)
"""Where text is cut before merges are learned, the first that fits."""


@dataclass(frozen=True)
class TinyConfig:
    """Shape of the model; the defaults give 1.5 million parameters."""

    vocab_size: int = 2560
    hidden_size: int = 160
    intermediate_size: int = 432
    num_layers: int = 4
    num_heads: int = 2
    num_kv_heads: int = 2
    head_dim: int = 64
    max_context: int = 1536


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE tokenizer over `texts` as a `PreTrainedTokenizerFast` with the template above."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("|".join(PIECES)), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(
        [*texts, *_NUMBERS],
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=raw,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[t for t in SPECIAL if t not in (END, PAD)],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
