"""Small stories from a templated grammar, with questions about them; short poems and jokes."""

from .grammar import as_typed, expand, preferred
from .turn import Turn
from . import words as w

_HEROES = w.ANIMALS + w.ANIMALS + w.PEOPLE
_HOMES = {
    "forest": "under an old oak",
    "village": "in a little house with a green door",
    "garden": "behind the roses",
    "meadow": "among the tall grass",
    "valley": "beside a quiet stream",
    "harbour": "near the boats",
    "castle": "in the highest tower",
    "lighthouse": "at the top of the stairs",
    "mountain": "in a hut of stone",
    "island": "under three palm trees",
    "desert": "beside a small well",
    "city": "in a narrow street",
    "farm": "next to the barn",
    "river": "on the sandy bank",
    "lake": "among the reeds",
    "cave": "far from the sun",
    "market": "behind the fruit stand",
    "library": "between the tallest shelves",
    "mill": "above the big wheel",
    "bridge": "under the third arch",
    "orchard": "below the cherry trees",
    "jungle": "high in the leaves",
    "swamp": "on a dry little hill",
    "beach": "behind the dunes",
    "school": "in the attic",
    "tower": "next to the bell",
    "windmill": "below the white sails",
    "hill": "in a round house",
    "park": "near the fountain",
    "bakery": "close to the warm oven",
    "workshop": "between the tools",
    "station": "beside the last track",
}
_AT = {
    "village": "in",
    "garden": "in",
    "forest": "in",
    "meadow": "in",
    "valley": "in",
    "harbour": "at",
    "castle": "in",
    "lighthouse": "in",
    "mountain": "on",
    "island": "on",
    "desert": "in",
    "city": "in",
    "farm": "on",
    "river": "by",
    "lake": "by",
    "cave": "in",
    "market": "at",
    "library": "in",
    "mill": "in",
    "bridge": "by",
    "orchard": "in",
    "jungle": "in",
    "swamp": "in",
    "beach": "on",
    "school": "in",
    "tower": "in",
    "windmill": "in",
    "hill": "on",
    "park": "in",
    "bakery": "in",
    "workshop": "in",
    "station": "at",
}
_MORNINGS = [
    "One morning",
    "One day",
    "One rainy afternoon",
    "On a cold evening",
    "One summer day",
    "On the first day of spring",
    "Early one morning",
    "One windy night",
    "On a quiet Sunday",
    "One winter morning",
]
_FEELINGS = ["happy", "proud", "glad", "full of joy", "very happy", "warm inside", "brave", "calm"]
_MORALS = [
    "It is good to have a friend.",
    "Even small ones can do great things.",
    "Whoever helps others is never alone.",
    "Patience opens every door.",
    "A kind word costs nothing.",
    "Sharing makes everything better.",
    "Being afraid is no shame; running away from a friend is.",
    "Sometimes the best treasure is a good evening together.",
    "He who asks finds the way.",
    "Every long road begins with one step.",
]
_NAMES = "Rusty Pip Luna Milo Hazel Tibo Nell Bruno Fern Otis Poppy Juno Finn Coco Wilma Basil Tilly Gus Mira Toby Olive Remy Dot Jasper Minna Sunny Oskar Lulu Piet Clover".split()


class _Cast:
    """Who and what a story is about; the same subject prefers the same choices."""

    def __init__(self, rng, hero, name=None, place=None, thing=None, friend=None):
        salt = hero
        self.hero = hero
        self.name = name or preferred(rng, _NAMES, salt + "name")
        self.place = place or preferred(rng, w.PLACES, salt + "place")
        self.thing = thing or preferred(rng, w.THINGS, salt + "thing")
        friends = [a for a in w.ANIMALS[:60] + w.PEOPLE[:20] if a != hero]
        self.friend = friend or preferred(rng, friends, salt + "friend")
        self.adjective = preferred(rng, w.ADJECTIVES, salt + "adjective")
        self.friend_adjective = preferred(rng, [a for a in w.ADJECTIVES if a != self.adjective], salt + "second")
        self.colour = preferred(rng, w.COLOURS, salt + "colour")
        self.pick = lambda items, slot: preferred(rng, items, salt + slot)
        self.at = f"{_AT[self.place]} the {self.place}" if self.place in _AT else f"in the {self.place}"
        self.home = _HOMES.get(self.place, "in a small house")


