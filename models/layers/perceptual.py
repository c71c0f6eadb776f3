"""Features of VGG19 that tell how alike two pictures look (Johnson et al. 2016)."""

from __future__ import annotations

import tensorflow as tf

LAYERS = tuple(f"block{i}_conv1" for i in range(1, 6))


class PerceptualFeatures(tf.keras.layers.Layer):
    """Maps of five layers of VGG19, frozen, of pictures float32 (B, H, W, 3) in [-1, 1]."""

    title = "VGG19"

    def __init__(self, **kwargs):
        super().__init__(trainable=False, **kwargs)
        full = self.published(None)
        self.net = tf.keras.Model(full.input, [full.get_layer(name).output for name in LAYERS])

    def call(self, pictures: tf.Tensor) -> list[tf.Tensor]:
        return self.net(tf.keras.applications.vgg19.preprocess_input(127.5 * (pictures + 1.0)))

    def published(self, weights: str | None, image_size: int | None = None) -> tf.keras.Model:
        """Return Keras' own VGG19, for pictures of any size."""
        return tf.keras.applications.VGG19(False, weights, input_shape=(None, None, 3))

    def load_from(self, keras_model: tf.keras.Model) -> None:
        """Copy the variables of a `published` model, up to the last layer in use."""
        values = keras_model.get_weights()
        self.net.set_weights(values[: len(self.net.weights)])
