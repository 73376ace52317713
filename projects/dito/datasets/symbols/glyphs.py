# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""The categories of the ``symbols`` data set: everyday things and drawings.

Every category has one drawing or more, each an icon of a font
(``rasterizer.py``), chosen by hand: names a person would type, solid shapes
that are recognised at 40 pixels, no letters, brands, or religious, political
or national emblems. No two drawings of different names correlate by 0.90 as
band-pass filtered silhouettes, over small scales, rotations and a flip, which
a test measures; of drawings of one name that hardly differ one is here.

The frequency group is fixed here rather than drawn from a seed, so that a
vocabulary and a trained tower stay valid for every build of the set: ``r`` =
rare = novel (a quarter of the categories), ``c`` = common, ``f`` = frequent.
Drawings marked ``*`` are held out, for the second validation set.
"""

from dataclasses import dataclass
from functools import lru_cache

# group, name | synonyms : drawings (font:icon)
_TABLE = """
    c airplane | aeroplane, plane : mdi:airplane *fa:plane dejavu:2708
    c anchor | ship anchor : mdi:anchor *fa:anchor dejavu:2693
    r apple : mdi:food_apple fa:apple_whole
    c axe | hatchet : mdi:axe
    c balance scale | scales : mdi:scale_balance *fa:scale_balanced dejavu:2696
    c balloon : mdi:balloon
    f baseball : mdi:baseball fa:baseball
    f basketball : mdi:basketball
    f bathtub | bath, tub : mdi:bathtub fa:bath
    c bed : mdi:bed mdi:bed_king
    c bee | honeybee : mdi:bee
    f beer mug | beer glass : mdi:glass_mug_variant fa:beer_mug_empty
    f bell : mdi:bell *fa:bell mdi:bell_ring
    c bicycle | bike : mdi:bicycle fa:bicycle
    f binoculars : mdi:binoculars fa:binoculars
    f bird : mdi:bird
    c bomb : mdi:bomb fa:bomb
    f bone : mdi:bone *fa:bone
    f book : *mdi:book fa:book mdi:notebook
    c bow and arrow | archery bow : mdi:bow_arrow
    f brain : mdi:brain fa:brain
    c bridge : mdi:bridge fa:bridge
    r broom : mdi:broom fa:broom
    c bus | coach : *mdi:bus fa:bus mdi:bus_side
    f butterfly : mdi:butterfly
    r cactus : mdi:cactus
    f cake | birthday cake : mdi:cake *fa:cake_candles mdi:cake_variant
    c camera : mdi:camera *fa:camera fa:camera_retro
    f candle : mdi:candle
    r car | automobile : mdi:car fa:car mdi:car_side fa:car_side
    r carrot : mdi:carrot fa:carrot
    c castle : mdi:castle
    r cat : mdi:cat fa:cat dejavu:1F431
    f chair : fa:chair
    f cherries | cherry : mdi:fruit_cherries
    f chess knight : mdi:chess_knight fa:chess_knight *dejavu:265E
    r cloud : mdi:cloud fa:cloud dejavu:2601
    r clover | shamrock : mdi:clover dejavu:2618
    c coffee cup | mug : mdi:coffee *fa:mug_saucer dejavu:2615 fa:mug_hot
    r computer mouse : mdi:mouse
    c cookie | biscuit : mdi:cookie fa:cookie_bite
    r couch | sofa : mdi:sofa fa:couch
    r cow : mdi:cow fa:cow dejavu:1F42E
    f cowboy hat : fa:hat_cowboy fa:hat_cowboy_side
    f crescent moon | moon : *mdi:moon_waning_crescent fa:moon dejavu:263E
    f crossed swords | swords : mdi:sword_cross dejavu:2694
    r crown : mdi:crown fa:crown
    r cupcake | muffin : mdi:cupcake mdi:muffin
    f diamond | gem, gemstone : mdi:diamond_stone fa:gem
    f dog : mdi:dog *fa:dog mdi:dog_side
    f dolphin : mdi:dolphin
    f drum : fa:drum
    r duck : mdi:duck
    r dumbbell : mdi:dumbbell fa:dumbbell
    f elephant : mdi:elephant
    c envelope | letter, mail : mdi:email *fa:envelope dejavu:2709
    r eye : mdi:eye fa:eye
    c factory : mdi:factory fa:industry
    r feather | quill : mdi:feather fa:feather
    c fire | flame : mdi:fire fa:fire
    c fire extinguisher : mdi:fire_extinguisher fa:fire_extinguisher
    c fish : mdi:fish *fa:fish fa:fish_fins
    f flag : *mdi:flag fa:flag dejavu:2691
    f flower : mdi:flower dejavu:2698
    r football | american football : mdi:football fa:football
    c fork and knife | cutlery : mdi:silverware_fork_knife fa:utensils
    c frog : fa:frog
    f game controller : mdi:controller *fa:gamepad mdi:gamepad_variant
    f gear | cogwheel, cog : mdi:cog dejavu:2699
    c ghost : mdi:ghost fa:ghost
    c gift | present : mdi:gift fa:gift
    c glasses | spectacles, eyeglasses : mdi:glasses fa:glasses
    c globe | earth : fa:earth_americas mdi:earth
    r grapes | bunch of grapes : mdi:fruit_grapes
    c guitar : *mdi:guitar_acoustic fa:guitar mdi:guitar_electric
    r hamburger | burger : mdi:hamburger fa:burger
    r hammer : mdi:hammer fa:hammer
    f hand : mdi:hand_back_right fa:hand
    r headphones : mdi:headphones fa:headphones
    c heart : fa:heart *dejavu:2665
    f helicopter : mdi:helicopter *fa:helicopter
    f hippo | hippopotamus : fa:hippo
    f horse : mdi:horse fa:horse
    f horseshoe : mdi:horseshoe
    c hot air balloon : mdi:airballoon
    c hourglass | sand timer : mdi:timer_sand_full fa:hourglass_half
    c house | home : fa:house dejavu:2302
    f ice cream : mdi:ice_cream fa:ice_cream
    f jellyfish : mdi:jellyfish
    c kangaroo : mdi:kangaroo
    r key : fa:key mdi:key dejavu:26B7
    c keyboard | computer keyboard : *mdi:keyboard fa:keyboard dejavu:2328
    c knife : mdi:knife
    c koala : mdi:koala
    r ladder : mdi:ladder
    c ladybug | ladybird : mdi:ladybug
    r lamp | table lamp : mdi:lamp
    c laptop | notebook computer : mdi:laptop *fa:laptop
    c leaf : mdi:leaf fa:leaf
    c lemon : fa:lemon mdi:fruit_citrus
    c life buoy | life ring, lifebuoy : mdi:lifebuoy fa:life_ring
    f light bulb | bulb : mdi:lightbulb fa:lightbulb
    c lighthouse : mdi:lighthouse
    f lightning bolt : *mdi:lightning_bolt fa:bolt_lightning dejavu:26A1
    f magnet | horseshoe magnet : mdi:magnet fa:magnet
    r magnifying glass | loupe : mdi:magnify fa:magnifying_glass
    r maple leaf : mdi:leaf_maple
    c microphone : mdi:microphone fa:microphone
    f microscope : mdi:microscope fa:microscope
    c monkey : dejavu:1F435
    r motorcycle | motorbike : mdi:motorbike fa:motorcycle
    c mountain | mountains : mdi:image_filter_hdr fa:mountain
    f mouse : dejavu:1F42D mdi:rodent
    r mushroom | toadstool : mdi:mushroom
    f music note | musical note : mdi:music_note dejavu:266A
    f open book : mdi:book_open_variant fa:book_open
    f owl : mdi:owl
    r padlock | lock : mdi:lock fa:lock
    f paintbrush : mdi:brush fa:paintbrush
    f palette : mdi:palette *fa:palette
    r palm tree : mdi:palm_tree
    r panda : mdi:panda
    f paperclip | paper clip : mdi:paperclip fa:paperclip
    f paw print | paw : mdi:paw *fa:paw
    f pencil : *mdi:pencil fa:pencil dejavu:270F
    c penguin : mdi:penguin
    c pepper | chili pepper : mdi:chili_mild fa:pepper_hot
    r piano : mdi:piano
    f pig : mdi:pig
    r piggy bank : fa:piggy_bank mdi:piggy_bank
    f pine tree | fir tree : mdi:pine_tree
    f pineapple : mdi:fruit_pineapple
    f pizza | slice of pizza : mdi:pizza fa:pizza_slice
    c puzzle piece | jigsaw piece : mdi:puzzle fa:puzzle_piece
    c rabbit | bunny : mdi:rabbit mdi:rabbit_variant
    r rainbow : fa:rainbow
    f robot : mdi:robot fa:robot
    r rocket : mdi:rocket fa:rocket mdi:rocket_launch
    c ruler : mdi:ruler fa:ruler
    r sailboat | sailing boat : mdi:sail_boat fa:sailboat
    f saw | handsaw : mdi:hand_saw
    c scissors | pair of scissors : *mdi:content_cut fa:scissors dejavu:2702
    f screwdriver : mdi:screwdriver fa:screwdriver
    c shark : mdi:shark
    c sheep | lamb : mdi:sheep
    r ship | ferry : mdi:ferry fa:ferry fa:ship
    c shirt | t-shirt : mdi:tshirt_crew *fa:shirt
    c shopping cart | shopping trolley : mdi:cart fa:cart_shopping
    r shovel | spade : mdi:shovel
    f skateboard : mdi:skateboard
    r skull : mdi:skull fa:skull
    r snail : mdi:snail
    r snake : mdi:snake
    r snowflake : mdi:snowflake fa:snowflake dejavu:2744
    f snowman : mdi:snowman fa:snowman
    f soccer ball : mdi:soccer fa:futbol
    r spider : mdi:spider fa:spider
    f spider web | cobweb : mdi:spider_web
    c spoon : mdi:silverware_spoon *fa:spoon
    c star | five-pointed star : mdi:star *fa:star
    r stethoscope : mdi:stethoscope fa:stethoscope
    r suitcase | luggage : mdi:bag_suitcase fa:suitcase_rolling
    c sun : mdi:white_balance_sunny fa:sun *dejavu:2600
    f sunglasses : mdi:sunglasses
    c sword : mdi:sword
    f teddy bear : mdi:teddy_bear
    c telephone | rotary phone : dejavu:260E mdi:phone_classic
    c telescope : mdi:telescope
    r television | tv, tv set : mdi:television_classic fa:tv
    c tent : *mdi:tent fa:tent fa:campground
    f thumbs up : mdi:thumb_up *fa:thumbs_up
    f toilet : mdi:toilet fa:toilet
    r tooth : mdi:tooth fa:tooth
    c tractor : mdi:tractor fa:tractor
    f traffic light : mdi:traffic_light fa:traffic_light
    c trash can | dustbin, garbage can : mdi:trash_can fa:trash_can
    c tree : mdi:tree
    c trophy : mdi:trophy fa:trophy
    r truck | lorry : mdi:truck fa:truck
    f trumpet : mdi:trumpet
    f tulip : mdi:flower_tulip
    c turtle | tortoise : mdi:turtle mdi:tortoise
    r umbrella | brolly : mdi:umbrella fa:umbrella dejavu:2602
    c unicorn : mdi:unicorn mdi:unicorn_variant
    c violin | fiddle : mdi:violin
    f virus : mdi:virus fa:virus
    f volcano : mdi:volcano fa:volcano
    c volleyball : mdi:volleyball fa:volleyball
    f water drop | drop, droplet : mdi:water
    f watering can : mdi:watering_can
    c watermelon : mdi:fruit_watermelon
    f wheelchair : *mdi:wheelchair fa:wheelchair dejavu:267F
    f whistle : mdi:whistle
    f wine bottle | bottle of wine : mdi:bottle_wine fa:wine_bottle
    c wine glass | glass of wine : mdi:glass_wine fa:wine_glass
    c wizard hat | witch hat : mdi:wizard_hat fa:hat_wizard
    c wrench | spanner : mdi:wrench *fa:wrench
    f wristwatch | watch : mdi:watch