def _opening(c):
    start = c.pick(
        ["Once upon a time there was", "Once there was", "There once was", "Long ago there lived", "Not so long ago there was"], "start"
    )
    return f"{start} {w.article(c.adjective)} {c.hero} named {c.name}. {c.name} lived {c.at}, {c.home}."


def _lost(c):
    return (
        f"{c.pick(_MORNINGS, 'm')} {c.name} noticed that the {c.colour} {c.thing} was gone. {c.name} looked {c.pick(['under the bed', 'behind the door', 'in every corner', 'outside in the grass'], 'look')}, but it was nowhere. "
        f"Then {w.article(c.friend_adjective)} {c.friend} came by. \"Why do you look so {c.pick(['sad', 'worried', 'unhappy'], 'sad')}?\" asked the {c.friend}. \"I have lost my {c.thing},\" said {c.name}. "
        f"\"I will help you,\" said the {c.friend}. They searched until the {c.pick(['sun went down', 'moon came up', 'stars came out'], 'sun')}, and at last they found the {c.thing} {c.pick(['in an empty nest', 'under a big leaf', 'in a hollow tree', 'behind a stone', 'inside an old boot'], 'where')}.",
        f"{c.name} lost {w.article(c.colour)} {c.thing} and found it again with the help of {w.article(c.friend)}.",
    )


def _found(c):
    return (
        f"{c.pick(_MORNINGS, 'm')} {c.name} found {w.article(c.colour)} {c.thing} {c.pick(['on the path', 'in the snow', 'near the water', 'under a bush', 'at the gate'], 'where')}. \"Whose {c.thing} is this?\" wondered {c.name}. "
        f"{c.name} asked everyone, and {c.pick(['nobody knew', 'all of them shook their heads', 'nobody had seen it before'], 'nobody')}. In the evening {w.article(c.friend_adjective)} {c.friend} knocked at the door. "
        f"\"That is my {c.thing}!\" cried the {c.friend}. {c.name} gave it back at once, and the {c.friend} {c.pick(['danced with joy', 'laughed out loud', 'said thank you three times', 'baked a cake to say thank you'], 'joy')}.",
        f"{c.name} found {w.article(c.colour)} {c.thing} and gave it back to {w.article(c.friend)}.",
    )


def _storm(c):
    return (
        f"{c.pick(_MORNINGS, 'm')} a great storm came. The wind {c.pick(['howled', 'shook the trees', 'blew the roof away', 'broke the fence'], 'wind')}, and {c.name} heard somebody call for help. "
        f"It was {w.article(c.friend_adjective)} {c.friend} who {c.pick(['had lost the way', 'was wet and cold', 'was stuck in the mud', 'could not get home'], 'stuck')}. \"Come in!\" said {c.name} and held up {w.article(c.colour)} {c.thing} to show the way. "
        f"They {c.pick(['drank hot tea', 'ate warm soup', 'shared the last piece of bread', 'sat by the fire'], 'tea')} and told each other stories until the storm was over.",
        f"{c.name} helped {w.article(c.friend)} in a great storm.",
    )


def _wish(c):
    dream = c.pick(
        [
            "to fly",
            "to see the sea",
            "to sing in front of everyone",
            "to learn to read",
            "to climb the highest hill",
            "to touch a star",
            "to bake the biggest cake",
            "to swim across the lake",
        ],
        "dream",
    )
    return (
        f"{c.name} had one dream: {dream}. Everybody {c.pick(['laughed', 'said that it was impossible', 'shook their heads'], 'laughed')}, only {w.article(c.friend_adjective)} {c.friend} did not. \"Let us try it together,\" said the {c.friend}. "
        f"{c.pick(_MORNINGS, 'm')} they took {w.article(c.colour)} {c.thing} and set out. They tried once, they tried twice, and the third time it worked. {c.name} {c.pick(['could not believe it', 'shouted for joy', 'was speechless', 'laughed and cried at once'], 'joy')}.",
        f"{c.name} dreamed {dream} and did it with the help of {w.article(c.friend)}.",
    )


def _fear(c):
    fear = c.pick(["the dark", "deep water", "thunder", "high places", "loud noises", "the old house", "strangers"], "fear")
    return (
        f"{c.name} was afraid of {fear}. {c.pick(_MORNINGS, 'm')} {w.article(c.friend_adjective)} {c.friend} gave {c.name} {w.article(c.colour)} {c.thing}. \"Hold it when you are afraid,\" said the {c.friend}, \"and count to ten.\" "
        f"That {c.pick(['night', 'evening', 'same day'], 'night')} {c.name} held the {c.thing} and counted slowly: one, two, three. At ten the fear was {c.pick(['much smaller', 'almost gone', 'gone'], 'gone')}. \"It works!\" called {c.name}.",
        f"{c.name} was afraid of {fear} until {w.article(c.friend)} helped with {w.article(c.colour)} {c.thing}.",
    )


