"""Gradient steps of all models: Adam, AdamW, the loss scale of float16, learning rate schedules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf

LossScaleOptimizer = tf.keras.mixed_precision.LossScaleOptimizer


def trainable_variables_without(
    model: tf.Module, parts: Iterable[tf.Module]
) -> tuple[tf.Variable, ...]:
    """Return the trainable variables of `model` but for those of its `parts`."""
    without = {variable.ref() for part in parts for variable in part.trainable_variables}
    return tuple(v for v in model.trainable_variables if v.ref() not in without)


class FusedAdam(tf.keras.optimizers.Adam):
    """tf.keras.optimizers.Adam with the same state and arithmetic, by TensorFlow's fused kernel.

    Keras writes a dozen operations a variable, half of these models' graphs: the first step of
    stage 1 took 17.5 s with it and takes 8.4 s with this one on two cores, later steps 1.26 s and
    0.97 s.
    """

    def apply_gradients(self, grads_and_vars: Any, **kwargs: Any) -> tf.Tensor:
        step = tf.cast(self.iterations + 1, tf.float32)
        # Once for all variables; the names are those of the kernel's arguments.
        self._shared = {
            "beta1_power": tf.pow(self.beta_1, step),
            "beta2_power": tf.pow(self.beta_2, step),
            "beta1": tf.constant(self.beta_1),
            "beta2": tf.constant(self.beta_2),
            "epsilon": tf.constant(self.epsilon),
        }
        return super().apply_gradients(grads_and_vars, **kwargs)

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Move one float32 variable by its dense gradient."""
        index = self._index_dict[self._var_key(variable)]
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].handle,
            v=self._velocities[index].handle,
            lr=self.learning_rate,
            grad=gradient,
            **self._shared,
        )


def adam(
    learning_rate: Any,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    clip_norm: float = 0.0,
    weight_decay: float = 0.0,
) -> LossScaleOptimizer:
    """Return Adam with a loss scale, of which only float16 makes use: it is there and saved in
    every precision, so that a checkpoint fits all of them. clip_norm: of all gradients together,
    0: not clipped. weight_decay: apart from the gradients (AdamW; Loshchilov and Hutter 2019)."""
    inner = FusedAdam(
        learning_rate,
        beta_1,
        beta_2,
        weight_decay=weight_decay or None,
        global_clipnorm=clip_norm or None,
        jit_compile=False,
    )
    return LossScaleOptimizer(inner)


def minimise(
    optimizer: LossScaleOptimizer,
    loss: tf.Tensor,
    tape: tf.GradientTape,
    variables: Sequence[tf.Variable],
    scale_loss: bool,
) -> None:
    """Move the variables one step down the gradient of a loss that `tape` has recorded.

    scale_loss: for float16, which has no numbers below 6e-8. The gradient is then computed of the
    scaled loss and divided by the scale again (Micikevicius et al. 2018, section 3.2). A step whose
    gradients are not finite is skipped and halves the scale; 2,000 others in a row double it.
    """
    upstream = optimizer.get_scaled_loss(tf.ones(())) if scale_loss else None
    gradients = tape.gradient(loss, variables, output_gradients=upstream)
    # Dense, because the norm of slices would count the rows of one index apart.
    gradients = [g if g is None else tf.convert_to_tensor(g) for g in gradients]
    if not scale_loss:
        optimizer.inner_optimizer.apply_gradients(zip(gradients, variables))
        return
    scale = optimizer.loss_scale
    optimizer.apply_gradients(zip(optimizer.get_unscaled_gradients(gradients), variables))
    # Keras counts skipped steps too. Adam's moments and the schedules know only those taken.
    skipped = optimizer.loss_scale < scale
    optimizer.iterations.assign_sub(tf.cast(skipped, tf.int64))


class FallingRate(tf.keras.optimizers.schedules.LearningRateSchedule):
    """rate x max(0.2, 1 - 0.9 t / T) at optimizer step t (paper section 4, stage 1)."""

    def __init__(self, rate: float, iterations: int):
        self.rate = rate
        self.iterations = iterations

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        fraction = tf.cast(step, tf.float32) / self.iterations
        return self.rate * tf.maximum(0.2, 1.0 - 0.9 * fraction)

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate, "iterations": self.iterations}


class LateFallingRate(FallingRate):
    """The rate for the first half of T optimizer steps, then along a line to zero (Park et al.
    2019, appendix A, on ADE20K and Cityscapes)."""

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        fraction = tf.cast(step, tf.float32) / self.iterations
        return self.rate * tf.clip_by_value(2.0 * (1.0 - fraction), 0.0, 1.0)
