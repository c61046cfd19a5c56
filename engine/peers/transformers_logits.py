#!/usr/bin/env python3
"""Holds the engine's logits against Hugging Face transformers', for small models of every architecture that the engine
knows, with every switch of its config.json (those of engine/tests/fixtures/configs.py), in f32, bf16 and f16, at prompts
of 1 to 1,024 ids and, for the plain models in f32, of more than one chunk of prefill; in f32 with smaller chunks besides,
and continued.

    cargo build --workspace --example logits
    pip install -r engine/tests/fixtures/requirements.txt
    engine/peers/transformers_logits.py --logits target/debug/examples/logits

Errors are the largest difference of a logit over the largest logit. The engine holds weights in bf16 and f16 as they are
and computes in f32, so that the yardstick in every type is transformers in f32 on the very same rounded weights; what
transformers is off by itself when it computes in that type stands beside. Equal is what differs by 3e-5 at most. A prompt
that the engine refuses is counted, not compared. Greedy ids are compared by transformers' logits: each has to be the best,
or as good up to 1e-4.

The table says `equal`, `refused` with the engine's words, or `not there` where transformers builds no such model; any
other line is a bug, and makes the exit code 1. `--fixtures FILE` writes a small part of it for the engine's tests.

With transformers 5.23 and torch 2.15, of 161 models 119 are equal in every type and 32 refused by name; 10 are not there, and
the engine refuses these, too. The largest error is 5.0e-6 in every type, but for heads of 40: 2.1e-5 at 1,024 ids, since
transformers' frequencies of positions are powers in f32 and off by up to 3e-7; with exact ones it is 1.4e-6. That of the
reference adapters is 1.5e-6. transformers itself is off by 0.8 % to 2.8 % in bf16, and by 0.1 % to 0.3 % in f16.
"""

import argparse
import copy
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy
import torch
import transformers as hf

FIXTURES = pathlib.Path(__file__).parent.parent / "tests" / "fixtures"
sys.path.insert(0, str(FIXTURES))
import configs  # noqa: E402

LENGTHS = [1, 2, 16, 64, 255, 512, 1000, 1024]
# More than the positions that the engine computes at once by itself, 2,048. A second look divides prompts otherwise.
BEYOND_CHUNK, SMALL_CHUNK = 2100, 96
# Prompts that are continued, and by how many ids.
CONTINUED, NEW = [64, 1000], 8
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
EXACT = 3e-5
AS_GOOD = 1e-4

SIZES = dict(
    vocab_size=67, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=4096, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)
SMALL = {
    "gpt2": dict(
        vocab_size=67, n_embd=64, n_layer=2, n_head=4, n_positions=2200, bos_token_id=66, eos_token_id=66,
    ),
    # As many layers as the pattern of windows has.
    "gemma3_text": dict(**{**SIZES, "num_hidden_layers": 6}, head_dim=16, query_pre_attn_scalar=16),
}
# Sizes that the switches do not have.
SHAPES = [
    ("a single key head", dict(num_key_value_heads=1)),
    ("as many key heads", dict(num_key_value_heads=4)),
    ("odd widths", dict(vocab_size=129, intermediate_size=101)),
    ("one layer", dict(num_hidden_layers=1)),
]
OWN_HEADS = [("narrow heads", dict(head_dim=8)), ("wide heads", dict(head_dim=40))]
PACKED = ("plain tensors called quantized", dict(quantization_config={"quant_method": "fp8"}), "refused")


def cases():
    """Architecture, switch, its config.json, and whether configs.py has it `equal` or `refused`."""
    for kind, (cls, name) in configs.CLASSES.items():
        small = SMALL.get(kind, SIZES)
        switches = list(configs.SWITCHES[kind])
        if kind not in ("gpt2", "gemma3_text"):
            switches += [(what, sizes, "equal") for what, sizes in SHAPES]
        if kind in ("llama", "mistral", "qwen3"):
            switches += [(what, sizes, "equal") for what, sizes in OWN_HEADS]
        base = configs.GEMMA3 if kind == "gemma3_text" else {}
        for what, switch, wanted in [*switches, (PACKED[0], {**base, **PACKED[1]}, PACKED[2])]:
            yield kind, what, dict(architectures=[name], model_type=kind, **{**small, **switch}), wanted
        # As transformers writes it, with every key.
        whole = json.loads(cls(**{**small, **base}).to_json_string(use_diff=False))
        yield kind, "every key", {**whole, "architectures": [name]}, "equal"


