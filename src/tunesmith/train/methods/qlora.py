"""QLoRA: LoRA on a base whose frozen weights are kept in 4 bits.

What it changes: what LoRA changes; the base's linear layers but the head are rounded to NF4 with double quantisation
when they are loaded, and every product is computed in the model's own dtype. When to prefer it, and over what: over
LoRA where the weights would not fit; where they fit, LoRA is faster and closer to the base. What data it needs: any.
What it costs: 0.516 bytes a weight of those layers instead of 4 (or 2), and the time to dequantise each layer twice a
micro-batch; 16 bytes per adapter parameter as LoRA. Source: Dettmers et al. 2023, "QLoRA", arXiv:2305.14314; weights
by bitsandbytes, products by our own path (see ``model.quantise``). We train in AdamW with ordinary moments: adapters
are small enough that paged 8-bit ones would save little.

The saved adapter is an ordinary one, trained beside rounded weights: it is loaded onto those again, so that it
predicts as it was trained. Merged, it goes into the base in full precision, since merging into 4 bits would round
it away; a merged model's predictions therefore differ a little.
"""

from __future__ import annotations

from tunesmith.train.methods.lora import adapter_parameters, attach, learning_rate
from tunesmith.train.methods.method import Method

QLORA = Method(
    kind="qlora",
    attach=attach,
    learning_rate=learning_rate,
    trained_parameters=adapter_parameters,
    flops_per_token=lambda parameters: 4.0 * parameters,
    four_bit=True,
)
