#!/usr/bin/env python3
"""Holds the engine against llama.cpp: the same GPT-2 weights in f32, the same threads, in turns.

Prints ratios of throughput, ours / llama.cpp, as min-median-max over the rounds: above 1 the engine
is ahead. llama.cpp runs with flash attention off and on, and the better of the two counts, for
each shape and phase.

    cargo build --release -p inferbench-engine --example times
    target/release/examples/times --save gpt2 /tmp/gpt2
    pip install gguf safetensors numpy
    engine/peers/llama_cpp.py --model /tmp/gpt2 --llama-bench PATH/llama-bench

Batches above 1 need llama-batched-bench beside llama-bench. Both are built from llama.cpp's sources
with -DGGML_NATIVE=ON: a build that lacks this machine's vector instructions is no measure.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys


def write_gguf(folder: pathlib.Path, target: pathlib.Path) -> None:
    """Writes a GPT-2 of a Hugging Face folder as a GGUF file, every tensor in f32."""
    import gguf
    import numpy
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text())
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(file))
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}

    width = config["n_embd"]
    writer = gguf.GGUFWriter(target, "gpt2")
    writer.add_block_count(config["n_layer"])
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(config.get("n_inner") or 4 * width)
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    # Ids go in and out; no text, no vocabulary.
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])

    def add(name, source, transposed=False):
        tensor = tensors[source].astype(numpy.float32)
        writer.add_tensor(name, numpy.ascontiguousarray(tensor.T if transposed else tensor))

    add("token_embd.weight", "wte.weight")
    add("position_embd.weight", "wpe.weight")
    add("output_norm.weight", "ln_f.weight")
    add("output_norm.bias", "ln_f.bias")
    for layer in range(config["n_layer"]):
        for ours, theirs in [
            ("attn_norm", "ln_1"),
            ("attn_qkv", "attn.c_attn"),
            ("attn_output", "attn.c_proj"),
            ("ffn_norm", "ln_2"),
            ("ffn_up", "mlp.c_fc"),
            ("ffn_down", "mlp.c_proj"),
        ]:
            # GPT-2 stores its linears as [in, out]; the order of queries, keys, values is the same.
            linear = not theirs.startswith("ln")
            add(f"blk.{layer}.{ours}.weight", f"h.{layer}.{theirs}.weight", transposed=linear)
            add(f"blk.{layer}.{ours}.bias", f"h.{layer}.{theirs}.bias")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def run(prefix, command):
    result = subprocess.run([*prefix, *map(str, command)], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} exited {result.returncode}:\n{result.stderr}")
    return result.stdout


def ours(arguments, batch, length, output):
    """Seconds of (prefill, decode step)."""
    out = run(arguments.prefix, [arguments.times, arguments.model, batch, length, output, 3])
    times = json.loads(out)
    if times["threads"] != arguments.threads:
        sys.exit(f"the engine used {times['threads']} threads, not {arguments.threads}")
    return times["prefill_s"], times["step_s"]


def theirs(arguments, gguf, batch, length, output, flash):
    """Seconds of (prefill, decode step)."""
    common = ["-m", gguf, "-t", arguments.threads, "-fa", flash, "-ngl", 0]
    if batch == 1:
        bench = [arguments.llama_bench, *common, "-r", 3, "-o", "json"]
        prefill = json.loads(run(arguments.prefix, [*bench, "-p", length, "-n", 0]))
        decode = json.loads(run(arguments.prefix, [*bench, "-p", 0, "-n", output, "-d", length]))
        seconds = [statistics.median(entry[0]["samples_ns"]) / 1e9 for entry in (prefill, decode)]
        return seconds[0], seconds[1] / output
    bench = arguments.llama_bench.with_name("llama-batched-bench")
    out = run(
        arguments.prefix,
        [bench, *common, "-tb", arguments.threads, "-c", batch * (length + output),
         "-npp", length, "-ntg", output, "-npl", batch, "--output-format", "jsonl"],
    )
    line = next(line for line in out.splitlines() if line.startswith("{"))
    times = json.loads(line)
    return times["t_pp"], times["t_tg"] / output


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True, help="a GPT-2 in a Hugging Face folder")
    parser.add_argument("--llama-bench", type=pathlib.Path, required=True)
    parser.add_argument("--times", type=pathlib.Path, default="target/release/examples/times")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--input", type=int, default=512)
    parser.add_argument("--output", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prefix", nargs="+", default=[], help="put before every command, such as taskset -c 0,1")
    arguments = parser.parse_args()

    gguf = arguments.model / "model-f32.gguf"
    if not gguf.exists():
        write_gguf(arguments.model, gguf)

    print(f"{arguments.threads} threads, {arguments.rounds} rounds, f32; ours / llama.cpp, above 1 is ahead")
    print("batch  in  out  phase    flash    min  median    max")
    for batch in arguments.batches:
        shape = (batch, arguments.input, arguments.output)
        # Flash attention -> phase -> one ratio per round.
        ratios = {flash: ([], []) for flash in ("off", "on")}
        for _ in range(arguments.rounds):
            for flash in ratios:
                # A pair at a time, so that a change in the machine's speed touches both.
                mine = ours(arguments, *shape)
                peer = theirs(arguments, gguf, *shape, flash)
                for phase in (0, 1):
                    ratios[flash][phase].append(peer[phase] / mine[phase])
        for phase, name in enumerate(("prefill", "decode")):
            # The setting that is best for the peer.
            flash = min(ratios, key=lambda flash: statistics.median(ratios[flash][phase]))
            values = ratios[flash][phase]
            print(
                f"{batch:>5} {arguments.input:>3} {arguments.output:>4}  {name:<8} {flash:<5} "
                f"{min(values):>6.2f} {statistics.median(values):>7.2f} {max(values):>6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
