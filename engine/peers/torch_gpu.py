#!/usr/bin/env python3
"""PyTorch with transformers on a GPU, bf16, the same shapes as the engine: what scripts/gpu_check holds it against.

Prints one JSON document a line: {"peer", "preset", "batch", "input", "output", "prefill_ms", "decode_ms"}, medians over
the rounds; "error" where a shape failed. Decoding is greedy over a static cache, ids stay on the device, and the clock is
read when the device is done: after the first ids, and after the last. Only steps are compiled, as transformers does it.

    torch_gpu.py PRESET ROUNDS SECONDS BATCH,INPUT,OUTPUT ...      (eager, then compiled; none begins after SECONDS)

For transformers 5, whose caches know their own length.
"""

import json
import statistics
import sys
import time

START = time.monotonic()

import torch
import transformers
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    StaticCache,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PRESETS = {
    "gpt2": lambda: GPT2Config(),
    "llama3-8b": lambda: LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
    ),
}


def grouped(module, query, key, value, attention_mask, scaling=None, **rest):
    """transformers' attention, but for steps of models whose query heads share keys and values: those it first writes out
    once for every head, several times what there is to read. Here the heads of a group are rows of one product."""
    batch, heads, length, width = query.shape
    if length > 1 or key.shape[1] == heads:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **rest)
    rows = query.reshape(batch, key.shape[1], -1, width)
    out = torch.nn.functional.scaled_dot_product_attention(rows, key, value, attn_mask=attention_mask, scale=scaling)
    return out.reshape(batch, 1, heads, width), None


AttentionInterface.register("grouped", grouped)
AttentionMaskInterface.register("grouped", sdpa_mask)


def forward(model, ids, cache):
    """The next ids, [batch, 1]."""
    out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return out.logits[:, -1].argmax(-1, keepdim=True)


def measure(model, step, rounds, batch, length, output):
    cache = StaticCache(config=model.config, max_cache_len=length + output)
    first, each = [], []
    for number in range(rounds + 1):
        ids = torch.randint(model.config.vocab_size, (batch, length), device=model.device)
        cache.reset()
        torch.cuda.synchronize()
        start = time.perf_counter()
        last = forward(model, ids, cache)
        last.cpu()
        prefilled = time.perf_counter()
        for _ in range(output - 1):
            # A graph's output is overwritten by its next replay.
            last = step(model, last, cache).clone()
        last.cpu()
        done = time.perf_counter()
        # The first round compiles and captures.
        if number:
            first.append(prefilled - start)
            each.append((done - prefilled) / max(output - 1, 1))
    return statistics.median(first) * 1e3, statistics.median(each) * 1e3


def main():
    preset, rounds, seconds, *shapes = sys.argv[1:]
    print(f"torch {torch.__version__}, transformers {transformers.__version__}", flush=True)
    torch.manual_seed(1)
    torch.set_grad_enabled(False)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(
            PRESETS[preset](), dtype=torch.bfloat16, attn_implementation="grouped"
        ).eval()
    compiled = torch.compile(forward, mode="reduce-overhead", fullgraph=True, dynamic=False)
    for shape in shapes:
        for peer, step in [("eager", forward), ("compiled", compiled)]:
            batch, length, output = map(int, shape.split(","))
            row = {"peer": peer, "preset": preset, "batch": batch, "input": length, "output": output}
            if time.monotonic() - START > float(seconds):
                row["error"] = "no time was left"
            else:
                try:
                    row["prefill_ms"], row["decode_ms"] = measure(model, step, int(rounds), batch, length, output)
                except Exception as error:  # A peer that fails is a row of the table, not its end.
                    row["error"] = f"{type(error).__name__}: {error}"[:300]
            print(json.dumps(row), flush=True)


main()
