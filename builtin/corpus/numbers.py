"""Arithmetic, sorting, counting, spelling: each answer is computed, each reasoning is the steps of the computation."""

from .grammar import as_typed_exact, expand
from .turn import Turn
from . import words as w


def _operand(rng):
    kind = rng.random()
    if kind < 0.35:
        return rng.randrange(0, 21)
    if kind < 0.85:
        return rng.randrange(0, 101)
    return rng.randrange(100, 1000 if kind < 0.96 else 10000)


def add_steps(a, b):
    """Column addition, as text."""
    names = ["ones", "tens", "hundreds", "thousands"]
    carry, lines, place = 0, [], 0
    digits_a, digits_b = str(a)[::-1], str(b)[::-1]
    for place in range(max(len(digits_a), len(digits_b))):
        x = int(digits_a[place]) if place < len(digits_a) else 0
        y = int(digits_b[place]) if place < len(digits_b) else 0
        total = x + y + carry
        text = f"{x} + {y}" + (f" + {carry}" if carry else "") + f" = {total}"
        carry = total // 10
        lines.append(f"{names[place]}: {text}" + (f", write {total % 10} carry 1" if carry else ""))
    return "\n".join(lines)


def sub_steps(a, b):
    """Subtraction of b from a >= b by tens and ones."""
    tens, ones = b // 10 * 10, b % 10
    if tens and ones:
        return f"{a} - {tens} = {a - tens}\n{a - tens} - {ones} = {a - b}"
    return f"{a} - {b} = {a - b}"


def mul_steps(a, b):
    if a < 10 and b >= 10:
        a, b = b, a
    if a < 10 or a % 10 == 0 and b < 10:
        return f"{a} × {b} = {a * b}"
    if b < 10:
        hi, lo = a // 10 * 10, a % 10
        return f"{hi} × {b} = {hi * b}\n{lo} × {b} = {lo * b}\n{hi * b} + {lo * b} = {a * b}"
    tens, ones = b // 10 * 10, b % 10
    return f"{a} × {tens} = {a * tens}\n{a} × {ones} = {a * ones}\n{a * tens} + {a * ones} = {a * b}"


def compute(rng):
    """(symbol, a, b, result, steps) of one sum, difference, product or exact quotient."""
    symbol = rng.choice("+++--**/")
    if symbol == "+":
        a, b = _operand(rng), _operand(rng)
        return symbol, a, b, a + b, add_steps(a, b)
    if symbol == "-":
        a, b = _operand(rng), _operand(rng)
        if a < b and rng.random() < 0.85:
            a, b = b, a
        steps = sub_steps(a, b) if a >= b else f"{b} is larger than {a}, so the result is negative.\n{sub_steps(b, a)}"
        return symbol, a, b, a - b, steps
    if symbol == "*":
        a, b = rng.choice(
            [
                (rng.randrange(0, 13), rng.randrange(0, 13)),
                (rng.randrange(2, 100), rng.randrange(2, 10)),
                (rng.randrange(2, 10), rng.randrange(2, 100)),
                (rng.randrange(10, 30), rng.randrange(10, 30)),
            ]
        )
        return symbol, a, b, a * b, mul_steps(a, b)
    b, q = rng.randrange(1, 13), rng.randrange(0, 21)
    return symbol, b * q, b, q, f"{b} × {q} = {b * q}"


_SIGN = {"+": "+", "-": "-", "*": "×", "/": "÷"}
_TYPED = {"+": "[+|+|plus]", "-": "[-|-|minus]", "*": "[*|x|×|times]", "/": "[/|÷|divided by]"}
_ASK = {
    "+": [
        "add {a} and {b}",
        "[the sum of|what is the sum of] {a} and {b}",
        "add {b} to {a}",
        "how much is {a} and {b} together",
        "sum {a} and {b}",
        "[what do i get|what do you get] if [i|you] add {a} and {b}",
    ],
    "-": [
        "subtract {b} from {a}",
        "take {b} away from {a}",
        "[the difference between|what is the difference between] {a} and {b}",
        "{a} take away {b}",
        "what is {b} less than {a}",
    ],
    "*": [
        "multiply {a} by {b}",
        "multiply {a} and {b}",
        "[the product of|what is the product of] {a} and {b}",
        "how much is {a} times {b}",
    ],
    "/": ["divide {a} by {b}", "how often does {b} go into {a}", "share {a} equally among {b}", "how many times does {b} fit into {a}"],
}


