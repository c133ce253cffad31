"""A seeded grammar of plain English: a small world of people and towns, and texts about it.

The world (who lives where, who keeps which animal ...) comes from one seed, the texts from another, so calibration and
evaluation text speak of the same facts in other words. Facts have to be remembered in the weights, stories and sums
have to be followed in the context: both suffer when weights lose bits.
"""

import random

SYLLABLES = (
    "ba bel bor cal cor da del dor el fa fen gar gil ha hal ir jo kar kel la lin lor ma mel mir na "
    "nor o pel ra ris ro sa sel sol ta tal ter u va vel wen wil yor za zel"
).split()
ENDINGS = {
    "first": "a an en eth ia is o on ra us".split(),
    "last": "by dale ford ham man ner son stone ton wood".split(),
    "town": "bridge burg bury field gate haven mouth port stead ville".split(),
}

JOBS = (
    "baker carpenter cook doctor driver farmer fisher gardener judge mason miller nurse painter pilot "
    "potter sailor shepherd singer smith tailor teacher weaver"
).split()
ANIMALS = (
    "bear cat cow crow dog donkey duck fox goat goose hare hen horse lamb owl pig rabbit sheep swan wolf"
).split()
IRREGULAR = {
    "goose": "geese",
    "sheep": "sheep",
    "wolf": "wolves",
    "fox": "foxes",
    "box": "boxes",
    "loaf": "loaves",
    "knife": "knives",
    "child": "children",
    "brush": "brushes",
    "watch": "watches",
    "leaf": "leaves",
}
THINGS = (
    "apple basket bell blanket book bottle box brush candle chair clock coat coin cup drum flute "
    "hammer hat jar key knife lamp lantern leaf letter loaf map mirror needle pear pipe plate pot "
    "ring rope spoon stone table watch"
).split()
PLACES = (
    "attic barn cellar church cottage field forest garden harbour house inn kitchen library market "
    "mill orchard school stable tower valley"
).split()
COLOURS = "amber black blue brown crimson golden green grey orange purple red silver white yellow".split()
SIZES = (
    "big broad small heavy large light little long old young quiet clever happy hungry lazy patient proud tired"
).split()
INTRANSITIVE = [
    ("sleeps", "sleep"),
    ("waits", "wait"),
    ("sings", "sing"),
    ("walks", "walk"),
    ("runs", "run"),
    ("rests", "rest"),
    ("works", "work"),
    ("stands", "stand"),
    ("laughs", "laugh"),
    ("hides", "hide"),
]
TRANSITIVE = [
    ("sees", "see"),
    ("follows", "follow"),
    ("chases", "chase"),
    ("helps", "help"),
    ("knows", "know"),
    ("likes", "like"),
    ("hears", "hear"),
    ("watches", "watch"),
    ("meets", "meet"),
    ("fears", "fear"),
]
DIRECTIONS = "north south east west".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
).split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()


def plural(noun):
    return IRREGULAR.get(noun, noun + "s")


def article(words):
    return ("an " if words[0] in "aeiou" else "a ") + words


