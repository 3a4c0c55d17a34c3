"""What a task's module is made of, as far as checking and building its model asks."""

from __future__ import annotations

from typing import Any, Protocol

from peft import TaskType

from peftlit.adapters import AdapterMethod
from peftlit.backbone import Backbone
from peftlit.batch import DataSpec, Objective
from peftlit.modules.heads import Head
from peftlit.modules.problems import Problem


class ModelParts(Protocol):
    """The attributes of :class:`~peftlit.modules.PeftModule` that say what its model is to be."""

    backbone: Backbone
    method: AdapterMethod
    auto_class: Any
    task_type: TaskType | None
    objective: Objective | None
    pretrained_head: bool
    head: Head | None
    data: DataSpec
    problem: Problem | None
