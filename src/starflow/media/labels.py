"""Lines of text above pictures, in any script that a font of the machine has."""

from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

LABEL_HEIGHT, FONT_SIZE = 22, 14  # pixels
# Tried after Pillow's own font, which has Latin letters only.
FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc"),  # Linux
    *("Arial Unicode.ttf", "PingFang.ttc", "AppleGothic.ttf"),  # macOS
    *("segoeui.ttf", "msyh.ttc", "malgun.ttf", "YuGothM.ttc"),  # Windows
)
MISSING = "\uffff"  # a character that no font has

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def label(text: str, width: int) -> Image.Image:
    """A picture of one line of black text on white, `width` pixels wide; a longer text is cut off.

    Characters that no font has are shown as question marks.
    """
    image = Image.new("RGB", (width, LABEL_HEIGHT), "white")
    line = " ".join(text[: 2 * width].split())  # no letter is narrower than a pixel
    font = max(_fonts(), key=lambda each: sum(_has(each, character) for character in line))
    line = "".join(character if _has(font, character) else "?" for character in line)
    ImageDraw.Draw(image).text((2, 3), _shortened(line, width - 4, font), fill="black", font=font)
    return image


def _shortened(line: str, width: int, font: Font) -> str:
    """The beginning of a line that fits into a width in pixels."""
    if font.getlength(line) <= width:
        return line
    shortest, longest = 0, len(line)
    while shortest < longest:
        middle = (shortest + longest + 1) // 2
        if font.getlength(line[:middle] + "…") <= width:
            shortest = middle
        else:
            longest = middle - 1
    return line[:shortest] + "…"


@lru_cache
def _fonts() -> list[Font]:
    """Pillow's own font, and those of `FONTS` that the machine has."""
    fonts: list[Font] = [ImageFont.load_default(size=FONT_SIZE)]
    for name in FONTS:
        try:
            fonts.append(ImageFont.truetype(name, FONT_SIZE))
        except OSError:
            continue
    return fonts


@lru_cache(maxsize=4096)
def _has(font: Font, character: str) -> bool:
    """Whether a font has a character: whether it is not drawn like a missing one."""
    return character.isspace() or _drawn(font, character) != _drawn(font, MISSING)


def _drawn(font: Font, character: str) -> bytes:
    mask = font.getmask(character)
    return bytes(mask) + repr(mask.size).encode()
