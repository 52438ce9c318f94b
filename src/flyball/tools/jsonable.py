"""Values of user code as JSON: what a model is shown, and what is stored and graded again later."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import to_jsonable_python


def to_json(value: Any) -> str:
    """Return JSON text. Dataclasses, pydantic models, dates, decimals and sets are understood.

    Raises ValueError for anything else and for NaN: a repr would look like data and is not.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=to_jsonable_python)
    except (TypeError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(
            f"{type(value).__name__} is not JSON ({reason}); return text, numbers, lists, dicts"
        ) from error


def as_json(value: Any) -> Any:
    """Return the value as it reads back from JSON: a copy, with lists for tuples and text keys. Raises ValueError."""
    return json.loads(to_json(value))
