"""Word lists the generated text is made of."""

NAMES = """Anna Ben Clara David Emma Felix Grace Henry Iris Jack Kira Leo Mia Noah Olga Paul Quinn Rosa Sam Tara Uma
Victor Wendy Xavier Yara Zoe Alice Bruno Carla Dora Elias Fiona George Hanna Ivan Julia Karl Lena Marco Nina Oscar Petra
Ravi Sofia Tom Ursula Vera Walter Yusuf Zara Aiko Bilal Chen Divya Erik Fatima Goran Hiro Ines Jonas Kofi Laila Mateo
Nadia Omar Priya Rafael Sara Tomas Vikram Wei Yuki Adam Bella Colin Daisy Ethan Flora Gina Hugo Ida Joel Kate Liam Maya
Nora Owen Polly Robin Stella Theo Violet Will Amir Britta Cora Dylan Edith Frank Greta Harold Ivy James Kevin Lucy Max
Nelly Otto Pia Rita Simon Tina Ulrich Vivian Wanda Mary John Maria Peter Linda Robert Susan Michael Laura Thomas Sarah
Daniel Julie Martin Eva Alex Chris Pat Kim Lee Ali Mei Ana Luis Carlos Elena Pablo Lucas Olivia Amelia Ella Ruby Jacob
Mason Logan Aisha Hassan Zainab Kwame Amara Chidi Ngozi Sven Astrid Bjorn Freya Magnus""".split()

SURNAMES = """Smith Jones Brown Miller Weber Rossi Silva Novak Kim Tanaka Patel Khan Lopez Garcia Martin Dubois Jensen
Berg Larsen Virtanen Kowalski Horvat Ivanov Popov Singh Sharma Chen Wang Nguyen Tran Okafor Mensah Cohen Haddad Murphy
Walsh Clark Hill Wood Stone Baker Cook Fisher Carter Taylor Young King Green White Black""".split()

ANIMALS = """fox cat dog mouse rabbit bear owl frog turtle lion tiger elephant monkey horse cow pig sheep goat duck hen
goose swan crow eagle sparrow robin penguin seal whale dolphin shark crab snail bee ant spider butterfly beetle hedgehog
squirrel badger otter beaver deer moose wolf raccoon bat mole lizard snake crocodile hippo rhino giraffe zebra camel
donkey kangaroo koala panda parrot peacock flamingo hamster kitten puppy lamb foal dragon unicorn octopus jellyfish
starfish firefly ladybug cricket toad newt salamander lynx yak llama goldfish pigeon raven stork heron walrus""".split()

PEOPLE = """baker farmer painter sailor knight princess prince king queen wizard witch pirate robot girl boy teacher
gardener fisherman carpenter doctor pilot astronaut clown singer dancer tailor shepherd miller giant elf dwarf ghost
scientist inventor explorer cook blacksmith musician captain postman librarian""".split()

THINGS = """key lantern map bell button kite drum boat ladder basket bucket blanket mirror clock coin ring book letter
feather shell stone seed apple pear cake pie loaf cheese carrot pumpkin cherry acorn nut leaf flower rose tulip scarf
hat boot glove coat umbrella balloon ball doll whistle flute violin brush pencil candle cup spoon pot kettle rope wheel
wagon broom hammer nail box jar bottle star pearl crown""".split()

PLACES = [
    "forest",
    "village",
    "garden",
    "meadow",
    "valley",
    "harbour",
    "castle",
    "lighthouse",
    "mountain",
    "island",
    "desert",
    "city",
    "farm",
    "river",
    "lake",
    "cave",
    "market",
    "library",
    "mill",
    "bridge",
    "orchard",
    "jungle",
    "swamp",
    "beach",
    "school",
    "tower",
    "windmill",
    "hill",
    "park",
    "bakery",
    "workshop",
    "station",
]

ADJECTIVES = """small big old young brave shy curious kind clever lazy quiet happy sad lonely hungry sleepy proud gentle
stubborn cheerful tiny grumpy honest patient careful busy polite playful nervous friendly""".split()

COLOURS = "red blue green yellow orange purple pink brown black white grey silver golden".split()

FOODS = """apples pears oranges bananas cherries grapes plums lemons eggs cookies cakes carrots onions potatoes tomatoes
nuts sweets sandwiches muffins pancakes""".split()

