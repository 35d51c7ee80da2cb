"""The base of every model: frozen, closed to unknown keys, silent about the values it refuses."""

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """Immutable model; an unknown key is an error, and an error never repeats the input (it may be a secret)."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False, use_enum_values=False
    )
