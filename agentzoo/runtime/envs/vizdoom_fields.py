"""Outdoor fields for ViZDoom, written as text: maps (UDMF), actors (DECORATE), pictures, one WAD.

A field is a square meadow inside a fence, with trees, rocks, sheep and a pond. Its target is what
the task asks for, at least so far from the start as `far` says; everything else is scenery.
ZDoom builds the map's nodes itself, so that neither an editor nor a compiler is needed.

Formats: ZDoom's UDMF 1.1 specification, DECORATE and MAPINFO of its wiki, PNG's grAb chunk for the
point of a picture that stands on the ground.
"""

import math
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..policy.noise import derive_seed
from ..spec import Array

TASKS = ("harvest-tree", "reach-water", "shear-sheep")
FIELDS = 20  # of each split
SPLITS = ("train", "test")
POND_SIDES = 12
POND_RADIUS = 112.0
CLEAR_START = 96.0  # around the start nothing stands
TREE, SHEEP, ROCK = 20001, 20002, 20003  # editor numbers of our actors
PLAYER_START = 1
SHEAR = 119  # ZDoom's line special Thing_Damage
FENCE_HEIGHT = 144


@dataclass(frozen=True, kw_only=True)
class Far:
    """A distance: the field's side, the target's least distance, both in map units, and counts."""

    side: int
    least: int
    trees: int
    sheep: int


FAR = {
    "near": Far(side=1024, least=250, trees=8, sheep=6),
    "mid": Far(side=1536, least=450, trees=8, sheep=6),
    "far": Far(side=2048, least=700, trees=6, sheep=4),
}

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Positions of all objects of one field; the start is the origin."""

    side: int
    pond: Point
    trees: tuple[Point, ...]
    sheep: tuple[Point, ...]
    rocks: tuple[Point, ...]


def layout(task: str, far: str, number: int) -> Layout:
    """Field `number` of a task and distance: 0 to 19 to learn on, 20 to 39 to score on."""
    size, rng = FAR[far], random.Random(derive_seed("field", task, far, number))
    taken: list[tuple[Point, float]] = []

    def place(radius: float, least: float) -> Point:
        """A free place at least `least` from the start."""
        bound = size.side / 2 - radius - 32
        while True:
            at = (rng.uniform(-bound, bound), rng.uniform(-bound, bound))
            free = all(math.dist(at, other) > radius + room for other, room in taken)
            if free and math.hypot(*at) > least + radius:
                taken.append((at, radius))
                return at

    def least(one: str) -> float:
        return size.least if task == one else CLEAR_START

    # scenery that would be mistaken for the target is left out: it would be one
    pond = place(POND_RADIUS, least("reach-water"))
    trees = tuple(place(40.0, least("harvest-tree")) for _ in range(size.trees))
    sheep = tuple(place(40.0, least("shear-sheep")) for _ in range(size.sheep))
    rocks = tuple(place(32.0, CLEAR_START) for _ in range(6))
    return Layout(side=size.side, pond=pond, trees=trees, sheep=sheep, rocks=rocks)


def pond_corners(center: Point) -> list[Point]:
    """The corners of a pond, clockwise, as a sector's lines show their right side to it."""
    turns = [-2 * math.pi * k / POND_SIDES for k in range(POND_SIDES)]
    return [
        (center[0] + POND_RADIUS * math.cos(a), center[1] + POND_RADIUS * math.sin(a))
        for a in turns
    ]


# -- text ----------------------------------------------------------------------------------------


def udmf(field: Layout) -> str:
    """The map as ZDoom reads it."""
    half = field.side / 2
    fence = [(-half, -half), (-half, half), (half, half), (half, -half)]  # clockwise
    pond = pond_corners(field.pond)
    blocks = [_block("vertex", x=x, y=y) for x, y in (*fence, *pond)]
    for k in range(4):
        blocks.append(_block("linedef", v1=k, v2=(k + 1) % 4, sidefront=k, blocking=True))
    for k in range(POND_SIDES):
        front, back = 4 + 2 * k, 5 + 2 * k
        ends = {"v1": 4 + k, "v2": 4 + (k + 1) % POND_SIDES}
        blocks.append(_block("linedef", **ends, sidefront=front, sideback=back, twosided=True))
    blocks += [_block("sidedef", sector=0, texturemiddle="AZFENCE")] * 4
    blocks += [_block("sidedef", sector=1), _block("sidedef", sector=0)] * POND_SIDES
    common: dict[str, object] = {
        "heightfloor": 0, "heightceiling": FENCE_HEIGHT, "textureceiling": "F_SKY1",
        "lightlevel": 224,
    }  # fmt: skip
    blocks += [_block("sector", texturefloor=flat, **common) for flat in ("AZGRASS", "AZWATER")]
    blocks.append(_thing(PLAYER_START, (0.0, 0.0)))
    blocks += [_thing(TREE, at) for at in field.trees]
    blocks += [_thing(ROCK, at) for at in field.rocks]
    for number, at in enumerate(field.sheep, 1):
        # the player's use damages the sheep of this number, which is itself
        blocks.append(_thing(SHEEP, at, id=number, special=SHEAR, arg0=number, arg1=1000))
    return 'namespace = "zdoom";\n' + "".join(blocks)


