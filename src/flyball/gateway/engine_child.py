"""The engine of our own in a process of its own, behind a Unix socket: `python -m flyball.gateway.engine_child`.

A model that computes must not make requests of other models wait for the interpreter. Torch is imported here and in no
other process of the gateway.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
import uvicorn

from flyball.capture.best_of import BestOf, ranked_by
from flyball.capture.sessions import SessionDoors
from flyball.config import EngineSettings
from flyball.engine.protocol import SamplingParams

CONCURRENCY = 64


@click.command()
@click.argument("socket")
@click.argument("model")
@click.option("--temperature", type=float, default=1.0)
@click.option("--max-new-tokens", type=int, default=1024)
@click.option("--best-of", type=int)
@click.option("--reward-model", type=click.Path(path_type=Path))
def main(
    socket: str, model: str, temperature: float, max_new_tokens: int, best_of: int | None, reward_model: Path | None
) -> None:
    """Serve MODEL, a folder or a known name, at SOCKET until told to stop."""
    chosen = ranked_by(reward_model, best_of) if reward_model is not None and best_of is not None else None
    asyncio.run(_serve(socket, model, SamplingParams(temperature, max_new_tokens), chosen))


async def _serve(socket: str, model: str, sampling: SamplingParams, best_of: BestOf | None) -> None:
    from flyball.workflow.local_trainer import LocalTrainer  # torch comes in here, and not with the module

    trainer = LocalTrainer()
    folder = Path(model) if Path(model).is_dir() else trainer.find_policy(model)
    engine, chat = await trainer.open_engine(folder, EngineSettings(), concurrency=CONCURRENCY, seed=0)
    doors = SessionDoors(engine, chat, sampling, best_of=best_of)
    config = uvicorn.Config(doors, uds=socket, log_level="error", access_log=False, lifespan="off", ws="none")
    try:
        await uvicorn.Server(config).serve()
    finally:
        await engine.close()


if __name__ == "__main__":
    main()