COUNTABLES = FOODS + """books coins pencils marbles stamps stickers balls cards shells stones flowers balloons buttons
keys toys tickets cups boxes bottles candles""".split()

CITIES = """Paris London Berlin Rome Madrid Oslo Stockholm Helsinki Copenhagen Vienna Prague Warsaw Lisbon Dublin Athens
Budapest Zurich Geneva Milan Munich Hamburg Lyon Porto Seville Cairo Lagos Nairobi Accra Tokyo Osaka Kyoto Seoul Beijing
Shanghai Delhi Mumbai Bangkok Hanoi Jakarta Manila Sydney Perth Auckland Toronto Montreal Vancouver Boston Chicago Denver
Seattle Austin Dallas Miami Lima Quito Bogota Santiago Havana Tunis Riga Vilnius Tallinn Zagreb Sofia Krakow Leeds
Glasgow Bristol Cardiff Ghent Utrecht Malmo Turku Bergen Graz Basel""".split()

COUNTRIES = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Portugal": "Lisbon",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Finland": "Helsinki",
    "Denmark": "Copenhagen",
    "Austria": "Vienna",
    "Poland": "Warsaw",
    "Ireland": "Dublin",
    "Greece": "Athens",
    "Hungary": "Budapest",
    "Switzerland": "Bern",
    "Belgium": "Brussels",
    "the Netherlands": "Amsterdam",
    "the United Kingdom": "London",
    "England": "London",
    "Scotland": "Edinburgh",
    "Iceland": "Reykjavik",
    "Russia": "Moscow",
    "Ukraine": "Kyiv",
    "Romania": "Bucharest",
    "Bulgaria": "Sofia",
    "Croatia": "Zagreb",
    "Serbia": "Belgrade",
    "Turkey": "Ankara",
    "Egypt": "Cairo",
    "Morocco": "Rabat",
    "Kenya": "Nairobi",
    "Ghana": "Accra",
    "Nigeria": "Abuja",
    "Ethiopia": "Addis Ababa",
    "Japan": "Tokyo",
    "China": "Beijing",
    "South Korea": "Seoul",
    "India": "New Delhi",
    "Thailand": "Bangkok",
    "Vietnam": "Hanoi",
    "Indonesia": "Jakarta",
    "the Philippines": "Manila",
    "Australia": "Canberra",
    "New Zealand": "Wellington",
    "Canada": "Ottawa",
    "the United States": "Washington, D.C.",
    "the USA": "Washington, D.C.",
    "Mexico": "Mexico City",
    "Cuba": "Havana",
    "Brazil": "Brasilia",
    "Argentina": "Buenos Aires",
    "Chile": "Santiago",
    "Peru": "Lima",
    "Colombia": "Bogota",
    "Ecuador": "Quito",
    "Iran": "Tehran",
    "Iraq": "Baghdad",
    "Israel": "Jerusalem",
    "Saudi Arabia": "Riyadh",
    "Pakistan": "Islamabad",
    "Nepal": "Kathmandu",
    "the Czech Republic": "Prague",
    "Latvia": "Riga",
    "Lithuania": "Vilnius",
    "Estonia": "Tallinn",
    "Slovenia": "Ljubljana",
    "Slovakia": "Bratislava",
    "Tunisia": "Tunis",
}

OPPOSITES = """hot cold;big small;tall short;fast slow;happy sad;light dark;day night;up down;left right;open closed;
old new;young old;rich poor;hard soft;wet dry;full empty;early late;near far;high low;clean dirty;loud quiet;strong weak;
thick thin;heavy light;good bad;true false;begin end;start stop;love hate;win lose;buy sell;push pull;give take;
come go;in out;on off;black white;long short;wide narrow;deep shallow;safe dangerous;easy difficult;cheap expensive;
brave cowardly;kind cruel;sweet sour;sharp blunt;smooth rough;alive dead;awake asleep;first last;always never;
everything nothing;inside outside;above below;before after;north south;east west;laugh cry;remember forget;arrive leave"""
OPPOSITES = [tuple(pair.split()) for pair in OPPOSITES.replace("\n", "").split(";")]

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()

