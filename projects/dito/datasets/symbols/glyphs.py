# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The categories of the ``symbols`` data set: pictographs with names.

Every category is one glyph of DejaVu Sans, the font matplotlib ships. The
table was chosen by hand from contact sheets of the font: names a user would
type, one glyph a shape (no white and black versions, no mirrored twins, so a
horizontal flip keeps a label true), no letters, and no religious, political
or national emblem that may offend. Pairs that remained were compared as
band-pass filtered silhouettes, boxes aligned, over small scales, rotations
and a flip; no pair reaches a correlation of 0.90, which a test measures.

The frequency group is fixed here rather than drawn from a seed, so that a
vocabulary and a trained tower stay valid for every build of the set:
``r`` = rare = novel (a quarter of the categories), ``c`` = common,
``f`` = frequent.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Tuple

# group, code point, name | synonyms
_TABLE = """
    c 1F0A1 ace of spades
    f 02708 airplane | aeroplane, plane
    r 02697 alembic | still
    c 00026 ampersand | and sign
    f 02693 anchor | ship anchor
    c 1F607 angel face | face with halo
    f 02625 ankh
    r 02652 aquarius sign | aquarius
    f 02648 aries sign | aries
    r 027A4 arrowhead
    c 02731 asterisk
    c 00040 at sign
    f 0269B atom symbol | atom
    c 02696 balance scale | scales, weighing scale
    r 0266B beamed note | pair of music notes
    f 02623 biohazard sign | biohazard symbol
    c 0273F blossom | florette
    r 029D3 bow tie | bowtie
    f 025CE bullseye | target
    c 02624 caduceus
    c 0264B cancer sign | crab sign
    f 02651 capricorn sign | capricorn
    r 1F431 cat | cat face
    f 02714 check mark | tick
    f 02611 checked box | ticked box
    c 02592 checkerboard
    c 0265D chess bishop | bishop
    r 0265A chess king | king
    f 0265E chess knight | knight
    r 0265F chess pawn | pawn
    c 0265B chess queen | queen
    f 0265C chess rook | rook, castle
    f 025CF circle | disc
    c 025D9 circle in a square
    r 021BB circular arrow | refresh arrow
    c 02601 cloud
    f 02663 club | clubs
    f 02615 coffee cup | cup of coffee, hot beverage
    c 026B0 coffin | casket
    r 02604 comet | shooting star
    c 02742 compass rose
    r 1F42E cow | cow face
    f 0263E crescent moon | moon
    c 02718 cross mark | x mark
    f 02692 crossed hammers | hammer and pick
    f 02694 crossed swords | swords
    c 1F62D crying face
    r 021B6 curved arrow
    c 02741 daisy
    c 0232B delete key | erase key
    r 1F608 devil face | face with horns
    f 02B08 diagonal arrow
    f 02666 diamond
    f 02684 die | dice
    r 000F7 division sign
    c 00024 dollar sign
    f 1F093 domino | domino tile
    c 025CC dotted circle
    c 02B1A dotted square
    r 025C8 double diamond | nested diamonds
    r 025A3 double square | nested squares
    f 02B0C double-headed arrow | left-right arrow
    c 02B07 down arrow
    f 02738 eight-pointed star
    r 023CF eject button | eject symbol
    c 02709 envelope | letter, mail
    f 020AC euro sign
    c 02762 exclamation mark
    f 1F637 face with mask | masked face
    r 1F60E face with sunglasses | sunglasses face
    f 027B3 feathered arrow | dart
    c 02640 female sign | venus sign
    c 02691 flag | black flag
    r 0266D flat sign | flat
    c 0269C fleur-de-lis
    f 02766 floral heart | ivy leaf
    f 02698 flower
    f 02726 four-pointed star
    c 02639 frowning face | sad face
    r 02699 gear | cogwheel, cog
    r 0264A gemini sign | gemini
    c 025A6 grid
    f 025D0 half-filled circle
    c 0260A headphones
    f 02665 heart
    r 02668 hot spring | steam
    f 02302 house | home
    c 0221E infinity sign | infinity
    c 025BC inverted triangle
    f 1F0CF joker card | joker
    c 02643 jupiter sign
    r 026B7 key | old key
    c 02328 keyboard | computer keyboard
    r 0264C leo sign | leo
    f 0264E libra sign | libra
    f 026A1 lightning bolt | thunderbolt
    c 02318 looped square | command key
    r 02642 male sign | mars sign
    f 02630 menu button | three bars
    c 0263F mercury sign
    f 1F435 monkey | monkey face
    f 1F42D mouse | mouse face
    c 0266A music note | eighth note, quaver
    r 02646 neptune sign | trident
    r 0262E peace sign | peace symbol
    f 0270F pencil
    c 00025 percent sign
    c 02706 phone receiver | telephone handset
    r 02653 pisces sign | pisces
    f 0271A plus sign | plus
    c 0261B pointing hand | pointing finger
    f 0003F question mark
    c 0275D quotation mark | quotes
    f 02622 radiation sign | radioactive sign
    c 0267B recycling symbol | recycling sign
    r 025E2 right triangle
    f 025EF ring
    r 02650 sagittarius sign | sagittarius
    c 02644 saturn sign
    f 02702 scissors | pair of scissors
    c 0264F scorpio sign | scorpius sign
    f 1F631 screaming face
    c 02618 shamrock | clover
    r 0266F sharp sign
    r 027A1 sideways arrow
    c 02620 skull and crossbones | skull
    f 1F634 sleeping face
    f 0263A smiling face | smiley
    c 02744 snowflake
    f 02603 snowman
    r 02660 spade
    c 025A0 square
    f 021DD squiggly arrow | wavy arrow
    f 026C3 stack of checkers | draughts king
    r 02605 star | five-pointed star
    c 02600 sun
    f 0273A sunburst
    c 021C4 swap arrows
    r 02707 tape reel | tape drive
    c 02649 taurus sign | taurus
    f 0260E telephone | rotary phone
    f 025B2 triangle
    r 02602 umbrella | brolly
    c 02B06 up arrow
    r 02645 uranus sign
    c 026B1 urn | vase
    f 0270C victory hand | peace hand
    c 026A0 warning sign | warning triangle
    c 026AD wedding rings | rings
    f 0267F wheelchair | wheelchair symbol
    f 000A5 yen sign
    r 0262F yin yang | taijitu
    r 021AF zigzag arrow
"""


