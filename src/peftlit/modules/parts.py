"""What a task's model is made of, as checking and building it ask."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule
from peft import TaskType

from peftlit.adapters import AdapterMethod
from peftlit.backbone import Backbone
from peftlit.batch import DataSpec, Objective
from peftlit.modules.heads import Head
from peftlit.modules.problems import Problem


class ModelParts(LightningModule):
    """A module that says what its model is to be."""

    backbone: Backbone
    method: AdapterMethod
    head: Head | None
    data: DataSpec
    auto_class: Any
    task_type: TaskType | None
    objective: Objective | None = None
    """What is learned of texts without labels; None where labels are learned."""
    pretrained_head: bool = False
    """Whether the head is the pretrained one, which stays frozen, rather than a new one."""
    problem: Problem | None = None
    """What a row is classified as; None where tokens are predicted."""
