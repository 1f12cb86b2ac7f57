"""The penalty in trainers of ``transformers``, ``trl`` and ``sentence_transformers``.

Its gradient is added once in every step of the optimiser, behind the backward passes of
all parts of an accumulated batch: at ``on_pre_optimizer_step``, where gradients are
averaged over the processes and no longer scaled (float16). There the trainer has
clipped already, and what was added would not be: ``max_grad_norm`` would scale the loss
down and not the penalty, so that λ meant something else in every step. Therefore this
callback clips in place of the trainer, the sum of both gradients, to the same norm.
"""

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer_callback import CallbackHandler
from typing_extensions import override

from kfac_artifacts.artifact import Artifact
from kfac_artifacts.errors import MismatchError, SettingsError
from kfac_artifacts.tuning.models import ModelPenalty

_KEPT = "_max_grad_norm_of_loss_and_penalty"
_WHOLE = ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_NPU", "MULTI_XPU", "MULTI_HPU")
"""Ways to distribute of which every process has all parameters and their gradients."""


class KfacCallback(TrainerCallback):
    """Train against ``weight · τᵀ G τ``; ``penalty`` is logged beside ``loss``.

    In one line: ``Trainer(model, ..., callbacks=[KfacCallback("general", 100.0)])``.

    What moves, and what is refused, is as of ``ModelPenalty``. θ0 is where the model is
    when the trainer is made, or, if the callback is added later, when training begins.
    While training ``max_grad_norm`` of the arguments is 0, and ``grad_norm`` in the log
    is that of the loss alone. Whatever is reported to (``report_to``) gets the penalty
    with the loss: this callback becomes the first one of its trainer.

    Args:
        curvature: The curvature, or the directory of an artifact.
        weight: Factor λ of the penalty; 0 only measures it.
        weights: Multipliers by pattern of block names, as of ``KfacPenalty``.
        free: Patterns of names of parameters that may move although the curvature says
            nothing of them.
        other_weights: Whether the curvature may be of other weights than the model's.
        allow_indefinite: Whether a factor may clearly reward drift.

    Raises:
        SettingsError: If the weight is negative or not finite.
    """

    def __init__(
        self,
        curvature: Artifact | str | Path,
        weight: float,
        *,
        weights: Mapping[str, float] | None = None,
        free: Sequence[str] = (),
        other_weights: bool = False,
        allow_indefinite: bool = False,
    ) -> None:
        if not 0 <= weight < float("inf"):
            raise SettingsError(
                f"the weight of the penalty must be at least 0, found {weight}"
            )
        self.curvature, self.weight = curvature, weight
        self.options: dict[str, Any] = {
            "weights": weights,
            "free": free,
            "other_weights": other_weights,
            "allow_indefinite": allow_indefinite,
        }
        self.penalty: ModelPenalty | None = None
        self._model: nn.Module | None = None
        self._seen: list[Tensor] = []

    @override
    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        _go_first(self)
        if kwargs.get("model") is not None:
            self._hold(kwargs["model"])

    @override
    def on_train_begin(
        self, args: Any, state: Any, control: Any, **kwargs: Any
    ) -> None:
        how = AcceleratorState().distributed_type
        if how.value not in _WHOLE:
            raise MismatchError(
                f"parameters or gradients are split among processes ({how.value}), and "
                "the penalty needs whole matrices; train on one process, or on several "
                "with a copy each (DDP)"
            )
        _go_first(self)  # it may have been added since the trainer was made
        self._hold(kwargs["model"])
        self._seen = []
        _take_clipping(args)

    @override
    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, **kwargs: Any
    ) -> None:
        if self.penalty is None:
            raise SettingsError(
                "KfacCallback was added in the middle of a training; give it to the "
                "trainer as one of its callbacks"
            )
        _unscale(kwargs["optimizer"])
        if self.weight:
            self._seen.append(self.penalty.backward(self.weight))
        else:
            with torch.no_grad():
                self._seen.append(self.penalty())
        most = vars(args)[_KEPT]
        if most:
            torch.nn.utils.clip_grad_norm_(kwargs["model"].parameters(), most)

    @override
    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or "loss" not in logs or not self._seen:
            return
        logs["penalty"] = float(torch.stack(self._seen).mean())
        if state.log_history and "loss" in state.log_history[-1]:
            state.log_history[-1]["penalty"] = logs["penalty"]
        self._seen = []

    @override
    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        args.max_grad_norm = vars(args).pop(_KEPT)

    def _hold(self, model: nn.Module) -> None:
        """Make the penalty of a model where it is now, once."""
        if model is not self._model:
            self.penalty = ModelPenalty(model, self.curvature, **self.options)
            self._model = model


def _go_first(callback: TrainerCallback) -> None:
    """Put a callback before all others of the trainer that calls it now.

    A trainer puts its own callbacks first, and gives each of them the same log in turn:
    what is added by the last one comes too late for those that report. No callback is
    told who else there is, so that the one who calls is looked for. Those that were
    called already stay in front of the place that it has come to.
    """
    frame = inspect.currentframe()
    while frame is not None:
        handler = frame.f_locals.get("self")
        if isinstance(handler, CallbackHandler) and callback in handler.callbacks:
            handler.callbacks.remove(callback)
            handler.callbacks.insert(0, callback)
            return
        frame = frame.f_back


def _take_clipping(args: Any) -> None:
    """Let the trainer not clip; a training that was broken off may have left that."""
    if args.max_grad_norm or _KEPT not in vars(args):
        setattr(args, _KEPT, args.max_grad_norm)
    args.max_grad_norm = 0.0


def _unscale(optimizer: Any) -> None:
    """Undo the scale of float16 gradients, unless whoever measured them did."""
    scaler = getattr(optimizer, "scaler", None)
    if scaler is not None and scaler.is_enabled():
        with contextlib.suppress(RuntimeError):  # it was done since the last step
            scaler.unscale_(optimizer.optimizer)
