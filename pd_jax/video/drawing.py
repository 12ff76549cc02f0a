"""One picture of teacher and student at play: their screens, what they want, what they do, and where they differ.

Pure: numbers and pixels in, pixels out.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

# Of Okabe and Ito's palette, as in the figures of reports, lightened for a dark ground.
TEACHER, STUDENT, DIFFERS, CHANCE = "#56B4E9", "#3ECDA3", "#F5A914", "#D58FBB"
GROUND, TRACK, INK, FAINT = "#11151B", "#262E39", "#F4F6F8", "#8D97A5"
_MARGIN, _GAP, _FRAME = 16, 14, 3
_TITLE, _HEAD, _STATUS, _ROW, _NARROW_ROW, _TIMELINE, _FOOT = 34, 44, 26, 18, 15, 32, 30
_LEAST_WIDTH = 232
_MOST_ROWS = 9
"""Of actions in one column, where a panel has room for two."""
_TWO_COLUMNS = 300


@dataclasses.dataclass(frozen=True)
class Panel:
    """What does not change of one player's half.

    Attributes:
      name: such as ``Teacher``.
      about: a few words about its network.
      other: what the other player is called in a sentence, such as ``student``.
      colour: as ``#RRGGBB``.
    """

    name: str
    about: str
    other: str
    colour: str


@dataclasses.dataclass(frozen=True)
class Pair:
    """What does not change of a teacher and a student that play one game from one start.

    Attributes:
      title: the game.
      about: a few words about the start.
      action_names: in the order of the outputs.
      screen_size: width and height of what is shown, before it is scaled.
      panels: the teacher's and the student's.
      steps: decisions that the timeline has room for.
    """

    title: str
    about: str
    action_names: Sequence[str]
    screen_size: tuple[int, int]
    panels: tuple[Panel, Panel]
    steps: int


@dataclasses.dataclass(frozen=True)
class Moment:
    """One player at one decision.

    Attributes:
      screen: uint8 ``[H, W, 3]``.
      shares: ``[actions]`` lengths of the bars, 0 to 1.
      labels: of the bars, one each.
      action: what it does; None where its game is over.
      wish: what it would do without chance.
      other_wish: what the other player would do in its place.
      score: so far.
      step: the decision's number, from 0.
      seconds: of play, at the pace of people.
      is_chance: whether the action was drawn at random.
      ending: what is said of a game that is over; None while it goes on.
      differs: bool ``[decisions so far]``, where the two would differ, this one included.
      agreement: share of all decisions so far in which they would not; None before there are any.
    """

    screen: np.ndarray
    shares: np.ndarray
    labels: Sequence[str]
    action: int | None
    wish: int
    other_wish: int
    score: float
    step: int
    seconds: float
    is_chance: bool
    ending: str | None
    differs: np.ndarray
    agreement: float | None


class Canvas:
    """Draws pairs in a grid; what does not change is drawn once.

    Args:
      pairs: at least one.
      scale: pixels for one of a screen's.

    Attributes:
      size: width and height of the pictures in pixels, both even, as video codecs want them.
    """

    def __init__(self, pairs: Sequence[Pair], scale: float) -> None:
        self._pairs, self._scale = pairs, scale
        self._columns = grid_columns(len(pairs))
        self._width = max(_LEAST_WIDTH, *(round(pair.screen_size[0] * scale) for pair in pairs))
        self._screen_height = max(round(pair.screen_size[1] * scale) for pair in pairs)
        most = max(len(pair.action_names) for pair in pairs)
        self._row = _ROW if most <= _MOST_ROWS else _NARROW_ROW
        self._bar_columns = 2 if most > _MOST_ROWS and self._width >= _TWO_COLUMNS else 1
        self._rows = -(-most // self._bar_columns)
        self._pair_width = 2 * self._width + _GAP + 2 * _MARGIN
        self._bars_top = _TITLE + _HEAD + self._screen_height + 2 * _FRAME + _STATUS
        self._pair_height = self._bars_top + self._rows * self._row + _TIMELINE + _FOOT
        rows = -(-len(pairs) // self._columns)
        width, height = self._columns * self._pair_width, rows * self._pair_height + 8
        self.size = (width + width % 2, height + height % 2)
        self._ground = self._draw_ground()

    def draw(self, moments: Sequence[tuple[Moment, Moment]]) -> np.ndarray:
        """Draws a picture uint8 ``[height, width, 3]``.

        Args:
          moments: of each pair, the teacher's and the student's.
        """
        image = self._ground.copy()
        draw = ImageDraw.Draw(image)
        for number, (pair, both) in enumerate(zip(self._pairs, moments, strict=True)):
            for side, (panel, moment) in enumerate(zip(pair.panels, both, strict=True)):
                self._draw_moment(image, draw, self._corner(number, side), pair, panel, moment)
        return np.asarray(image)

    def _corner(self, number: int, side: int) -> tuple[int, int]:
        row, column = divmod(number, self._columns)
        x = column * self._pair_width + _MARGIN + side * (self._width + _GAP)
        return x, row * self._pair_height

    def _draw_ground(self) -> Image.Image:
        image = Image.new("RGB", self.size, GROUND)
        draw = ImageDraw.Draw(image)
        for number, pair in enumerate(self._pairs):
            x, y = self._corner(number, 0)
            right = x + 2 * self._width + _GAP
            title = fitted(pair.title, 17, right - x, bold=True)
            draw.text((x, y + 21), title, INK, font(17, bold=True), "ls")
            room = right - x - text_width(title, 17, bold=True) - 16
            draw.text((right, y + 21), fitted(pair.about, 11, room), FAINT, font(11), "rs")
            self._draw_legend(draw, x, y + self._pair_height - _FOOT + 16)
            for side, panel in enumerate(pair.panels):
                x, y = self._corner(number, side)
                draw.text((x, y + _TITLE + 14), panel.name, panel.colour, font(15, bold=True), "ls")
                draw.text((x, y + _TITLE + 32), fitted(panel.about, 11, self._width - 70), FAINT, font(11), "ls")
                for index, name in enumerate(pair.action_names):
                    left, _, _, top = self._bar_place(pair, index)
                    self._draw_name(draw, x + left, y + top, name, FAINT, pair)
        return image

    def _draw_legend(self, draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
        for colour, words in ((DIFFERS, "where the two would differ"), (CHANCE, "a random action")):
            draw.rectangle((x, y - 7, x + 7, y), colour)
            draw.text((x + 13, y + 1), words, FAINT, font(11), "ls")
            x += 13 + round(text_width(words, 11)) + 18

    def _name_width(self, pair: Pair) -> int:
        return math.ceil(max(text_width(name, self._font_size, bold=True) for name in pair.action_names)) + 10

    @property
    def _font_size(self) -> int:
        return 12 if self._row == _ROW else 10

    def _bar_place(self, pair: Pair, index: int) -> tuple[int, int, int, int]:
        """Of an action within its panel: left ends of its name and bar, right end of the bar, and top of the row."""
        column, row = divmod(index, self._rows)
        width = (self._width - (self._bar_columns - 1) * _GAP) // self._bar_columns
        left = column * (width + _GAP)
        return left, left + self._name_width(pair), left + width - self._label_width, self._bars_top + row * self._row

    @property
    def _label_width(self) -> int:
        """Beside a bar; in two columns there is no room for labels."""
        return 40 if self._bar_columns == 1 else 0

    def _draw_name(self, draw: ImageDraw.ImageDraw, x: int, y: int, name: str, colour: str, pair: Pair) -> None:
        is_bold = colour != FAINT
        draw.text((x, y + self._row - 5), name, colour, font(self._font_size, bold=is_bold), "ls")

    def _draw_moment(
        self,
        image: Image.Image,
        draw: ImageDraw.ImageDraw,
        corner: tuple[int, int],
        pair: Pair,
        panel: Panel,
        moment: Moment,
    ) -> None:
        x, y = corner
        right = x + self._width
        differs = moment.ending is None and moment.wish != moment.other_wish
        draw.text((right, y + _TITLE + 15), spell(moment.score), INK, font(21, bold=True), "rs")
        draw.text((right, y + _TITLE + 32), f"step {moment.step:,}", FAINT, font(11), "rs")
        self._draw_screen(image, draw, x, y + _TITLE + _HEAD, pair, moment, DIFFERS if differs else None)
        words, colour = self._status(pair, panel, moment, differs)
        draw.text((x, y + self._bars_top - 9), fitted(words, 12, self._width, bold=True), colour, font(12, True), "ls")
        for index, name in enumerate(pair.action_names):
            self._draw_bar(draw, x, y, pair, panel, moment, index, name, differs)
        self._draw_timeline(draw, x, y + self._bars_top + self._rows * self._row + 6, pair, panel, moment)

    def _draw_screen(
        self,
        image: Image.Image,
        draw: ImageDraw.ImageDraw,
        x: int,
        y: int,
        pair: Pair,
        moment: Moment,
        frame: str | None,
    ) -> None:
        width, height = (round(length * self._scale) for length in pair.screen_size)
        left, top = x + (self._width - width) // 2, y + (self._screen_height - height) // 2 + _FRAME
        screen = scaled(moment.screen, width, height)
        if moment.ending is not None:
            screen = Image.blend(screen, Image.new("RGB", screen.size, GROUND), 0.55)
        if frame is not None:
            draw.rectangle((left - _FRAME, top - _FRAME, left + width + _FRAME - 1, top + height + _FRAME - 1), frame)
        image.paste(screen, (left, top))
        if moment.ending is not None:
            middle = left + width // 2, top + height // 2
            draw.text(middle, moment.ending, INK, font(20, bold=True), "mm")

    def _status(self, pair: Pair, panel: Panel, moment: Moment, differs: bool) -> tuple[str, str]:
        if moment.ending is not None:
            return "", FAINT
        if differs:
            return f"the {panel.other} would: {pair.action_names[moment.other_wish]}", DIFFERS
        if moment.is_chance:
            return "a random action", CHANCE
        return "", FAINT

    def _draw_bar(
        self,
        draw: ImageDraw.ImageDraw,
        x: int,
        y: int,
        pair: Pair,
        panel: Panel,
        moment: Moment,
        index: int,
        name: str,
        differs: bool,
    ) -> None:
        left, begin, end, top = self._bar_place(pair, index)
        top += y
        is_chosen = index == moment.action
        strong = CHANCE if is_chosen and moment.is_chance else panel.colour
        if is_chosen:
            # Over the faint name of the ground.
            draw.rectangle((x + left, top, x + begin - 1, top + self._row - 1), GROUND)
            self._draw_name(draw, x + left, top, name, INK, pair)
        bar = (x + begin, top + 3, x + end, top + self._row - 4)
        draw.rectangle(bar, TRACK)
        share = float(min(max(moment.shares[index], 0.0), 1.0))
        length = round(share * (end - begin))
        if length:
            colour = strong if is_chosen else mixed(panel.colour, TRACK, 0.5)
            draw.rectangle((bar[0], bar[1], bar[0] + length, bar[3]), colour)
        if is_chosen:
            draw.rectangle((bar[0] - 3, bar[1] - 1, bar[0] - 1, bar[3] + 1), strong)
        if differs and index == moment.other_wish:
            draw.rectangle((bar[0] - 1, bar[1] - 1, bar[2] + 1, bar[3] + 1), outline=DIFFERS, width=2)
        if self._label_width:
            at = x + end + self._label_width, top + self._row - 5
            draw.text(at, moment.labels[index], INK if is_chosen else FAINT, font(self._font_size - 1), "rs")

    def _draw_timeline(
        self, draw: ImageDraw.ImageDraw, x: int, y: int, pair: Pair, panel: Panel, moment: Moment
    ) -> None:
        width = self._width
        draw.rectangle((x, y, x + width - 1, y + 5), TRACK)
        done = min(len(moment.differs), pair.steps)
        if done:
            end = max(1, round(done / pair.steps * width))
            draw.rectangle((x, y, x + end - 1, y + 5), mixed(panel.colour, TRACK, 0.45))
            for step in np.flatnonzero(moment.differs[:done]):
                at = min(int(step * width / pair.steps), width - 2)
                draw.rectangle((x + at, y - 1, x + at + 1, y + 6), DIFFERS)
        if moment.agreement is not None:
            words = f"the two agree in {percent(moment.agreement)}"
            draw.text((x, y + 21), fitted(words, 11, width - 44), FAINT, font(11), "ls")
        minutes, seconds = divmod(int(moment.seconds), 60)
        draw.text((x + width, y + 21), f"{minutes}:{seconds:02d}", FAINT, font(11), "rs")


def grid_columns(pairs: int) -> int:
    """Columns of a grid: a pair is about as high as it is wide, and three are best side by side."""
    return pairs if pairs <= 3 else math.ceil(math.sqrt(pairs))


def percent(share: float) -> str:
    """Such as ``97 %``; never 100 % where something is lacking."""
    return f"{math.floor(100 * share + 1e-9)} %"


def spell(score: float) -> str:
    """A score without the zeros that say nothing."""
    return f"{score:,.0f}" if float(score).is_integer() else f"{score:,.1f}"


@functools.cache
def mixed(colour: str, ground: str, share: float) -> tuple[int, int, int]:
    """So much of a colour, the rest of a ground."""
    parts = zip(ImageColor.getrgb(colour)[:3], ImageColor.getrgb(ground)[:3], strict=True)
    red, green, blue = (round(share * own + (1 - share) * other) for own, other in parts)
    return red, green, blue


@functools.cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which Matplotlib brings along."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}", size)


@functools.lru_cache(4096)
def text_width(words: str, size: int, bold: bool = False) -> float:
    """In pixels."""
    return font(size, bold).getlength(words)


@functools.lru_cache(4096)
def fitted(words: str, size: int, width: float, bold: bool = False) -> str:
    """Words on one line that are no wider than so many pixels; of what is left out an ellipsis tells."""
    words = " ".join(words.split())
    if text_width(words, size, bold) <= width:
        return words
    while words and text_width(f"{words}…", size, bold) > width:
        words = words[:-1]
    return f"{words.rstrip()}…" if words else ""


def scaled(screen: np.ndarray, width: int, height: int) -> Image.Image:
    """A screen of another size: its pixels stay sharp, and as large as one another."""
    image = Image.fromarray(screen)
    if image.size == (width, height):
        return image
    factor = math.ceil(max(width / image.width, height / image.height))
    whole = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    return whole.resize((width, height), Image.Resampling.BOX)