def arithmetic(rng, carry=None):
    symbol, a, b, result, steps = compute(rng)
    key = f"{symbol} {min(a, b)} {max(a, b)}" if symbol in "+*" else f"{symbol} {a} {b}"
    say = (lambda n: w.number_word(n)) if rng.random() < 0.15 and max(a, b) < 1000 else str
    if rng.random() < 0.68 or symbol == "-" and a < b:
        space = rng.choice([" ", " ", " ", ""])
        typed = expand(rng, _TYPED[symbol])
        body = f"{say(a)}{space}{typed}{space}{say(b)}" if not typed[0].isalpha() or space else f"{say(a)} {typed} {say(b)}"
        question = expand(
            rng,
            rng.choice(
                [
                    "what is {q}?",
                    "what is {q}?",
                    "what's {q}?",
                    "{q}",
                    "{q} = ?",
                    "{q} =",
                    "calculate {q}",
                    "compute {q}",
                    "how much is {q}?",
                    "can you [compute|calculate] {q}?",
                    "{q}?",
                    "what does {q} [make|give|equal]?",
                    "solve {q}",
                    "tell me what {q} is",
                    "please calculate {q}",
                    "work out {q}",
                    "do you know what {q} is?",
                    "i need to know {q}",
                ]
            ),
        ).replace("{q}", body)
    else:
        question = expand(rng, rng.choice(_ASK[symbol])).replace("{a}", say(a)).replace("{b}", say(b)) + rng.choice(["", ".", "?"])
    return Turn(
        as_typed_exact(rng, question),
        f"{a} {_SIGN[symbol]} {b} = {result}.",
        f"{steps}\nSo the result is {result}.",
        key,
        "arithmetic",
        result=result,
    )


def arithmetic_follow_up(rng, previous):
    """A turn that continues with the result of the last one."""
    base = previous.result
    if base is None or not 0 <= base <= 2000:
        return None
    symbol, b = rng.choice([("+", rng.randrange(1, 51)), ("-", rng.randrange(0, min(base, 50) + 1)), ("*", rng.randrange(2, 6))])
    if symbol == "*" and base > 200:
        symbol = "+"
    ask = {
        "+": ["[now |and |then |]add {b}", "plus {b}", "and plus {b}?", "what if you add {b}?", "add {b} to that", "add {b} to the result"],
        "-": ["[now |and |then |]subtract {b}", "minus {b}", "and minus {b}?", "subtract {b} from that", "take away {b}"],
        "*": ["[now |and |then |]multiply by {b}", "times {b}", "and times {b}?", "multiply that by {b}", "multiply the result by {b}"],
    }
    result = {"+": base + b, "-": base - b, "*": base * b}[symbol]
    steps = {"+": add_steps, "-": sub_steps, "*": mul_steps}[symbol](base, b)
    return Turn(
        as_typed_exact(rng, expand(rng, rng.choice(ask[symbol])).replace("{b}", str(b))),
        f"{base} {_SIGN[symbol]} {b} = {result}.",
        f"The last result was {base}.\n{steps}\nSo the result is {result}.",
        f"follow {base} {symbol} {b}",
        "arithmetic follow-up",
        result=result,
    )


def powers(rng):
    """Squares, square roots, halves, doubles and round percentages."""
    n = rng.randrange(0, 21)
    kind = rng.randrange(4)
    if kind == 0:
        question, answer, result, steps = (
            rng.choice([f"what is {n} squared?", f"the square of {n}", f"{n}^2", f"{n} squared"]),
            f"{n} × {n} = {n * n}.",
            n * n,
            mul_steps(n, n),
        )
    elif kind == 1:
        question, answer, result, steps = (
            rng.choice([f"what is the square root of {n * n}?", f"square root of {n * n}", f"sqrt({n * n})"]),
            f"The square root of {n * n} is {n}.",
            n,
            f"{n} × {n} = {n * n}",
        )
    elif kind == 2:
        n = rng.randrange(0, 201)
        if rng.random() < 0.5:
            question, answer, result, steps = (
                rng.choice([f"what is half of {2 * n}?", f"half of {2 * n}", f"what is the half of {2 * n}?"]),
                f"Half of {2 * n} is {n}.",
                n,
                f"2 × {n} = {2 * n}",
            )
        else:
            question, answer, result, steps = (
                rng.choice([f"what is double {n}?", f"double {n}", f"what is twice {n}?"]),
                f"Twice {n} is {2 * n}.",
                2 * n,
                add_steps(n, n),
            )
    else:
        percent, base = rng.choice([5, 10, 15, 20, 25, 30, 40, 50, 60, 75, 80, 90, 100]), 20 * rng.randrange(1, 31)
        result = percent * base // 100
        question, answer, steps = (
            rng.choice(
                [
                    f"what is {percent}% of {base}?",
                    f"{percent}% of {base}",
                    f"how much is {percent}% of {base}?",
                    f"what is {percent} percent of {base}?",
                ]
            ),
            f"{percent}% of {base} is {result}.",
            f"1% of {base} is {base / 100:g}\n{percent} × {base / 100:g} = {result}",
        )
    return Turn(as_typed_exact(rng, question), answer, steps, f"power {kind} {answer}", "arithmetic", result=result)