MASK = (1 << 64) - 1


@functools.cache
def noise(name, count):
    """Numbers from 0 to 1 in steps of 2^-24, of the name alone: the engine's tests make the same."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) & MASK
    with numpy.errstate(over="ignore"):
        x = numpy.uint64(seed) + numpy.arange(1, count + 1, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        x ^= x >> numpy.uint64(31)
    return (x >> numpy.uint64(40)).astype(numpy.float64) / 2**24


def weight(name, shape, kind):
    """From -1/4 to 1/4; norms around 1, but for Gemma's, which add 1 themselves."""
    values = (noise(name, int(numpy.prod(shape))) * 2 - 1) / 4
    if kind != "gemma3_text" and name.endswith("weight") and ("norm" in name or ".ln_" in name):
        values += 1
    return torch.from_numpy(values.astype(numpy.float32).reshape(shape))


def prompt(vocab):
    return (noise("prompt", BEYOND_CHUNK) * vocab).astype(int).tolist()


class Engine:
    """The example `logits`."""

    def __init__(self, program):
        # On one CPU, and so with one thread: these models are too small for more.
        cpu = {min(os.sched_getaffinity(0))}
        self.process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cpu),
        )

    def ask(self, folder, dtype, prompts, **more):
        request = dict(model=str(folder), dtype=dtype, prompts=prompts, **more)
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"{folder}, {dtype}: the engine has died")
        return json.loads(answer)


def load(folder, dtype):
    model = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    return model.eval()


def all_logits(model, ids):
    """The logits after each id: those of every prompt that begins alike."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def error(found, wanted):
    wanted = torch.as_tensor(wanted, dtype=torch.float64)
    difference = torch.as_tensor(found, dtype=torch.float64) - wanted
    return (difference.abs().max() / wanted.abs().max()).item()


def make(kind, raw, folder):
    """The model's folders by dtype, with the config.json as it is given."""
    config = configs.CLASSES[kind][0].from_dict(copy.deepcopy(raw))
    config._attn_implementation = "eager"
    model = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weight(name, tuple(parameter.shape), kind))
    for dtype, of_torch in DTYPES.items():
        model.to(of_torch).save_pretrained(folder / dtype)
        (folder / dtype / "config.json").write_text(json.dumps(raw))
        model.float()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weight(name, tuple(parameter.shape), kind))


def compare(engine, folder, ids, dtype, fixed, kept):
    """The engine's largest error, transformers' own in half precision, and what else there is to say; `kept` gets the
    logits at the lengths that are `fixed`."""
    exact = dtype == "f32"
    lengths = [length for length in LENGTHS + [BEYOND_CHUNK] * (exact and fixed is OF_PLAIN) if length <= len(ids)]
    said, refused = [], {}
    while True:
        answer = engine.ask(folder / dtype, dtype, [ids[:length] for length in lengths])
        if "refused" not in answer:
            break
        # Loaded for the longest prompt, it refuses all of them.
        if "tokens exceed" not in answer["refused"] or len(lengths) == 1:
            return None, 0.0, answer["refused"].replace(f"{folder / dtype}/", "")
        refused[lengths.pop()] = answer["refused"]
    answers = [answer]
    if exact:
        answers.append(engine.ask(folder / dtype, dtype, [ids[:length] for length in lengths], prefillRows=SMALL_CHUNK))
    ids = ids[: lengths[-1]]
    reference_model = load(folder / dtype, torch.float32)
    reference = all_logits(reference_model, ids)
    own = 0.0
    if not exact:
        half = all_logits(load(folder / dtype, DTYPES[dtype]), ids)
        own = max(error(half[length - 1], reference[length - 1]) for length in lengths)
    worst = 0.0
    for answer in answers:
        for length, row in zip(lengths, answer["rows"]):
            if "refused" in row:
                refused[length] = row["refused"]
            else:
                worst = max(worst, error(row["logits"], reference[length - 1]))
    if refused:
        said.append(f"from {min(refused)} ids on refused: {refused[min(refused)]}")
    continued = [length for length in CONTINUED if exact and length in lengths and length not in refused]
    rows = engine.ask(folder / dtype, dtype, [ids[:n] for n in continued], new=NEW)["rows"] if continued else []
    for length, row in zip(continued, rows):
        if "refused" in row:  # A window that the prompt fills.
            continue
        made = row["ids"]
        logits = all_logits(reference_model, ids[:length] + made)[length - 1 : -1]
        behind = max((step.max() - step[i]).item() for step, i in zip(logits, made)) / logits.abs().max().item()
        if behind > AS_GOOD:
            said.append(f"MISMATCH: an id after {length} is not the best, but {behind:.1e} behind it")
    if dtype in fixed:
        computed = [length for length in lengths if length not in refused]
        kept[dtype] = {
            str(length): [float(f"{v:.6g}") for v in reference[length - 1].tolist()]
            for length in [length for length in fixed[dtype] if length in computed] or computed[-1:]
        }
    return worst, own, "; ".join(said)