def _contest(c):
    contest = c.pick(["a race", "a singing contest", "a baking contest", "a swimming race", "a contest of riddles", "a dance"], "contest")
    return (
        f"{c.pick(_MORNINGS, 'm')} there was {contest} {c.at}. The prize was {w.article(c.colour)} {c.thing}. {c.name} wanted to win, and so did {w.article(c.friend_adjective)} {c.friend}. "
        f"Halfway the {c.friend} {c.pick(['fell and hurt a foot', 'began to cry', 'lost courage', 'forgot everything'], 'fell')}. {c.name} {c.pick(['stopped and turned back', 'did not think twice', 'ran over to help'], 'turn')}. Somebody else won, but in the end both got the {c.thing}, because {c.pick(['friendship counts more than winning', 'everybody had seen what happened', 'the judge liked kind hearts'], 'because')}.",
        f"{c.name} gave up winning {contest} in order to help {w.article(c.friend)}.",
    )


def _secret(c):
    return (
        f"{c.pick(_MORNINGS, 'm')} {c.name} found a secret door {c.at}. Behind it stood {w.article(c.colour)} {c.thing} that {c.pick(['glowed softly', 'could talk', 'hummed a song', 'was warm like bread'], 'glow')}. \"Do not be afraid,\" said a voice. It was {w.article(c.friend_adjective)} {c.friend}. "
        f"\"I have kept this {c.thing} for a hundred years, and now it is yours.\" {c.name} {c.pick(['thanked the ' + c.friend, 'bowed deeply', 'did not know what to say', 'hugged the ' + c.friend], 'thank')} and took it home.",
        f"{c.name} found a secret door and was given {w.article(c.colour)} {c.thing} by {w.article(c.friend)}.",
    )


_PLOTS = [_lost, _found, _storm, _wish, _fear, _contest, _secret]


def _ending(c):
    feeling = c.pick(_FEELINGS, "feeling")
    last = c.pick(
        [
            f"From that day on {c.name} and the {c.friend} were best friends.",
            f"That night {c.name} fell asleep {feeling}.",
            f"And {c.name} was {feeling}.",
            f"They still tell this story {c.at}.",
            f"Since then {c.name} and the {c.friend} meet every day.",
            f"And if you walk {c.at} today, you may meet them both.",
        ],
        "last",
    )
    return f"{last} {c.pick(_MORALS, 'moral')}"


def tell(rng, hero, **cast):
    """(text, facts) of one story."""
    c = _Cast(rng, hero, **cast)
    body, summary = c.pick(_PLOTS, "plot")(c)
    text = f"{_opening(c)} {body} {_ending(c)}"
    return text, {
        "hero": c.hero,
        "name": c.name,
        "place": c.place,
        "at": c.at,
        "friend": c.friend,
        "thing": c.thing,
        "colour": c.colour,
        "summary": summary,
        "coloured": f"{c.colour} {c.thing}" in text,
    }


_ASK = [
    "[tell|write|make up|give|create|read] me [a|a|a short|a little|a small|a nice|another] story about {h}",
    "[tell|write] a [short|little|small|bedtime|nice|] story about {h}",
    "a story about {h}[, please|]",
    "[can|could] you tell me a [short |little |]story about {h}?",
    "i want [to hear |]a story about {h}",
    "story about {h}",
    "write [a few sentences|a short story|a fairy tale|a bedtime story|a tale] about {h}",
    "please tell [me|us] a story about {h}",
    "tell a story with {h}",
    "invent a story about {h}",
    "do you know a story about {h}?",
    "once upon a time there was {h}. what happened?",
    "make up a [short |]story [about|with] {h}",
    "my [son|daughter|child|kid] wants a story about {h}",
    "a bedtime story about {h}",
]
_ASK_ANY = [
    "tell me a story",
    "[tell|write] a [short |]story",
    "can you tell [me |us |]a story?",
    "a story[, please|]",
    "write a short story",
    "i want to hear a story",
    "tell me a bedtime story",
    "story time",
    "[tell|write] me a long story",
    "[tell|write] a [story|tale] about [friendship|two friends|an adventure|love|courage|animals|a family|christmas|winter|a long journey|magic|anything]",
    "a fairy tale",
    "once upon a time",
    "[tell|write] me a [funny|sad|happy|scary|nice|good|beautiful|different|new] story",
    "[please |]tell me a [little|short|nice|bedtime|fairy] [story|tale]",
    "read me a story",
    "do you know a story?",
    "write something",
    "make up a story",
    "tell me something",
]