def sum_of_many(rng):
    numbers = [rng.randrange(1, rng.choice((10, 20, 50))) for _ in range(rng.randrange(3, 5))]
    joined = ", ".join(map(str, numbers))
    question = rng.choice(
        [
            f"what is {' + '.join(map(str, numbers))}?",
            f"{' + '.join(map(str, numbers))}",
            f"add up {joined}",
            f"what is the sum of {joined}?",
            f"sum of {joined}",
        ]
    )
    total, lines = numbers[0], []
    for n in numbers[1:]:
        lines.append(f"{total} + {n} = {total + n}")
        total += n
    return Turn(
        as_typed_exact(rng, question),
        f"{' + '.join(map(str, numbers))} = {total}.",
        "\n".join(lines) + f"\nSo the result is {total}.",
        f"many {joined}",
        "arithmetic",
        result=total,
    )


def _my_problem(rng, thing):
    """The same, told by the user."""
    a, b = rng.randrange(2, 41), rng.randrange(1, 31)
    shown = (lambda n: w.number_word(n)) if rng.random() < 0.25 else str
    if rng.random() < 0.5:
        verb, result, line = expand(rng, "[buy|get|find|pick]"), a + b, f"{a} + {b} = {a + b}"
        text = f"I have {shown(a)} {thing} and {verb} {shown(b)}{rng.choice([' more', ''])}."
    else:
        b = rng.randrange(1, a + 1)
        verb, result, line = (
            expand(rng, "[lose|give away|sell|drop]" if thing not in w.FOODS else "[eat|give away|sell]"),
            a - b,
            f"{a} - {b} = {a - b}",
        )
        text = f"I have {shown(a)} {thing} and {verb} {shown(b)}."
    ask = (
        rng.choice(["How many are left?", f"How many {thing} are left?"])
        if result < a and rng.random() < 0.6
        else rng.choice([f"How many {thing} do I have?", "How many do I have now?", f"How many {thing} do I have now?"])
    )
    return Turn(f"{text} {ask}", f"You have {result} {thing}.", line, f"problem {text}".lower(), "word problem", result=result)


def word_problem(rng):
    who, thing = w.person(rng), rng.choice(w.COUNTABLES)
    if rng.random() < 0.25:
        return _my_problem(rng, thing)
    a, b = rng.randrange(2, 41), rng.randrange(1, 31)
    kind = rng.randrange(4)
    pronoun = rng.choice(["she", "he", "they"])
    if kind == 0:
        verb = rng.choice(["[buys|gets|finds|receives|picks|is given] {b} more", "then [buys|gets|finds] another {b}"])
        text, result, line = f"{who} has {a} {thing} and {expand(rng, verb).replace('{b}', str(b))}.", a + b, f"{a} + {b} = {a + b}"
    elif kind == 1:
        b = rng.randrange(1, a + 1)
        verb = expand(rng, "[gives away|eats|loses|sells|drops]") if thing in w.FOODS else expand(rng, "[gives away|loses|sells|drops]")
        text, result, line = f"{who} has {a} {thing} and {verb} {b}.", a - b, f"{a} - {b} = {a - b}"
    elif kind == 2:
        a, b = rng.randrange(2, 13), rng.randrange(2, 13)
        box = rng.choice(["boxes", "bags", "baskets", "jars"])
        text, result, line = f"{who} has {a} {box} with {b} {thing} each.", a * b, f"{a} × {b} = {a * b}"
    else:
        other = w.person(rng)
        text, result, line = f"{who} has {a} {thing} and {other} has {b} {thing}.", a + b, f"{a} + {b} = {a + b}"
        ask = rng.choice(
            [f"How many {thing} do they have together?", f"How many {thing} do they have in total?", f"How many {thing} are there?"]
        )
        return Turn(
            f"{text} {ask}", f"They have {result} {thing} together.", line, f"problem {text}".lower(), "word problem", result=result
        )
    ask = rng.choice(
        [
            f"How many {thing} does {who} have now?",
            f"How many {thing} does {who} have?",
            f"How many {thing} are there?",
            "How many are there now?",
            f"How many {thing} {'do' if pronoun == 'they' else 'does'} {pronoun} have?",
        ]
    )
    return Turn(f"{text} {ask}", f"{who} has {result} {thing}.", line, f"problem {text}".lower(), "word problem", result=result)