def _thing(kind: int, at: Point, **more: object) -> str:
    modes = {"skill1": True, "skill2": True, "skill3": True, "skill4": True, "skill5": True}
    return _block("thing", x=at[0], y=at[1], type=kind, single=True, **modes, **more)


def _block(kind: str, **fields: object) -> str:
    return f"{kind} {{ " + " ".join(f"{k} = {_literal(v)};" for k, v in fields.items()) + " }\n"


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.3f}"
    return f'"{value}"' if isinstance(value, str) else str(value)


def decorate(task: str) -> str:
    """The actors. One statement a line: two on one line end the engine with a segmentation fault.

    Only the task's target can be hit or sheared, and counts as killed then.
    """
    can = {
        "harvest-tree": "+SHOOTABLE\n  +COUNTKILL" if task == "harvest-tree" else "",
        "shear-sheep": "+SHOOTABLE\n  +COUNTKILL\n  +USESPECIAL" if task == "shear-sheep" else "",
    }
    return f"""\
actor FieldPlayer : DoomPlayer
{{
  Player.StartItem "Fist"
  Player.WeaponSlot 1, Fist
  Player.DisplayName "Walker"
}}

actor FieldTree {TREE}
{{
  Health 1
  Radius 20
  Height 112
  Mass 100000
  +SOLID
  +NOBLOOD
  +DONTTHRUST
  {can["harvest-tree"]}
  States
  {{
  Spawn:
    AZTR A -1
    Stop
  Death:
    AZTR B -1
    Stop
  }}
}}

actor FieldSheep {SHEEP}
{{
  Health 1
  Radius 22
  Height 44
  Speed 2
  Mass 100000
  MONSTER
  -SHOOTABLE
  -COUNTKILL
  +NOBLOOD
  DamageFactor "Melee", 0
  {can["shear-sheep"]}
  States
  {{
  Spawn:
    AZSH A 1
    Goto See
  See:
    AZSH AAAABBBB 4 A_Wander
    Loop
  Death:
    AZSH C -1
    Stop
  }}
}}

actor FieldRock {ROCK}
{{
  Radius 24
  Height 32
  +SOLID
  States
  {{
  Spawn:
    AZRK A -1
    Stop
  }}
}}
"""


def mapinfo() -> str:
    """The maps' names, their sky, and who the player is."""
    maps = [
        f'map {map_name(k)} "Field {k}"\n{{\n  sky1 = "AZSKY"\n  allowjump\n  nointermission\n}}\n'
        for k in range(FIELDS)
    ]
    return "".join(maps) + 'gameinfo\n{\n  playerclasses = "FieldPlayer"\n}\n'


def map_name(index: int) -> str:
    """The name of a split's map by its index, as the engine wants it."""
    return f"MAP{index + 1:02d}"


# -- pictures ------------------------------------------------------------------------------------

CLEAR = (0, 0, 0, 0)


def _speckled(height: int, width: int, colors: Sequence[tuple[int, int, int]], seed: str) -> Array:
    """A texture of colours drawn pixel by pixel, (height, width, 4) uint8."""
    rng = random.Random(derive_seed("texture", seed))
    pixels = [colors[int(rng.random() * len(colors))] for _ in range(height * width)]
    rgb = np.array(pixels, np.uint8).reshape(height, width, 3)
    return np.concatenate([rgb, np.full((height, width, 1), 255, np.uint8)], -1)