# Wishes beyond the grammar: they are read, and the story stays as it is.
_EXTRAS = [
    " in space",
    " under the sea",
    " [who|that] can fly",
    " with a happy ending",
    " for my [son|daughter|kids]",
    " who [is|was] [lost|afraid|hungry|in love]",
    " on the moon",
    " [that|who] wants to be a [king|star|hero]",
    " in [ten|five|three] sentences",
    " at night",
    " and [his|her] family",
    " in winter",
    " going to school",
    " that learns to swim",
    " who finds a treasure",
]


def story(rng):
    hero = rng.choice(_HEROES) if rng.random() < 0.93 else w.made_up_word(rng)
    cast, suffix = {}, ""
    kind = rng.random()
    if kind < 0.1:
        question, hero = expand(rng, rng.choice(_ASK_ANY)), rng.choice(["fox", "bear", "owl", "rabbit", "baker"])
        text, facts = tell(rng, hero)
        typed = as_typed(rng, question)
        return Turn(typed, text, _thought(facts), f"any story {typed}", "story", facts=facts, exact=False)
    if kind < 0.25:
        cast["name"] = w.person(rng)
        suffix = rng.choice([f" named {cast['name']}", f" called {cast['name']}", f" whose name is {cast['name']}"])
    if rng.random() < 0.18:
        cast["place"] = rng.choice(w.PLACES)
        suffix += (
            f" {_AT[cast['place']]} {w.article(cast['place'])}"
            if rng.random() < 0.6
            else f" who lives {_AT[cast['place']]} {w.article(cast['place'])}"
        )
    elif rng.random() < 0.15:
        cast["friend"] = rng.choice([h for h in _HEROES if h != hero])
        suffix += f" and {w.article(cast['friend'])}"
    elif rng.random() < 0.12:
        cast["thing"] = rng.choice(w.THINGS)
        suffix += f" and {w.article(cast['thing'])}"
    extra = expand(rng, rng.choice(_EXTRAS)) if rng.random() < 0.12 else ""
    question = expand(rng, rng.choice(_ASK)).replace("{h}", w.article(hero) + suffix + extra)
    text, facts = tell(rng, hero, **cast)
    return Turn(as_typed(rng, question, typos=0.02), text, _thought(facts), f"story {hero}{suffix}", "story", facts=facts, exact=False)


def _thought(f):
    return f"The user wants a story. The hero is {w.article(f['hero'])} named {f['name']}, the place is the {f['place']}. {f['summary']}"


def question_about(rng, facts):
    """A follow-up question to a story."""
    h = facts["hero"]
    choices = [
        (
            [
                f"what is the name of the {h}?",
                f"what was the {h} called?",
                f"what is the {h}'s name?",
                "who is the story about?",
                "what is the hero's name?",
                "what was the name?",
            ],
            f"The {h} is called {facts['name']}.",
        ),
        (
            [
                f"where does {facts['name']} live?",
                f"where did the {h} live?",
                "where does the story take place?",
                f"where does the {h} live?",
            ],
            f"{facts['name']} lives {facts['at']}.",
        ),
        (
            ["who else is in the story?", f"who is {facts['name']}'s friend?", f"who did {facts['name']} meet?", f"who did the {h} meet?"],
            f"{facts['name']} meets {w.article(facts['friend'])}.",
        ),
        (
            [
                "summarise the story",
                "what is the story about?",
                "summarize it",
                "give me a summary",
                "make it shorter",
                "can you make it shorter?",
                "tell it in one sentence",
                "shorter, please",
            ],
            facts["summary"],
        ),
    ]
    if facts["coloured"]:
        choices.append(
            (
                [
                    f"what colour was the {facts['thing']}?",
                    f"which colour did the {facts['thing']} have?",
                    f"what color is the {facts['thing']}?",
                ],
                f"The {facts['thing']} was {facts['colour']}.",
            )
        )
    questions, answer = rng.choice(choices)
    question = rng.choice(questions)
    return Turn(
        as_typed(rng, question, typos=0.03),
        answer,
        f"In the story: {facts['summary']} {answer}",
        f"{question} {facts['name']} {facts['place']} {facts['friend']} {facts['thing']}",
        "story question",
        facts=facts,
    )


