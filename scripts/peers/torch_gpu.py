#!/usr/bin/env python3
"""PyTorch with transformers on a GPU, bf16, the same shapes as the engine: what scripts/gpu_check holds it against.

Prints one JSON document a line: {"peer", "preset", "batch", "input", "output", "prefill_ms", "decode_ms"}, medians over
the rounds; "error" where a shape failed. Decoding is greedy over a static cache, ids stay on the device, and the clock is
read when the device is done: after the first ids, and after the last.

    torch_gpu.py PRESET ROUNDS SECONDS BATCH,INPUT,OUTPUT ...      (eager first, then compiled, while the seconds last)
"""

import json
import statistics
import sys
import time

import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, StaticCache

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


def forward(model, ids, positions, cache):
    """The next ids, [batch, 1]."""
    out = model(
        input_ids=ids,
        past_key_values=cache,
        cache_position=positions,
        position_ids=positions[None].expand(ids.shape[0], -1),
        use_cache=True,
        logits_to_keep=1,
    )
    return out.logits[:, -1].argmax(-1, keepdim=True)


def measure(model, step, rounds, batch, length, output):
    device, vocab = model.device, model.config.vocab_size
    cache = StaticCache(config=model.config, max_cache_len=length + output)
    first, each = [], []
    for number in range(rounds + 2):
        ids = torch.randint(vocab, (batch, length), device=device)
        position = torch.tensor([length], device=device)
        cache.reset()
        torch.cuda.synchronize()
        start = time.perf_counter()
        last = forward(model, ids, torch.arange(length, device=device), cache)
        last.cpu()
        prefilled = time.perf_counter()
        for _ in range(output - 1):
            # A graph's output is overwritten by its next replay.
            last = step(model, last, position, cache).clone()
            position += 1
        last.cpu()
        done = time.perf_counter()
        # The first two rounds compile and capture.
        if number >= 2:
            first.append(prefilled - start)
            each.append((done - prefilled) / max(output - 1, 1))
    return statistics.median(first) * 1e3, statistics.median(each) * 1e3


def main():
    preset, rounds, seconds, *shapes = sys.argv[1:]
    until = time.monotonic() + float(seconds)
    torch.manual_seed(1)
    torch.set_grad_enabled(False)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(PRESETS[preset](), dtype=torch.bfloat16).eval()
    compiled = torch.compile(forward, mode="reduce-overhead", fullgraph=True, dynamic=False)
    for peer, step in [("eager", forward), ("compiled", compiled)]:
        for shape in shapes:
            batch, length, output = map(int, shape.split(","))
            row = {"peer": peer, "preset": preset, "batch": batch, "input": length, "output": output}
            if time.monotonic() > until:
                row["error"] = "no time was left"
            else:
                try:
                    row["prefill_ms"], row["decode_ms"] = measure(model, step, int(rounds), batch, length, output)
                except Exception as error:  # A peer that fails is a row of the table, not its end.
                    row["error"] = f"{type(error).__name__}: {error}"[:300]
            print(json.dumps(row), flush=True)


main()
