"""What every block of a settings file is: unknown keys are refused, scalars read strictly (see `settings_file.py`)."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Names = Annotated[tuple[str, ...], Field(strict=False)]
"""A list of names; YAML gives lists, sections hold tuples."""


class Section(BaseModel):
    """One block of a settings file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