def judged(engine, kind, raw, wanted, fixed, kept):
    """A line of the table for each dtype."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        try:
            make(kind, raw, folder)
            load(folder / "f32", torch.float32)
        except Exception as problem:  # Whatever transformers has against it.
            where = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
            if wanted == "equal":
                yield "", f"not there: {where}", None, None, ""
                return
            # The engine has to refuse it all the same, by its config.json alone.
            folder.joinpath("f32").mkdir(exist_ok=True)
            folder.joinpath("f32/config.json").write_text(json.dumps(raw))
            answer = engine.ask(folder / "f32", "f32", [[1]])
            yield "", f"not there: {where}", None, None, answer.get("refused", "MISMATCH: not refused").replace(f"{folder}/f32/", "")
            return
        limit = raw.get("n_positions") or raw["max_position_embeddings"]
        ids = prompt(raw["vocab_size"])[:limit]
        for dtype in DTYPES:
            worst, own, said = compare(engine, folder, ids, dtype, fixed, kept)
            if worst is None:
                verdict = "refused" if wanted == "refused" else "MISMATCH: refused"
            elif worst <= EXACT:
                verdict = "equal"
            else:
                verdict = "MISMATCH"
            yield dtype, verdict, worst, own, said


# What the tests have of all that is equal, and of the plain model of each architecture.
FIXED = {"f32": [64, 1024]}
OF_PLAIN = {"f32": [1, 64, 1024, BEYOND_CHUNK], "bf16": [1024], "f16": [1024]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--logits", default="target/debug/examples/logits", help="the engine's example")
    parser.add_argument("--only", default="", help="cases whose name begins so, such as 'llama: tied'")
    parser.add_argument("--fixtures", type=pathlib.Path, help="where the part for the tests goes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    hf.logging.set_verbosity_error()
    hf.logging.disable_progress_bar()
    engine = Engine(arguments.logits)
    counts, fixtures = {}, []
    print(f"transformers {hf.__version__}, torch {torch.__version__}; errors over the largest logit")
    for kind, what, raw, wanted in cases():
        name = f"{kind}: {what}"
        if not name.startswith(arguments.only):
            continue
        fixed, kept = OF_PLAIN if what in ("nothing", "one key head") else FIXED, {}
        for dtype, verdict, worst, own, said in judged(engine, kind, raw, wanted, fixed, kept):
            word = "mismatch" if "MISMATCH" in verdict + said else verdict.split(":")[0]
            counts[word] = counts.get(word, 0) + 1
            error_of = "" if worst is None else f"{worst:.1e}"
            of_half = f"(transformers {own:.1e})" if own else ""
            print(f"{name:<48} {dtype:<5} {verdict:<8} {error_of:>8} {of_half:<22} {said}".rstrip(), flush=True)
        if kept:
            fixtures.append(dict(name=name, config=raw, expected=kept))
    print(", ".join(f"{count} {word}" for word, count in sorted(counts.items())))
    if arguments.fixtures:
        lines = ",\n".join(json.dumps(case) for case in fixtures)
        arguments.fixtures.write_text(f'{{"transformers": "{hf.__version__}", "cases": [\n{lines}\n]}}\n')
    sys.exit(1 if "mismatch" in counts else 0)


if __name__ == "__main__":
    main()