"""


@dataclass(frozen=True)
class Drawing:
    """One icon of a font of ``FONTS``; of DejaVu Sans a code point, in hex."""

    font: str
    icon: str

    def __str__(self) -> str:
        """Return the form of the table, for example 'mdi:umbrella'."""
        return f'{self.font}:{self.icon}'


@dataclass(frozen=True)
class Glyph:
    """One category: id (from 1 in order of names), name, 'r', 'c' or 'f'.

    ``drawings`` are what its objects look like, ``held_out`` one for
    validation only; synonyms do not have its name.
    """

    category_id: int
    name: str
    frequency: str
    drawings: tuple[Drawing, ...]
    synonyms: tuple[str, ...] = ()
    held_out: Drawing | None = None

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
            drawings=[str(drawing) for drawing in self.drawings],
            held_out_drawing=str(self.held_out) if self.held_out else None,
        )


def _parse(number: int, line: str) -> Glyph:
    head, icons = line.rsplit(' : ', 1)
    names, _, synonyms = head.partition('|')
    frequency, name = names.split(maxsplit=1)
    drawings = []
    held_out = None
    for icon in icons.split():
        drawing = Drawing(*icon.lstrip('*').split(':'))
        if icon.startswith('*'):
            held_out = drawing
        else:
            drawings.append(drawing)
    return Glyph(
        number,
        name.strip(),
        frequency,
        tuple(drawings),
        tuple(word.strip() for word in synonyms.split(',') if word.strip()),
        held_out,
    )


@lru_cache(maxsize=1)
def load_glyphs() -> tuple[Glyph, ...]:
    """Return all categories in order of their ids (1, 2, ...)."""
    lines = [line for line in _TABLE.splitlines() if line.strip()]
    return tuple(_parse(i, line) for i, line in enumerate(lines, 1))
