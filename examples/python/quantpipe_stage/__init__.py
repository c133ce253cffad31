"""Stages of quantpipe pipelines in Python: see README.md beside this package."""
from .dtypes import from_float32, held_scale, to_float32
from .network import Block, Fold, Linear, Model, Site
from .protocol import StageError
from .scheme import Format
from .stage import Context, Param, Stage, stage
from .unit import Tensor, Unit

__all__ = ["Block", "Context", "Fold", "Format", "Linear", "Model", "Param", "Site", "Stage", "StageError", "Tensor", "Unit",
           "from_float32", "held_scale", "stage", "to_float32"]