SOUNDS = {
    "cat": "meow",
    "dog": "woof",
    "cow": "moo",
    "duck": "quack",
    "sheep": "baa",
    "pig": "oink",
    "horse": "neigh",
    "owl": "hoot",
    "lion": "roar",
    "bee": "buzz",
    "frog": "ribbit",
    "hen": "cluck",
    "snake": "hiss",
    "mouse": "squeak",
    "wolf": "howl",
    "donkey": "hee-haw",
    "crow": "caw",
}

COMMON = """the and you that was for are with his they this have from one had word but not what all were when your can
said there use each which she how their will other about out many then them these some her would make like him into time
has look two more write see number way could people than first water been call who oil its now find long down day did get
come made may part over sound take only little work know place year live back give most very after thing our just name
good sentence man think say great where help through much before line right too mean old any same tell boy follow came
want show also around form three small set put end does another well large must big even such because turn here why ask
went men read need land different home move try kind hand picture again change off play spell air away animal house point
page letter mother answer found study still learn should world high every near add food between own below country plant
last school father keep tree never start city earth eye light thought head under story saw left few while along might
close something seem next hard open example begin life always those both paper together got group often run important
until children side feet car mile night walk white sea began grow took river four carry state once book hear stop without
second late miss idea enough eat face watch far really almost let above girl sometimes mountain cut young talk soon list
song being leave family body music color stand sun question fish area mark dog horse birds problem complete room knew
since ever piece told usually friends easy heard order red door sure become top ship across today during short better
best however low hours black products happened whole measure remember early waves reached listen wind rock space covered
fast several hold himself toward five step morning passed vowel true hundred against pattern numeral table north slowly
money map farm pulled draw voice seen cold cried plan notice south sing war ground fall king town unit figure certain
field travel wood fire upon banana strawberry mississippi orange computer keyboard window garden bicycle elephant
chocolate umbrella butterfly mushroom holiday birthday pencil kitchen summer winter autumn spring yellow purple hello
zinc copper silver iron gold engine model token layer vector matrix kernel memory cache""".split()

WORDS = sorted({w for w in ANIMALS + PEOPLE + THINGS + ADJECTIVES + COLOURS + FOODS + COUNTABLES + COMMON + PLACES if w.isalpha()})

_ONSETS = "b br c ch cl d dr f fl g gl gr h j k l m n p pl pr qu r s sh sk sl sp st t th tr v w z".split()
_NUCLEI = "a e i o u ai ea ee oa oo ou".split()
_CODAS = ["", "", "", "n", "r", "l", "s", "t", "m", "ck", "nd", "rt", "x", "b", "p"]


def made_up_word(rng, n_syllables=None):
    """A pronounceable word that is (almost surely) in no list: it teaches copying piece by piece."""
    n = n_syllables or rng.choice((1, 2, 2, 2, 3))
    return "".join(rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_CODAS) for _ in range(n))


def person(rng):
    """A first name, one time in six made up."""
    return made_up_word(rng, 2).capitalize() if rng.random() < 0.17 else rng.choice(NAMES)


def place_name(rng):
    """A city, one time in six made up."""
    return made_up_word(rng, 2).capitalize() if rng.random() < 0.17 else rng.choice(CITIES)


def any_word(rng):
    """A word of the lists, one made from them, or one made up."""
    draw = rng.random()
    if draw < 0.25:
        return made_up_word(rng)
    if draw < 0.35:
        return rng.choice(WORDS) + rng.choice(["s", "ing", "ed", "er", "y", "ly", "ness", "less", "est"])
    if draw < 0.42:
        return rng.choice(WORDS) + rng.choice(WORDS)
    return rng.choice(WORDS)


ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen""".split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()


def number_word(n):
    """English words for 0 to 999."""
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10] + ("-" + ONES[n % 10] if n % 10 else "")
    rest = f" and {number_word(n % 100)}" if n % 100 else ""
    return f"{ONES[n // 100]} hundred{rest}"


def article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def plural(noun):
    irregular = {
        "mouse": "mice",
        "sheep": "sheep",
        "goose": "geese",
        "deer": "deer",
        "moose": "moose",
        "wolf": "wolves",
        "leaf": "leaves",
        "loaf": "loaves",
        "goldfish": "goldfish",
        "fisherman": "fishermen",
        "postman": "postmen",
        "jellyfish": "jellyfish",
        "starfish": "starfish",
        "octopus": "octopuses",
        "lynx": "lynxes",
    }
    if noun in irregular:
        return irregular[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"