def _disc(image: Array, x: float, y: float, rx: float, ry: float, paint: Array) -> None:
    """Fill an ellipse of a picture with a texture of its size."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    inside = ((columns - x) / rx) ** 2 + ((rows - y) / ry) ** 2 <= 1
    image[inside] = paint[inside]


def _blank(height: int, width: int) -> Array:
    return np.zeros((height, width, 4), np.uint8)


def _tree(is_standing: bool) -> Array:
    image = _blank(112, 80)
    bark = _speckled(112, 80, [(83, 63, 31), (103, 79, 43), (71, 51, 27)], "bark")
    leaves = _speckled(112, 80, [(31, 91, 23), (47, 115, 35), (23, 71, 19)], "leaves")
    top = 50 if is_standing else 98
    image[top:, 34:46] = bark[top:, 34:46]
    if is_standing:
        for x, y, r in ((40, 30, 30), (20, 46, 19), (60, 46, 19), (40, 54, 24)):
            _disc(image, x, y, r, r, leaves)
    return image


def _sheep(step: int, is_shorn: bool = False) -> Array:
    image = _blank(48, 64)
    wool = _speckled(48, 64, [(239, 239, 239), (255, 255, 255), (219, 219, 219)], "wool")
    skin = _speckled(48, 64, [(207, 163, 127), (191, 143, 107)], "skin")
    dark = _speckled(48, 64, [(43, 35, 15), (59, 47, 23)], "face")
    for x in (16, 24, 40, 48):
        shift = 2 * step if x in (16, 40) else -2 * step
        image[34:48, x + shift : x + shift + 4] = dark[34:48, x + shift : x + shift + 4]
    coat, r = (skin, 13) if is_shorn else (wool, 17)
    _disc(image, 32, 24, r + 10, r, coat)
    _disc(image, 8, 18, 8, 9, dark)
    return image


def _rock() -> Array:
    image = _blank(36, 56)
    stone = _speckled(36, 56, [(103, 103, 103), (123, 123, 123), (87, 87, 87)], "stone")
    _disc(image, 28, 30, 27, 24, stone)
    _disc(image, 18, 18, 14, 15, stone)
    return image


SPRITES: dict[str, Callable[[], Array]] = {
    "AZTRA0": lambda: _tree(True),
    "AZTRB0": lambda: _tree(False),
    "AZSHA0": lambda: _sheep(0),
    "AZSHB0": lambda: _sheep(1),
    "AZSHC0": lambda: _sheep(0, is_shorn=True),
    "AZRKA0": _rock,
}
TEXTURES: dict[str, Callable[[], Array]] = {
    "AZGRASS": lambda: _speckled(64, 64, [(63, 131, 47), (75, 143, 55), (83, 151, 63)], "grass"),
    "AZWATER": lambda: _speckled(64, 64, [(0, 0, 203), (0, 0, 227), (55, 55, 255)], "water"),
    "AZFENCE": lambda: _speckled(144, 64, [(131, 99, 59), (147, 115, 71), (119, 87, 47)], "fence"),
    "AZSKY": lambda: _speckled(128, 256, [(115, 151, 255), (127, 163, 255)], "sky"),
}


def png(image: Array, *, stands: bool) -> bytes:
    """A picture (h, w, 4) uint8 as PNG; one that stands has the middle of its foot as origin."""
    height, width = image.shape[:2]
    # filter type 0 before each line
    raw = b"".join(b"\0" + image[y].tobytes() for y in range(height))
    chunks = [_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))]
    if stands:
        chunks.append(_chunk(b"grAb", struct.pack(">ii", width // 2, height)))
    chunks += [_chunk(b"IDAT", zlib.compress(raw, 9)), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


# -- the file ------------------------------------------------------------------------------------


def wad(task: str, far: str, split: str) -> bytes:
    """All fields of a task, a distance and a split, as one file that ViZDoom loads."""
    lumps = [("MAPINFO", mapinfo().encode()), ("DECORATE", decorate(task).encode())]
    first = FIELDS * SPLITS.index(split)
    for index in range(FIELDS):
        text = udmf(layout(task, far, first + index)).encode()
        lumps += [(map_name(index), b""), ("TEXTMAP", text), ("ENDMAP", b"")]
    lumps.append(("S_START", b""))
    lumps += [(name, png(paint(), stands=True)) for name, paint in SPRITES.items()]
    lumps += [("S_END", b""), ("TX_START", b"")]
    lumps += [(name, png(paint(), stands=False)) for name, paint in TEXTURES.items()]
    lumps.append(("TX_END", b""))
    return _archive(lumps)


def _archive(lumps: Sequence[tuple[str, bytes]]) -> bytes:
    """A PWAD: header, contents, directory (id Software's format)."""
    directory, content = b"", b""
    for name, lump in lumps:
        directory += struct.pack("<ii8s", 12 + len(content), len(lump), name.encode())
        content += lump
    return struct.pack("<4sii", b"PWAD", len(lumps), 12 + len(content)) + content + directory
