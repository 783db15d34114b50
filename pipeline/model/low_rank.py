"""Low-rank adaptation of a large network: what is learned is small, the rest stays as it came.

LoRA (Hu et al. 2021, arXiv 2106.09685): a weight ``W`` becomes ``W + B A`` with ``A`` of ``rank``
rows. ``B`` begins at zero, so an adapted network begins as the one it adapts. Names in the saved
state are those of diffusers' and PEFT's LoRA files (``unet.NAME.lora_A.weight``, scale 1), so that
other software reads them. For running, `merge` adds the product to the weight once: nothing is
slower than without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize

ADAPTED = ("to_q", "to_k", "to_v", "to_out.0")
"""Ends of names: the projections of every attention, as in Hu et al. section 4.2."""

CONV_IN = "conv_in"
"""Learned in full: its channels for the CT have no weights of their own in a text-to-image model,
and a low rank on top of zeros would keep most of them at zero."""

PREFIX = "unet."


class LowRank(nn.Module):
    """The weight plus ``B A``; a parametrization of `torch.nn.utils.parametrize`.

    Args:
        weight: ``(out, in)``, what is adapted.
        rank: Rows of ``A``.
        generator: Draws ``A``.
    """

    def __init__(self, weight: Tensor, rank: int, generator: Generator) -> None:
        super().__init__()
        rows, columns = weight.shape
        drawn = torch.randn((rank, columns), generator=generator) / rank
        self.A = nn.Parameter(drawn.to(weight))
        self.B = nn.Parameter(torch.zeros((rows, rank)).to(weight))

    def forward(self, weight: Tensor) -> Tensor:
        """Weight of the adapted layer."""
        return weight + self.B @ self.A


def attach(unet: nn.Module, rank: int, generator: Generator) -> list[nn.Parameter]:
    """Freeze a network except for a low-rank part of its attentions and for `CONV_IN`.

    Returns:
        What is to be trained.

    Raises:
        ValueError: When the network has no attention to adapt.
    """
    unet.requires_grad_(False)
    learned: list[nn.Parameter] = []
    for _, layer in _adapted(unet):
        part = LowRank(layer.weight, rank, generator)
        parametrize.register_parametrization(layer, "weight", part)
        learned += [part.A, part.B]
    if not learned:
        raise ValueError(f"expected linear layers named {', '.join(ADAPTED)}, found none")
    first = unet.get_submodule(CONV_IN)
    first.requires_grad_(True)
    learned += first.parameters()
    return learned


def state_of(unet: nn.Module) -> dict[str, Tensor]:
    """What `attach` made trainable, by the names of a LoRA file."""
    state = {
        f"{PREFIX}{CONV_IN}.{name}": value.detach().clone()
        for name, value in unet.get_submodule(CONV_IN).named_parameters()
    }
    for name, layer in _adapted(unet):
        part = _part(layer)
        state[f"{PREFIX}{name}.lora_A.weight"] = part.A.detach().clone()
        state[f"{PREFIX}{name}.lora_B.weight"] = part.B.detach().clone()
    return state


def restore(unet: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Set what `attach` made trainable to a saved state.

    Raises:
        ValueError: When the state is of another network or rank.
    """
    _check(unet, state)
    with torch.no_grad():
        for name, value in unet.get_submodule(CONV_IN).named_parameters():
            value.copy_(state[f"{PREFIX}{CONV_IN}.{name}"])
        for name, layer in _adapted(unet):
            part = _part(layer)
            for parameter, kind in ((part.A, "A"), (part.B, "B")):
                saved = state[f"{PREFIX}{name}.lora_{kind}.weight"]
                if saved.shape != parameter.shape:
                    raise ValueError(
                        f"{name} has shape {tuple(parameter.shape)}, saved is {tuple(saved.shape)}:"
                        " train with the rank of the saved state, or into another folder"
                    )
                parameter.copy_(saved)


def merge(unet: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Add a saved state to the weights of a network that nothing is attached to.

    Raises:
        ValueError: When the state is of another network.
    """
    _check(unet, state)
    with torch.no_grad():
        for name, value in unet.get_submodule(CONV_IN).named_parameters():
            value.copy_(state[f"{PREFIX}{CONV_IN}.{name}"])
        for name, layer in _adapted(unet):
            a, b = (state[f"{PREFIX}{name}.lora_{kind}.weight"].float() for kind in ("A", "B"))
            if (b.shape[0], a.shape[1]) != layer.weight.shape:
                raise ValueError(f"the state does not fit {name} {tuple(layer.weight.shape)}")
            layer.weight.copy_(layer.weight.float() + b @ a)


def _adapted(unet: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    for name, layer in list(unet.named_modules()):
        if isinstance(layer, nn.Linear) and name.endswith(ADAPTED):
            yield name, layer


def _part(layer: nn.Linear) -> LowRank:
    parts = getattr(layer, "parametrizations", None)
    if parts is None:
        raise ValueError("nothing is attached to this network")
    part = parts.weight[0]
    assert isinstance(part, LowRank)
    return part


def _check(unet: nn.Module, state: Mapping[str, Tensor]) -> None:
    expected = {f"{PREFIX}{name}.lora_{k}.weight" for name, _ in _adapted(unet) for k in "AB"}
    first = unet.get_submodule(CONV_IN).named_parameters()
    expected |= {f"{PREFIX}{CONV_IN}.{name}" for name, _ in first}
    differing = sorted(expected ^ state.keys())
    if differing:
        raise ValueError(f"the LoRA is of another network; first difference: {differing[0]}")
