"""Time of one Dreamer update from pixels: ours, and sheeprl's `dreamer_v1` at equal sizes.

    python benchmarks/dreamer_pixels_update.py --peer-python PEER/bin/python [--rounds 4]

An update is one gradient step of model, actor and value on a prepared random batch of 50 windows
of 50 images, in float32, without compilation. Ours and the peer take turns (paired_timing.py). The
floor
beside them is what an update's convolutions and products take one by one: each layer's convolution
at its sizes, forth and back, in the faster of two memory formats, and all products at the rate of
a large one. With `--bf16` ours takes turns in `precision="bf16"`, too.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import median

import torch
import torch.nn.functional as F
from models import ACTION_SIZE, PIXELS, Clock, box, seconds, setting, untrained
from paired_timing import (
    BATCHES,
    CLOCKS,
    HEAD,
    OURS,
    PEER,
    Ours,
    Peer,
    Side,
    arguments,
    footnote,
    measure,
    rate,
    rows,
)
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from agentzoo.agents.dreamer import DreamerAlgorithm, DreamerConfig
from agentzoo.algorithm import Batch
from agentzoo.blocks.decoders import OnePixelConvTranspose2d

SIZES = ("batch_size", "batch_length", "horizon", "depth", "units", "state_layers",
         "reward_layers", "value_layers", "actor_layers", "stoch", "deter", "hidden")  # fmt: skip
BF16 = f"{OURS}, bf16"
FORMATS = {"channels last": torch.channels_last, "channels first": torch.contiguous_format}
TURNS = 3  # of each layer; the fastest counts, as it is a floor


def batch(config: DreamerConfig, seed: int) -> Batch:
    """Random transitions as replay gives them; each window begins an episode."""
    draw = torch.Generator().manual_seed(seed)
    lead = config.batch_size, config.batch_length
    never = torch.zeros(lead, dtype=torch.bool)
    is_first = never.clone()
    is_first[:, 0] = True
    image = torch.randint(256, (*lead, 64, 64, 3), dtype=torch.uint8, generator=draw)
    return {
        "image": image,
        "prev_action": 2 * torch.rand(*lead, ACTION_SIZE, generator=draw) - 1,
        "reward": torch.rand(*lead, generator=draw),
        "is_first": is_first,
        "is_last": never,
        "is_terminal": never,
    }


def ours(precision: str, clock: Clock) -> Ours:
    """Dreamer of the paper's sizes with the weights of seed 0."""
    algorithm = untrained("dmc_vision", PIXELS, box(ACTION_SIZE))
    algorithm.config = replace(algorithm.config, precision=precision)
    return Ours(algorithm, [batch(algorithm.config, k) for k in range(BATCHES)], clock)


@dataclass(frozen=True)
class Layer:
    """One convolution by itself: its work, and the fastest time of both directions.

    Attributes:
        name: kind, channels and kernel.
        flops: forth and back.
        memory: the faster memory format.
        forth: seconds.
        back: seconds, to the weights and, but for the first layer, to the input.
    """

    name: str
    flops: int
    memory: str
    forth: float
    back: float

    @property
    def row(self) -> str:
        """A line of the table."""
        took = self.forth + self.back
        cells = [self.name, f"{self.flops / 1e9:.0f}", f"{self.forth:.2f}", f"{self.back:.2f}"]
        return f"| {' | '.join([*cells, f'{self.flops / took / 1e9:.0f}', self.memory])} |"


def convolutions(algorithm: DreamerAlgorithm) -> Iterator[tuple[nn.Module, int, bool]]:
    """Each convolution, the side of its input, and whether the input wants a gradient."""
    assert algorithm.encoder.image is not None
    assert algorithm.decoder.image is not None
    for number, (layer, side) in enumerate(
        zip(algorithm.encoder.image.layers, (64, 31, 14, 6), strict=True)
    ):
        yield layer, side, number > 0
    for layer, side in zip(algorithm.decoder.image.layers, (1, 5, 13, 30), strict=True):
        if not isinstance(layer, OnePixelConvTranspose2d):  # a product, and counted as one
            yield layer, side, True


def timed(layer: nn.Module, side: int, wanted: bool, images: int, clock: Clock) -> Layer:
    """A convolution by itself on that many images."""
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    kind, a, b = type(layer).__name__, layer.in_channels, layer.out_channels
    name = f"{kind} {a} to {b}, kernel {layer.kernel_size[0]}, {side}x{side}"
    with FlopCounterMode(display=False) as counter:
        _once(layer, side, wanted, images, torch.channels_last, clock)
    times = {
        word: [_once(layer, side, wanted, images, memory, clock) for _ in range(TURNS)]
        for word, memory in FORMATS.items()
    }
    word = min(times, key=lambda w: min(map(sum, times[w])))
    return Layer(name, counter.get_total_flops(), word, *min(times[word], key=sum))


def _once(
    layer: nn.Module,
    side: int,
    wanted: bool,
    images: int,
    memory: torch.memory_format,
    clock: Clock,
) -> tuple[float, float]:
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    x = torch.randn(images, layer.in_channels, side, side).contiguous(memory_format=memory)
    weight = layer.weight.detach().contiguous(memory_format=memory).requires_grad_()
    convolve = F.conv2d if isinstance(layer, nn.Conv2d) else F.conv_transpose2d
    found: list[Tensor] = []
    x.requires_grad_(wanted)
    forth = seconds(lambda: found.append(convolve(x, weight, stride=2)), clock)
    up, wants = torch.ones_like(found[0]), [weight, x] if wanted else [weight]
    return forth, seconds(lambda: torch.autograd.grad(found[0], wants, up), clock)


def main() -> None:
    parser = arguments("How long one Dreamer update from pixels takes.", 4, 1)
    parser.add_argument("--bf16", action="store_true", help="ours in bf16 as well")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu, with --threads 1, on a busy machine"
    )
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    clock = CLOCKS[given.clock]
    sides: dict[str, Side] = {OURS: (mine := ours("fp32", clock))}
    if given.bf16:
        sides[BF16] = ours("bf16", clock)
    algorithm = mine.algorithm
    assert isinstance(algorithm, DreamerAlgorithm)
    config = algorithm.config
    if given.peer_python:
        sizes = {**{name: getattr(config, name) for name in SIZES}, "action": ACTION_SIZE}
        script = "sheeprl_dreamer_v1.py"
        sides[PEER] = Peer(script, given.peer_python, sizes, given.threads, clock=given.clock)
    images = config.batch_size * config.batch_length
    layers = [timed(*one, images, clock) for one in convolutions(algorithm)]
    times = measure(sides, given.rounds, given.updates, clock)
    print(setting(given.threads, "torch"), f"clock: {given.clock}\n", sep=", ")
    print(HEAD, *rows(sides, times), "", footnote(times, peer=PEER in sides), sep="\n")
    print("\n| convolution | GFLOP | forth, s | back, s | GFLOP/s | memory format |")
    print("|---|---:|---:|---:|---:|---|", *[layer.row for layer in layers], sep="\n")
    convolved = sum(layer.forth + layer.back for layer in layers)
    rest = (mine.about.flops - sum(layer.flops for layer in layers)) / rate(times)
    took = median(time for block in times[OURS] for time in block)
    print(
        f"\nThe floor: {convolved:.2f} s of convolutions and {rest:.2f} s of products, "
        f"{convolved + rest:.2f} s; ours takes {took / (convolved + rest):.2f} times as long."
    )


if __name__ == "__main__":
    main()