def compare(rng):
    a, b = rng.randrange(0, 1000 if rng.random() < 0.5 else 100), rng.randrange(0, 100)
    if a == b:
        b += 1
    larger = rng.random() < 0.6
    word = rng.choice(["larger", "bigger", "greater", "more", "higher"] if larger else ["smaller", "less", "lower"])
    right = max(a, b) if larger else min(a, b)
    wrong = a + b - right
    question = rng.choice(
        [
            f"which is {word}, {a} or {b}?",
            f"which number is {word}: {a} or {b}?",
            f"what is {word}, {a} or {b}?",
            f"is {a} or {b} {word}?",
            f"{a} or {b}: which is {word}?",
        ]
    )
    noun = "larger" if larger else "smaller"
    return Turn(
        as_typed_exact(rng, question),
        f"{right} is {noun} than {wrong}.",
        f"I compare {a} and {b}: {right} is {noun}.",
        f"compare {a} {b} {larger}",
        "comparison",
    )


def parity(rng):
    n = rng.randrange(0, 1000 if rng.random() < 0.3 else 100)
    what = "even" if n % 2 == 0 else "odd"
    question = rng.choice([f"is {n} even or odd?", f"is {n} even?", f"is {n} odd?", f"is {n} an even number?", f"is {n} an odd number?"])
    return Turn(
        as_typed_exact(rng, question),
        f"{n} is {what}.",
        f"The last digit of {n} is {n % 10}, which is {what}.",
        f"parity {n}",
        "comparison",
    )


def _joined(rng, items):
    return rng.choice([", ", ", ", ", ", " ", ","]).join(items)


def sort_numbers(rng):
    n = rng.randrange(3, 9)
    top = rng.choice((10, 20, 100, 100, 1000))
    items = rng.sample(range(top), min(n, top))
    if rng.random() < 0.1:
        items[0] = items[-1]
    down = rng.random() < 0.25
    listed = _joined(rng, list(map(str, items)))
    order = (
        rng.choice(
            ["from largest to smallest", "in descending order", "descending", "largest first", "from high to low", "in reverse order"]
        )
        if down
        else rng.choice(
            ["", "", "", "in ascending order", "from smallest to largest", "ascending", "in order", "from low to high", "smallest first"]
        )
    )
    question = (
        rng.choice(
            [
                f"sort these numbers {order}: {listed}",
                f"sort {listed} {order}",
                f"sort {order}: {listed}",
                f"sort the numbers {listed} {order}",
                f"order these numbers {order}: {listed}",
                f"put these numbers in order {order if down else ''}: {listed}",
                f"can you sort {listed} {order}?",
                f"arrange {listed} {order or 'in order'}",
                f"please sort this list {order}: {listed}",
                f"sort the list {listed} {order}",
                f"sort this {order}: {listed}",
            ]
        )
        .replace("  ", " ")
        .replace(" :", ":")
        .replace(" ?", "?")
        .strip()
    )
    answer = sorted(items, reverse=down)
    first = "largest" if down else "smallest"
    rest, lines = list(items), []
    for value in answer[:-1]:
        rest.remove(value)
        lines.append(f"{first} {value}, left {' '.join(map(str, rest))}")
    return Turn(
        as_typed_exact(rng, question), ", ".join(map(str, answer)), "\n".join(lines), "sort " + " ".join(map(str, items)), "sorting"
    )


