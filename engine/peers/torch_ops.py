#!/usr/bin/env python3
"""What cuBLAS and flash attention reach on a GPU through PyTorch, bf16, at the shapes of Llama-3-8B: where the engine
is slower than it should be, is it the library, or is it the engine?

Prints one JSON document a line: {"ref", "name", "rows", "us"} with "tb_s" of what has to be read, or "tflop_s";
"error" where a shape failed. As in the engine's steps, calls follow each other in a graph, so that no launch is waited
for; weights rotate, or the cache would be timed.
"""

import json
import statistics

import torch
from torch.nn.attention import SDPBackend
from torch.nn.functional import scaled_dot_product_attention as attend

GPU = torch.device("cuda")
# Outputs and inputs.
PRODUCTS = {
    "qkv": (6144, 4096),
    "out": (4096, 4096),
    "gate_up": (28672, 4096),
    "down": (4096, 14336),
    "head": (128256, 4096),
}
HEADS, GROUPS, WIDTH = 32, 8, 128


def microseconds(call, calls=20, rounds=7):
    """The median time of a call, which gets its number, over replays of a graph of several."""
    aside = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(aside):
        for number in range(3):
            call(number)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for number in range(calls):
            call(number)
    graph.replay()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / calls)
    return statistics.median(times)


def show(ref, name, rows, call, calls=20, read=None, flop=None):
    row = {"ref": ref, "name": name, "rows": rows}
    try:
        time = microseconds(call, calls)
        row["us"] = round(time, 1)
        if read:
            row["tb_s"] = round(read / time / 1e6, 2)
        if flop:
            row["tflop_s"] = round(flop / time / 1e6, 1)
    except Exception as error:  # One that fails is a row, not the end.
        row["error"] = f"{type(error).__name__}: {error}"[:200]
    print(json.dumps(row), flush=True)


def random(*shape):
    return torch.randn(*shape, device=GPU, dtype=torch.bfloat16)


def memory():
    """What a sum reads, as a measure of the memory."""
    numbers = torch.ones(1 << 30, device=GPU)
    show("read", "sum of 4 GiB", 1, lambda _: numbers.sum(), calls=4, read=4 * numbers.numel())


def product(name, rows, weights):
    x = random(rows, weights[0].shape[1])

    def call(number):
        return torch.nn.functional.linear(x, weights[number % len(weights)])

    size = weights[0].numel()
    show("product", name, rows, call, read=2 * size, flop=2 * size * rows)


def prompts(name, backend, batch, length):
    query = random(batch, HEADS, length, WIDTH)
    key, value = (random(batch, GROUPS, length, WIDTH) for _ in range(2))

    def call(_):
        with torch.nn.attention.sdpa_kernel(backend):
            return attend(query, key, value, is_causal=True, enable_gqa=True)

    # A position sees half of the others on average.
    flop = 2 * batch * HEADS * length * length * WIDTH
    show("attention", f"{name} {batch}x{length}", batch * length, call, calls=10, flop=flop)


def step(batch, length):
    # The heads of a group are rows of one product: keys would else be written out for each of them.
    query = random(batch, GROUPS, HEADS // GROUPS, WIDTH)
    caches = [random(2, batch, GROUPS, length, WIDTH) for _ in range(64 // batch + 1)]

    def call(number):
        key, value = caches[number % len(caches)]
        return attend(query, key, value)

    show("attention", f"step {batch}x{length}", batch, call, read=2 * caches[0].numel())


def main():
    torch.manual_seed(1)
    torch.set_grad_enabled(False)
    print(f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}", flush=True)
    memory()
    for name, (outputs, inputs) in PRODUCTS.items():
        # More than any cache holds.
        weights = [random(outputs, inputs) for _ in range(max(2, 150_000_000 // (outputs * inputs) + 1))]
        # Of a prompt only the last row meets the head.
        for rows in (1, 8, 64) if name == "head" else (1, 8, 64, 1024, 8192):
            product(name, rows, weights)
    for batch, length in [(1, 1024), (8, 1024), (1, 4096)]:
        prompts("flash", SDPBackend.FLASH_ATTENTION, batch, length)
        prompts("cudnn", SDPBackend.CUDNN_ATTENTION, batch, length)
    for batch, length in [(1, 1024), (64, 1024), (64, 2048)]:
        step(batch, length)


main()