def another(rng, facts):
    hero = rng.choice([h for h in _HEROES if h != facts["hero"]])
    question = rng.choice(
        [
            f"now one about {w.article(hero)}",
            f"another one about {w.article(hero)}",
            f"and one about {w.article(hero)}?",
            f"tell me one about {w.article(hero)}",
            f"now tell me about {w.article(hero)}",
            f"and now {w.article(hero)}",
        ]
    )
    text, facts = tell(rng, hero)
    return Turn(as_typed(rng, question, typos=0.02), text, _thought(facts), f"another {hero}", "story", facts=facts, exact=False)


_VERSES = [
    "I looked for {x} all through the day,\nand found it late, not far away.\nIt smiled at me, I smiled as well,\nand what it said I will not tell.",
    "{X} is quiet, {x} is deep,\nit keeps a secret while we sleep.\nAnd when the morning comes along\nit hums a very little song.",
    "Oh {x}, you are a friend of mine,\nin rain and snow, in bright sunshine.\nThe world is wide, the road is long,\nfor you I sing this little song.",
    "Last night I dreamed of {x} again,\nbeside the window, in the rain.\nThe rain has stopped, the dream has gone,\nbut {x} in my heart lives on.",
    "Who knows where {x} goes at night,\nwhen all the stars are shining bright?\nPerhaps it dances on the hill,\nperhaps it sits there, small and still.",
    "{X} came in spring and stayed till fall,\nit was the nicest guest of all.\nAnd when the winter brought its snow,\nwe did not want to let it go.",
    "A word for {x}, a word for you,\na word for skies of shining blue.\nThree words are all that I can do,\nI am quite small, but they are true.",
]
_TOPICS = (
    w.ANIMALS
    + w.THINGS
    + w.PLACES
    + "the sea;the moon;the sun;autumn;winter;spring;summer;rain;snow;the wind;love;friendship;music;the night;the morning;a tree;coffee;home".split(
        ";"
    )
)


def poem(rng):
    topic = rng.choice(_TOPICS)
    named = (
        topic
        if topic.startswith(("the ", "a ")) or topic in "autumn winter spring summer rain snow love friendship music coffee home"
        else w.article(topic)
    )
    shown = (
        named
        if named in ("love", "friendship", "music", "coffee", "home", "autumn", "winter", "spring", "summer", "rain", "snow")
        else "the " + named.split()[-1]
    )
    haiku = rng.random() < 0.3
    kind = "haiku" if haiku else rng.choice(["poem", "short poem", "little poem", "rhyme", "verse"])
    about = f" about {named}" if rng.random() < 0.9 else ""
    question = expand(rng, f"[write|write me|make|tell me|give me|compose|can you write] a {kind}{about}[, please|]")
    pick = lambda items, slot: preferred(rng, items, shown + slot)
    if haiku:
        text = "\n".join(
            [
                f"{pick(['Quiet morning light', 'Soft wind in the grass', 'Evening on the hill', 'First snow on the roof'], '1')},",
                f"{shown} {pick(['waits without a word for me', 'sleeps beneath the silver moon', 'turns and slowly walks away'], '2')},",
                pick(["then the day begins.", "nothing else is here.", "and the night is long."], "3"),
            ]
        )
    else:
        text = pick(_VERSES, "verse").replace("{x}", shown).replace("{X}", shown.capitalize())
    return Turn(
        as_typed(rng, question, typos=0.02),
        text,
        f"The user wants a {kind.split()[-1]} about {named}.",
        f"poem {kind[:5]} {topic}",
        "poem",
        exact=False,
    )


_JOKES = [
    "Why did the token cross the road? To get to the next sequence.",
    "What does a computer eat for lunch? A few bytes.",
    "Why was the number six afraid? Because seven eight nine.",
    "What do you call a bear without teeth? A gummy bear.",
    "Why did the book go to the doctor? It had hurt its spine.",
    "What did one wall say to the other? See you at the corner.",
    "Why do bees hum? They have forgotten the words.",
    "What is brown and sticky? A stick.",
]


def joke(rng):
    question = expand(
        rng,
        "[tell me a joke|tell a joke|a joke, please|do you know a joke?|make a joke|joke|say something funny|another joke|can you tell me a joke?|i want to hear a joke|a funny joke please|tell me another joke|do you know any jokes?]",
    )
    return Turn(
        as_typed(rng, question), preferred(rng, _JOKES, "joke"), "The user wants a joke. I know a few.", question, "small talk", exact=False
    )