def sort_words(rng):
    pool = rng.choice([w.ANIMALS, w.FOODS, w.WORDS, w.WORDS, w.NAMES, w.COLOURS, "abcdefghijklmnopqrstuvwxyz"])
    items = rng.sample(list(pool), rng.randrange(3, 7))
    listed = _joined(rng, items)
    noun = "letters" if len(pool) == 26 else "names" if pool is w.NAMES else "words"
    question = rng.choice(
        [
            f"sort these {noun}: {listed}",
            f"sort these {noun} alphabetically: {listed}",
            f"sort {listed} alphabetically",
            f"put these {noun} in alphabetical order: {listed}",
            f"sort {listed}",
            f"alphabetical order: {listed}",
            f"order these {noun} from a to z: {listed}",
            f"sort the {noun} {listed}",
            f"can you sort these {noun}: {listed}?",
            f"sort alphabetically: {listed}",
        ]
    )
    answer = sorted(items)
    rest, lines = list(items), []
    for value in answer[:-1]:
        rest.remove(value)
        lines.append(f"first {value}, left {' '.join(rest)}")
    return Turn(as_typed_exact(rng, question), ", ".join(answer), "\n".join(lines), "sort " + " ".join(items), "sorting")


def extreme(rng):
    items = rng.sample(range(rng.choice((20, 100, 1000))), rng.randrange(3, 8))
    high = rng.random() < 0.5
    word = rng.choice(["largest", "biggest", "highest", "maximum"] if high else ["smallest", "lowest", "minimum"])
    listed = _joined(rng, list(map(str, items)))
    value = max(items) if high else min(items)
    noun = "largest" if high else "smallest"
    question = rng.choice(
        [
            f"what is the {word} of {listed}?",
            f"which is the {word} number: {listed}?",
            f"find the {word} number in {listed}",
            f"the {word} number of {listed}",
            f"{word} of {listed}?",
        ]
    )
    return Turn(
        as_typed_exact(rng, question),
        f"The {noun} number is {value}.",
        f"I go through the numbers {' '.join(map(str, items))}: {value} is the {noun}.",
        "extreme " + " ".join(map(str, items)),
        "sorting",
    )


def count_items(rng):
    thing = rng.choice([w.ANIMALS, w.NAMES, w.FOODS, w.WORDS, w.THINGS])
    items = [rng.choice(thing) for _ in range(rng.randrange(2, 10))]
    listed = ", ".join(items)
    question = rng.choice(
        [
            f"how many words are in this list: {listed}?",
            f"count these words: {listed}",
            f"how many words: {listed}",
            f"count the items: {listed}",
            f"how many items are in this list: {listed}",
            f"count {listed}",
        ]
    )
    lines = " ".join(f"{i + 1} {item}" for i, item in enumerate(items))
    noun = "items" if "item" in question else "words"
    return Turn(as_typed_exact(rng, question), f"There are {len(items)} {noun}.", lines, "count " + listed, "counting")


