"""Ways to begin a question, in the notation of `grammar.expand`."""

WHAT = "[what is|what's|whats]"
HOW = "[how do i|how can i|how do you|how would i|how to|how should i|what is the way to|show me how to|tell me how to|i want to|i need to|what command do i use to|explain how to]"
TELL = "[tell me about|explain|describe|what is|what's|what about|say something about|give me information on]"
DOES = "[what does {x} do|what is {x}|what's {x}|what is {x} for|what is {x} good for|what can {x} do|explain {x}|describe {x}|tell me about {x}|how does {x} work|how do i use {x}|how to use {x}|when do i use {x}|why would i use {x}|help me with {x}|{x}|what happens when i run {x}]"


def command(name, extra=()):
    """Wordings of questions about one command."""
    forms = f"[zinc {name}|`zinc {name}`|the {name} command|the command {name}|the zinc {name} command|zinc's {name} command]"
    return [DOES.replace("{x}", forms), *extra]


def option(name, extra=()):
    forms = f"[{name}|`{name}`|the {name} flag|the {name} option|the option {name}|the flag {name}|the {name} switch]"
    return [
        "[what does {x} do|what is {x}|what's {x}|what is {x} for|explain {x}|what does {x} mean|tell me about {x}|how do i use {x}|when do i need {x}]".replace(
            "{x}", forms
        ),
        *extra,
    ]