def in_words(number):
    """English words of 0 to 99."""
    if number <= 20:
        return NUMBERS[number]
    return TENS[number // 10] + ("-" + NUMBERS[number % 10] if number % 10 else "")


def listing(words):
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def upper(sentence):
    return sentence[0].upper() + sentence[1:]


class World:
    """The facts: the same for every text."""

    def __init__(self, seed, people=160, towns=40):
        rng = random.Random(seed)
        names = set()

        def name(kind):
            while True:
                word = "".join(rng.sample(SYLLABLES, 1)) + rng.choice(SYLLABLES) * (
                    kind == "town" and rng.random() < 0.3
                )
                word = upper(word + rng.choice(ENDINGS[kind]))
                if word not in names and len(word) > 3:
                    names.add(word)
                    return word

        self.towns = [
            {
                "name": name("town"),
                "river": name("last"),
                "known": rng.choice(THINGS),
                "people": 100 * rng.randint(2, 99),
                "founded": rng.randint(1100, 1799),
                "side": rng.choice(DIRECTIONS),
                "market": rng.choice(DAYS),
            }
            for _ in range(towns)
        ]
        firsts, lasts = [name("first") for _ in range(80)], [name("last") for _ in range(60)]
        self.people = []
        pairs = rng.sample([(f, l) for f in firsts for l in lasts], people)
        for first, last in pairs:
            born = rng.randint(1880, 1979)
            self.people.append(
                {
                    "first": first,
                    "name": f"{first} {last}",
                    "she": sum(map(ord, first)) % 2 == 0,
                    "town": rng.choice(self.towns)["name"],
                    "from": rng.choice(self.towns)["name"],
                    "job": rng.choice(JOBS),
                    "born": born,
                    "month": rng.choice(MONTHS),
                    "animal": rng.choice(ANIMALS),
                    "pet": name("first") if rng.random() < 0.3 else None,
                    "colour": rng.choice(COLOURS),
                    "thing": rng.choice(THINGS),
                }
            )
        for person in self.people:
            person["friend"] = rng.choice([p["name"] for p in self.people if p is not person])


class Writer:
    """Texts about a world; `seed` decides which."""

    def __init__(self, world, seed):
        self.world, self.rng = world, random.Random(seed)
        self.kinds = [
            (self.person, 30),
            (self.town, 12),
            (self.scene, 16),
            (self.story, 14),
            (self.counting, 5),
            (self.sums, 8),
            (self.talk, 8),
            (self.order, 4),
            (self.shopping, 6),
            (self.questions, 12),
        ]

    def text(self, size):
        """About `size` characters: one text a line."""
        lines, total = [], 0
        while total < size:
            lines.append(self.line())
            total += len(lines[-1]) + 1
        return "\n".join(lines) + "\n"

    def line(self):
        kind = self.rng.choices([k for k, _ in self.kinds], [w for _, w in self.kinds])[0]
        return kind()

    def person(self):
        p, rng = self.rng.choice(self.world.people), self.rng
        he, his = ("she", "her") if p["she"] else ("he", "his")
        facts = [
            rng.choice(
                [
                    f"{he} was born in {p['from']} in {p['born']}",
                    f"{he} was born in {p['month']} {p['born']} in {p['from']}",
                ]
            ),
            rng.choice(
                [f"{he} lives in {p['town']}", f"{his} house is in {p['town']}", f"{he} has a house in {p['town']}"]
            ),
            rng.choice(
                [
                    f"{he} works as {article(p['job'])}",
                    f"{he} is {article(p['job'])}",
                    f"{his} work is that of {article(p['job'])}",
                ]
            ),
            rng.choice(
                [
                    f"{he} keeps {article(p['animal'])}",
                    f"{he} has {article(p['colour'])} {p['thing']} and {article(p['animal'])}",
                ]
            ),
            rng.choice(
                [
                    f"{his} friend is {p['friend']}",
                    f"{he} often meets {p['friend']}",
                    f"{he} writes letters to {p['friend']}",
                ]
            ),
            f"the colour that {he} likes best is {p['colour']}",
            f"{he} never leaves the house without {his} {p['colour']} {p['thing']}",
        ]
        if p["pet"]:
            facts.append(f"the {p['animal']} is called {p['pet']}")
        chosen = rng.sample(facts, rng.randint(3, 5))
        opening = rng.choice(
            [
                f"{p['name']} is {article(p['job'])} from {p['from']}",
                f"{p['name']}, born in {p['born']}, lives in {p['town']}",
                f"This is {p['name']}, the {p['job']} of {p['town']}",
                f"Everybody in {p['town']} knows {p['name']}, the {p['job']}",
            ]
        )
        return " ".join(upper(s) + "." for s in [opening] + chosen)

    def town(self):
        t, rng = self.rng.choice(self.world.towns), self.rng
        other = rng.choice(self.world.towns)["name"]
        folk = [p["name"] for p in self.world.people if p["town"] == t["name"]]
        facts = [
            f"The town was founded in {t['founded']}.",
            f"About {t['people']} people live there.",
            f"It lies on the river {t['river']}.",
            f"The market is held on {t['market']}.",
            f"It is known for its {plural(t['known'])}.",
            f"The harbour is in the {t['side']} of the town.",
            f"The road from {t['name']} to {other} is long.",
        ]
        if folk:
            facts.append(f"{rng.choice(folk)} lives there.")
        opening = rng.choice(
            [
                f"{t['name']} is a town on the river {t['river']}.",
                f"{t['name']} was founded in {t['founded']}.",
                f"In {t['name']} the market is held on {t['market']}.",
            ]
        )
        return " ".join([opening] + rng.sample(facts, rng.randint(2, 4)))

    def noun_phrase(self, depth, many=None):
        """(words, is it a plural): with adjectives and, while depth lasts, a clause of its own."""
        rng = self.rng
        many = rng.random() < 0.4 if many is None else many
        noun = rng.choice(ANIMALS + JOBS)
        head = [rng.choice(SIZES)] if rng.random() < 0.5 else []
        if rng.random() < 0.2:
            head.append(rng.choice(COLOURS))
        count = [in_words(rng.randint(2, 12))] if many and rng.random() < 0.3 else []
        words = " ".join(["the"] + count + head + [plural(noun) if many else noun])
        if depth and rng.random() < 0.6:
            if rng.random() < 0.5:
                inner, _ = self.noun_phrase(depth - 1)
                words += f" that {rng.choice(TRANSITIVE)[many]} {inner}"
            else:
                inner, others = self.noun_phrase(depth - 1)
                words += f" that {inner} {rng.choice(TRANSITIVE)[others]}"
        return words, many

    def sentence(self, depth=2):
        rng = self.rng
        subject, many = self.noun_phrase(depth)
        if rng.random() < 0.5:
            verb = rng.choice(INTRANSITIVE)[many]
            end = f" {rng.choice(['in', 'near', 'behind'])} the {rng.choice(PLACES)}" if rng.random() < 0.7 else ""
            return f"{subject} {verb}{end}"
        return f"{subject} {rng.choice(TRANSITIVE)[many]} {self.noun_phrase(depth - 1)[0]}"

    def scene(self):
        rng = self.rng
        parts = []
        for _ in range(rng.randint(2, 4)):
            form = rng.random()
            if form < 0.2:
                parts.append(f"when {self.sentence(1)}, {self.sentence(1)}")
            elif form < 0.35:
                parts.append(f"{self.sentence(1)}, and {self.sentence(1)}")
            elif form < 0.5:
                parts.append(f"{rng.choice(self.world.people)['first']} says that {self.sentence(1)}")
            else:
                parts.append(self.sentence())
        return " ".join(upper(p) + "." for p in parts)

    def story(self):
        """Things change hands and places; the last sentences say where they are."""
        rng = self.rng
        people = rng.sample(sorted({p["first"] for p in self.world.people}), 3)
        things = rng.sample(THINGS, 2)
        things = [(rng.choice(COLOURS) + " " + t) for t in things]
        holder, lines = {}, []
        for thing in things:
            holder[thing] = rng.choice(people)
            lines.append(f"{holder[thing]} has {article(thing)}.")
        for _ in range(rng.randint(2, 5)):
            thing = rng.choice(things)
            giver, taker = holder[thing], rng.choice([p for p in people if p != holder[thing]])
            lines.append(
                rng.choice(
                    [
                        f"{giver} gives the {thing} to {taker}.",
                        f"{taker} takes the {thing} from {giver}.",
                        f"{giver} sells the {thing} to {taker} for {in_words(rng.randint(2, 20))} coins.",
                    ]
                )
            )
            holder[thing] = taker
        place = rng.choice(PLACES)
        keeper = rng.choice(people)
        lines.append(f"{keeper} goes to the {place}.")
        for thing in things:
            lines.append(
                f"Now {holder[thing]} has the {thing}."
                if holder[thing] != keeper
                else f"Now the {thing} is in the {place}."
            )
        return " ".join(lines)

    def counting(self):
        rng = self.rng
        step, start = rng.randint(1, 10), rng.randint(0, 30)
        numbers = [start + step * i for i in range(rng.randint(6, 11))]
        if rng.random() < 0.3:
            return f"Counting down by {in_words(step)}: " + ", ".join(map(str, reversed(numbers))) + "."
        if rng.random() < 0.4 and numbers[-1] < 100:
            return f"Counting by {in_words(step)}: " + ", ".join(map(in_words, numbers)) + "."
        return f"Counting by {in_words(step)}: " + ", ".join(map(str, numbers)) + "."

    def sums(self):
        rng, lines = self.rng, []
        for _ in range(rng.randint(3, 6)):
            a, b = rng.randint(0, 60), rng.randint(0, 39)
            form = rng.random()
            if form < 0.4:
                lines.append(f"{a} plus {b} is {a + b}.")
            elif form < 0.7:
                lines.append(f"{a + b} minus {b} is {a}.")
            elif form < 0.85:
                a, b = rng.randint(2, 12), rng.randint(2, 12)
                lines.append(f"{a} times {b} is {a * b}.")
            else:
                lines.append(upper(f"{in_words(a)} plus {in_words(b)} is {in_words(a + b)}."))
        return " ".join(lines)

    def talk(self):
        rng = self.rng
        one, two = rng.sample(self.world.people, 2)
        thing, place = rng.choice(THINGS), rng.choice(PLACES)
        thing = f"{rng.choice(COLOURS)} {thing}"
        lines = [
            f'"Where is my {thing}?" asks {one["first"]}.',
            f'"Your {thing} is in the {place}," says {two["first"]}.',
            f"{one['first']} goes to the {place} and finds the {thing}.",
        ]
        if rng.random() < 0.6:
            lines.append(
                f'"Do you know {two["friend"]}?" asks {one["first"]}. '
                f'"Yes," says {two["first"]}, "{two["friend"]} is my friend."'
            )
        if rng.random() < 0.4:
            lines.append(
                f'"I was born in {one["from"]}," says {one["first"]}, '
                f'"and now I am {article(one["job"])} in {one["town"]}."'
            )
        return " ".join(lines)

    def order(self):
        rng, form = self.rng, self.rng.random()
        if form < 0.35:
            words = rng.sample(ANIMALS + THINGS, rng.randint(4, 6))
            return f"In the order of the alphabet, {listing(words)} are {listing(sorted(words))}."
        if form < 0.6:
            words = rng.sample(ANIMALS + THINGS, rng.randint(3, 6))
            return f"Backwards, {listing(words)} are {listing(words[::-1])}."
        names = DAYS if form < 0.8 else MONTHS
        start, count = rng.randrange(len(names)), rng.randint(3, 6)
        return " ".join(
            f"After {names[(start + i) % len(names)]} comes {names[(start + i + 1) % len(names)]}."
            for i in range(count)
        )

    def shopping(self):
        rng = self.rng
        who = rng.choice(self.world.people)
        things = rng.sample(THINGS, rng.randint(2, 3))
        counts = [rng.randint(2, 9) for _ in things]
        bought = listing([f"{in_words(c)} {plural(t)}" for c, t in zip(counts, things)])
        he = "she" if who["she"] else "he"
        lost = rng.randint(1, counts[0] - 1)
        left = counts[0] - lost
        return (
            f"{who['first']} buys {bought}. Together that makes {in_words(sum(counts))} things. "
            f"On the way home {he} loses {in_words(lost)} of the {plural(things[0])}, "
            f"so {he} has {in_words(left)} {plural(things[0]) if left > 1 else things[0]} left."
        )

    def questions(self):
        rng, lines = self.rng, []
        for _ in range(rng.randint(2, 4)):
            p, t = rng.choice(self.world.people), rng.choice(self.world.towns)
            lines.append(
                rng.choice(
                    [
                        f"Where does {p['name']} live? In {p['town']}.",
                        f"What does {p['name']} do? {upper(article(p['job']))} is what {p['name']} is.",
                        f"When was {p['name']} born? In {p['born']}.",
                        f"Which animal does {p['name']} keep? {upper(article(p['animal']))}.",
                        f"Who is the friend of {p['name']}? {p['friend']}.",
                        f"On which river lies {t['name']}? On the {t['river']}.",
                        f"When was {t['name']} founded? In {t['founded']}.",
                        f"What is {t['name']} known for? For its {plural(t['known'])}.",
                    ]
                )
            )
        return " ".join(lines)