def count_range(rng):
    a = rng.choice((1, 1, 1, 0, rng.randrange(2, 30)))
    n = rng.randrange(3, 21)
    kind = rng.random()
    if kind < 0.25:
        values, question = list(range(a + n, a - 1, -1)), rng.choice(
            [f"count backwards from {a + n} to {a}", f"count down from {a + n} to {a}"]
            + ([f"count down from {a + n}", f"countdown from {a + n}", f"count backwards from {a + n}"] if a == 1 else [])
        )
    elif kind < 0.45:
        step = rng.choice((2, 3, 5, 10))
        values = list(range(step, step * (n // 2 + 2) + 1, step))
        question = rng.choice(
            [
                f"count by {w.number_word(step)}s to {values[-1]}",
                f"count in steps of {step} up to {values[-1]}",
                f"count to {values[-1]} in steps of {step}",
            ]
        )
    else:
        values = list(range(a, a + n + 1))
        question = rng.choice(
            [f"count from {a} to {a + n}", f"count from {a} up to {a + n}", f"list the numbers from {a} to {a + n}"]
            + ([f"count to {a + n}", f"count up to {a + n}", f"can you count to {a + n}?"] if a == 1 else [])
        )
    return Turn(
        as_typed_exact(rng, question),
        ", ".join(map(str, values)),
        f"I start at {values[0]} and stop at {values[-1]}.",
        f"range {values[0]} {values[-1]} {len(values)}",
        "counting",
    )


def next_number(rng):
    n = rng.randrange(0, 1000 if rng.random() < 0.4 else 100)
    after = rng.random() < 0.6
    question = rng.choice(
        [
            f"what number comes {'after' if after else 'before'} {n}?",
            f"which number {'follows' if after else 'comes before'} {n}?",
            f"what comes {'after' if after else 'before'} {n}?",
        ]
    )
    value = n + 1 if after else n - 1
    return Turn(
        as_typed_exact(rng, question),
        f"{value} comes {'after' if after else 'before'} {n}.",
        f"{n} {'+' if after else '-'} 1 = {value}",
        f"next {after} {n}",
        "counting",
    )


def letters(rng):
    """How often a letter occurs, how long a word is, spelling, reversing."""
    word = w.any_word(rng).lower()
    quoted = rng.choice([word, word, f'"{word}"', f"'{word}'", f"the word {word}", f'the word "{word}"'])
    spelled = "-".join(word)
    kind = rng.randrange(6)
    if kind <= 1:
        letter = rng.choice(word) if rng.random() < 0.85 else rng.choice("abcdefghijklmnopqrstuvwxyz")
        n = word.count(letter)
        question = rng.choice(
            [
                f"how many {letter}'s are in {quoted}?",
                f"how many times does {letter} appear in {quoted}?",
                f"how many {letter}s are there in {quoted}?",
                f"count the letter {letter} in {quoted}",
                f"how often does the letter {letter} occur in {quoted}?",
                f"how many {letter} in {quoted}?",
                f"how many letters {letter} are in {quoted}?",
                f"how many {letter}'s in {quoted}?",
            ]
        )
        times = {0: "does not appear", 1: "appears once", 2: "appears twice"}.get(n, f"appears {n} times")
        marks = " ".join(f"{c}{word[:i + 1].count(letter)}" if c == letter else c for i, c in enumerate(word))
        return Turn(
            as_typed_exact(rng, question),
            f"{spelled}: the letter {letter} {times}.",
            f"I go through the letters: {marks}. That makes {n}.",
            f"letter {letter} {word}",
            "letters",
        )
    if kind == 2:
        question = rng.choice(
            [
                f"how many letters does {quoted} have?",
                f"how many letters are in {quoted}?",
                f"how long is {quoted}?",
                f"count the letters of {quoted}",
                f"count the letters in {quoted}",
            ]
        )
        numbered = " ".join(f"{c}{i + 1}" for i, c in enumerate(word))
        return Turn(as_typed_exact(rng, question), f"{spelled}: {len(word)} letters.", numbered, f"length {word}", "letters")
    if kind == 3:
        question = rng.choice(
            [f"spell {quoted}", f"how do you spell {quoted}?", f"spell {quoted} letter by letter", f"how is {quoted} spelled?"]
        )
        return Turn(as_typed_exact(rng, question), spelled, f"The word is {word}.", f"spell {word}", "letters")
    if kind == 4:
        question = rng.choice(
            [
                f"reverse {quoted}",
                f"spell {quoted} backwards",
                f"write {quoted} backwards",
                f"what is {quoted} backwards?",
                f"reverse the letters of {quoted}",
            ]
        )
        return Turn(
            as_typed_exact(rng, question),
            word[::-1],
            f"The letters are {spelled}, backwards {'-'.join(word[::-1])}.",
            f"reverse {word}",
            "letters",
        )
    first = rng.random() < 0.5
    if rng.random() < 0.5:
        question = rng.choice(
            [f"write {quoted} in capital letters", f"{quoted} in upper case", f"make {quoted} uppercase", f"capitalise {quoted}"]
        )
        return Turn(as_typed_exact(rng, question), word.upper(), f"The letters are {spelled}.", f"upper {word}", "letters")
    question = rng.choice(
        [
            f"what is the {'first' if first else 'last'} letter of {quoted}?",
            f"which letter does {quoted} {'start' if first else 'end'} with?",
        ]
    )
    value = word[0] if first else word[-1]
    return Turn(
        as_typed_exact(rng, question),
        f"The {'first' if first else 'last'} letter is {value}.",
        f"The letters are {spelled}.",
        f"end {first} {word}",
        "letters",
    )
