"""SPADE's generator in plain PyTorch, from the paper's description: the independent reference that
converted weights are compared with. Nothing of it knows our layers."""

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import spectral_norm

CHANNELS = 184


class Norm(nn.Module):
    """Paper, equation 1 and figure 2: normalised activations, modulated by maps of the layout."""

    def __init__(self, channels, hidden):
        super().__init__()
        self.param_free_norm = nn.BatchNorm2d(channels, affine=False)
        self.mlp_shared = nn.Sequential(nn.Conv2d(CHANNELS, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x, layout):
        hidden = self.mlp_shared(functional.interpolate(layout, x.shape[2:], mode="nearest"))
        return self.param_free_norm(x) * (1 + self.mlp_gamma(hidden)) + self.mlp_beta(hidden)


class Block(nn.Module):
    """Paper, figure 4 left: two convolutions, and a learned shortcut where the width changes."""

    def __init__(self, inputs, outputs, hidden):
        super().__init__()
        middle = min(inputs, outputs)
        self.norm_0, self.norm_1 = Norm(inputs, hidden), Norm(middle, hidden)
        self.conv_0 = spectral_norm(nn.Conv2d(inputs, middle, 3, padding=1))
        self.conv_1 = spectral_norm(nn.Conv2d(middle, outputs, 3, padding=1))
        self.learned = inputs != outputs
        if self.learned:
            self.norm_s = Norm(inputs, hidden)
            self.conv_s = spectral_norm(nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x, layout):
        y = self.conv_0(functional.leaky_relu(self.norm_0(x, layout), 0.2))
        y = self.conv_1(functional.leaky_relu(self.norm_1(y, layout), 0.2))
        return y + (self.conv_s(self.norm_s(x, layout)) if self.learned else x)


class Generator(nn.Module):
    """layout: float (B, 184, H, W) -> pictures (B, 3, H, W)."""

    def __init__(self, ngf, hidden):
        super().__init__()
        self.fc = nn.Conv2d(CHANNELS, 16 * ngf, 3, padding=1)
        self.head_0 = Block(16 * ngf, 16 * ngf, hidden)
        self.G_middle_0 = Block(16 * ngf, 16 * ngf, hidden)
        self.G_middle_1 = Block(16 * ngf, 16 * ngf, hidden)
        self.up_0 = Block(16 * ngf, 8 * ngf, hidden)
        self.up_1 = Block(8 * ngf, 4 * ngf, hidden)
        self.up_2 = Block(4 * ngf, 2 * ngf, hidden)
        self.up_3 = Block(2 * ngf, ngf, hidden)
        self.conv_img = nn.Conv2d(ngf, 3, 3, padding=1)

    def forward(self, layout):
        height, width = layout.shape[2:]
        x = functional.interpolate(layout, (height // 32, width // 32), mode="nearest")
        x = self.head_0(self.fc(x), layout)
        x = self.G_middle_0(_up(x), layout)
        x = self.G_middle_1(x, layout)
        for block in (self.up_0, self.up_1, self.up_2, self.up_3):
            x = block(_up(x), layout)
        return torch.tanh(self.conv_img(functional.leaky_relu(x, 0.2)))


def _up(x):
    return functional.interpolate(x, scale_factor=2, mode="nearest")


def trained(ngf, hidden, layout):
    """A generator that has seen `layout` in training mode: its running statistics and the vectors
    of spectral norm are no longer those of the start, nor those of the end."""
    torch.manual_seed(0)
    generator = Generator(ngf, hidden)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3)
        for _ in range(4):
            generator(layout)
    return generator.eval()
