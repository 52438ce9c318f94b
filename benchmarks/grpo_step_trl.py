"""One step of TRL's GRPOTrainer each time a line comes in; its seconds go out. Run by `benchmarks.grpo_step`.

It runs in the environment of requirements-rivals.txt and imports nothing of this project.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class OnCommand(TrainerCallback):  # type: ignore[misc]
    """Waits for a line before every step and answers with the seconds that it took, generation included."""

    started = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        print("ready", file=ANSWERS, flush=True)
        if not sys.stdin.readline():
            raise SystemExit(0)
        self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        print(json.dumps({"seconds": time.perf_counter() - self.started, "tokens": TOKENS}), file=ANSWERS, flush=True)
        TOKENS.clear()


TOKENS: list[int] = []
"""Lengths of the completions of the step under way."""


def even_share(completion_ids: list[list[int]], **others: Any) -> list[float]:
    """A reward that differs between completions and costs nothing: the share of even token ids."""
    TOKENS.extend(map(len, completion_ids))
    return [sum(token % 2 == 0 for token in ids) / max(len(ids), 1) for ids in completion_ids]


def main(job: dict[str, Any]) -> None:
    """Train on the job's prompts until the input ends."""
    settings = dict(job["settings"])
    model = AutoModelForCausalLM.from_pretrained(job["folder"], dtype=settings.pop("model_dtype", "float32"))
    with tempfile.TemporaryDirectory() as output:
        config = GRPOConfig(
            output_dir=output,
            use_cpu=True,
            max_steps=1000,
            learning_rate=1e-6,
            num_generations=job["group"],
            max_completion_length=job["new"],
            generation_kwargs={"min_new_tokens": job["new"]},
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            **settings,
        )
        trainer = GRPOTrainer(
            model=model,
            processing_class=AutoTokenizer.from_pretrained(job["folder"]),
            reward_funcs=even_share,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": job["prompts"]}),
            callbacks=[OnCommand()],
        )
        trainer.train()


if __name__ == "__main__":
    ANSWERS, sys.stdout = sys.stdout, sys.stderr  # what the libraries print is no answer
    main(json.loads(sys.stdin.readline()))
