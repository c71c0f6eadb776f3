"""How all models descend: Adam in one operation a variable, and learning rate schedules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf

from core.model import PLAIN, Numerics


def trained(model: tf.Module, idle: Iterable[tf.Module]) -> tuple[tf.Variable, ...]:
    """The trainable variables of `model` but for those of its `idle` parts, which no loss of an
    optimizer reaches."""
    without = {variable.ref() for part in idle for variable in part.trainable_variables}
    return tuple(v for v in model.trainable_variables if v.ref() not in without)


class FusedAdam(tf.keras.optimizers.Adam):
    """tf.keras.optimizers.Adam with the same state and arithmetic, by TensorFlow's fused kernel.

    Keras writes a dozen operations a variable: for these models half of a step's graph, and of the
    time to trace it.
    """

    def __init__(
        self,
        learning_rate: Any,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        numerics: Numerics = PLAIN,
    ):
        clip_norm = numerics.clip_norm or None
        super().__init__(
            learning_rate, beta_1, beta_2, global_clipnorm=clip_norm, jit_compile=False
        )
        self.scales_losses = numerics.scales_losses
        # Always there, so that a checkpoint fits a model of any precision.
        self.loss_scale = LossScale()

    def apply_gradients(
        self, grads_and_vars: Any, taken: tf.Tensor | None = None, **kwargs: Any
    ) -> tf.Tensor:
        """Moves the variables by their dense gradients, [(gradient, variable)], after clipping.

        taken: bool (); False: gradients are zeros, and all stays as it was. None: True."""
        step = tf.cast(self.iterations + 1, tf.float32)
        # Once for all variables; the names are those of the kernel's arguments.
        self._shared = {
            "beta1_power": tf.pow(self.beta_1, step),
            "beta2_power": tf.pow(self.beta_2, step),
            "beta1": tf.constant(self.beta_1),
            "beta2": tf.constant(self.beta_2),
            "epsilon": tf.constant(self.epsilon),
        }
        if taken is not None:
            # Not a branch, in which replicas could not meet: moments stay with betas of 1, and a
            # variable moves by a moment / (... + epsilon), which is 0 for infinity.
            for name, still in (("beta1", 1.0), ("beta2", 1.0), ("epsilon", float("inf"))):
                self._shared[name] = tf.where(taken, self._shared[name], still)
        applied = super().apply_gradients(grads_and_vars, **kwargs)
        if taken is not None:
            self.iterations.assign_sub(tf.cast(~taken, tf.int64))
        return applied

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Moves one float32 variable by its dense gradient."""
        index = self._index_dict[self._var_key(variable)]
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].handle,
            v=self._velocities[index].handle,
            lr=self.learning_rate,
            grad=gradient,
            **self._shared,
        )


class LossScale(tf.Module):
    """What float16's losses are multiplied by, so that small gradients are not lost, and gradients
    divided by again (Micikevicius et al. 2018, section 3.2).

    As large as goes: a step with gradients that are not finite halves it, DOUBLED_AFTER others in a
    row double it. A power of two, so that scaling rounds nothing.
    """

    DOUBLED_AFTER = 2000
    LARGEST = 2.0**24

    def __init__(self):
        super().__init__()
        kind = {"trainable": False, "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA}
        self.value = tf.Variable(2.0**15, name="loss_scale", **kind)
        self.good_steps = tf.Variable(0, dtype=tf.int64, name="good_steps", **kind)

    def update(self, finite: tf.Tensor) -> None:
        """After a step. finite: bool (), whether its gradients were."""
        good = tf.where(finite, self.good_steps + 1, 0)
        due = good >= self.DOUBLED_AFTER
        larger = tf.where(due, tf.minimum(2.0 * self.value, self.LARGEST), self.value)
        self.value.assign(tf.where(finite, larger, self.value / 2.0))
        self.good_steps.assign(tf.where(due, tf.zeros_like(good), good))


def descend(
    optimizer: FusedAdam,
    tape: tf.GradientTape,
    loss: tf.Tensor,
    variables: Sequence[tf.Variable],
) -> None:
    """Moves the variables down the gradient of a loss that the tape has recorded, unless float16
    had no numbers for it. All gradients of all models pass here: scaled, made dense, unscaled, then
    clipped and applied by the optimizer."""
    scale = tf.identity(optimizer.loss_scale.value) if optimizer.scales_losses else None
    gradients = tape.gradient(loss, variables, output_gradients=scale)
    # Dense, because the norm of slices would count the rows of one index apart.
    gradients = [g if g is None else tf.convert_to_tensor(g) for g in gradients]
    taken = None
    if scale is not None:
        size = tf.add_n([tf.reduce_sum(tf.abs(g)) for g in gradients if g is not None])
        # All replicas take the step, or none.
        context = tf.distribute.get_replica_context()
        taken = tf.math.is_finite(context.all_reduce(tf.distribute.ReduceOp.SUM, size))
        shrink = tf.where(taken, 1.0 / scale, 0.0)
        gradients = [g if g is None else tf.math.multiply_no_nan(g, shrink) for g in gradients]
        optimizer.loss_scale.update(taken)
    optimizer.apply_gradients(zip(gradients, variables), taken)


class FallingRate(tf.keras.optimizers.schedules.LearningRateSchedule):
    """rate x max(0.2, 1 - 0.9 t / T) at optimizer step t (paper section 4, stage 1)."""

    def __init__(self, rate: float, iterations: int):
        self.rate = rate
        self.iterations = iterations

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        done = tf.cast(step, tf.float32) / self.iterations
        return self.rate * tf.maximum(0.2, 1.0 - 0.9 * done)

    def get_config(self) -> dict[str, Any]:
        """As Keras asks."""
        return {"rate": self.rate, "iterations": self.iterations}


class LateFallingRate(FallingRate):
    """The rate for the first half of T optimizer steps, then along a line to zero (Park et al.
    2019, section 4)."""

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        left = 1.0 - tf.cast(step, tf.float32) / self.iterations
        return self.rate * tf.clip_by_value(2.0 * left, 0.0, 1.0)
