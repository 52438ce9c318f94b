"""vLLM in a process of its own environment, for `benchmarks.vllm_cpu`: prompts in, completions out, a JSON line each.

It imports nothing of this project, since that environment does not have it.
"""

from __future__ import annotations

import json
import os
import sys


def main(folder: str, dtype: str, new: int) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM prints; what it prints must not end up among the answers
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

    engine = LLM(folder, dtype=dtype, max_model_len=1024, max_num_seqs=64, enable_prefix_caching=True)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        params = SamplingParams(temperature=1.0, max_tokens=new, ignore_eos=True, logprobs=0, seed=None)
        prompts = [{"prompt_token_ids": ids} for ids in asked["prompts"]]
        found = [done.outputs[0] for done in engine.generate(prompts, params, use_tqdm=False)]
        rows = [
            [list(o.token_ids), [p[t].logprob for t, p in zip(o.token_ids, o.logprobs, strict=True)]] for o in found
        ]
        print(json.dumps({"drawn": rows}), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