@dataclass(frozen=True)
class Glyph:
    """One category.

    Args:
        category_id (int): Id in the json files, from 1 in order of names.
        name (str): Readable English name.
        codepoint (int): Unicode code point in DejaVu Sans.
        frequency (str): 'r' (novel), 'c' or 'f'.
        synonyms (tuple[str]): Other names for the same thing, without
            ``name``.
    """

    category_id: int
    name: str
    codepoint: int
    frequency: str
    synonyms: Tuple[str, ...]

    @property
    def novel(self) -> bool:
        """Whether detectors never see a box of it in training."""
        return self.frequency == 'r'

    def as_category(self) -> dict:
        """Return the entry of ``categories.json`` (no counts)."""
        return dict(
            id=self.category_id,
            name=self.name,
            synonyms=[self.name, *self.synonyms],
            frequency=self.frequency,
            codepoint=f'U+{self.codepoint:04X}',
        )


def _parse(number: int, line: str) -> Glyph:
    head, _, tail = line.partition('|')
    frequency, codepoint, name = head.split(maxsplit=2)
    synonyms = tuple(s.strip() for s in tail.split(',') if s.strip())
    return Glyph(
        number, name.strip(), int(codepoint, 16), frequency, synonyms
    )


@lru_cache(maxsize=1)
def load_glyphs() -> Tuple[Glyph, ...]:
    """Return all categories in order of their ids (1, 2, ...)."""
    lines = [line for line in _TABLE.splitlines() if line.strip()]
    return tuple(_parse(i, line) for i, line in enumerate(lines, 1))
