"""llama.cpp's own server behind the options of `llama-server`, from the Python package xllamacpp.

For tests: what the preset llamaCpp gives is taken, and an option that is not known here is an error.
"""

import argparse
import signal
import sys
import threading

import xllamacpp


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--ctx-size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--ubatch-size", type=int)
    parser.add_argument("--cache-ram", type=int)
    parser.add_argument("--n-gpu-layers", type=int, default=0)
    for switch in ("metrics", "no-webui", "no-cache-prompt"):
        parser.add_argument(f"--{switch}", action="store_true")
    given = parser.parse_args()

    params = xllamacpp.CommonParams()
    params.model.path = given.model
    params.hostnames = [given.host] if hasattr(params, "hostnames") else params.hostnames
    params.port = given.port
    params.n_parallel = given.parallel
    params.n_ctx = given.ctx_size
    params.n_gpu_layers = given.n_gpu_layers
    params.cpuparams.n_threads = given.threads
    params.cpuparams_batch.n_threads = given.threads
    if given.batch_size is not None:
        params.n_batch = given.batch_size
    if given.ubatch_size is not None:
        params.n_ubatch = given.ubatch_size
    if given.cache_ram is not None:
        params.cache_ram_mib = given.cache_ram
    params.cache_prompt = not given.no_cache_prompt
    params.endpoint_metrics = given.metrics
    params.endpoint_props = True
    params.kv_unified = False
    params.warmup = False
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    server = xllamacpp.Server(params)
    print(f"listening on {server.listening_address}", file=sys.stderr, flush=True)
    ended.wait()
    del server


if __name__ == "__main__":
    main()
