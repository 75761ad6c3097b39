"""Facts about people, planted in memories and asked for by name: what a user notices when composition goes wrong."""

from __future__ import annotations

import random
from dataclasses import dataclass

_NAMES = (
    "Anna Boris Clara Daniel Elena Farid Greta Hugo Ines Jonas Karin Luis Marta Nils Olga Pedro Quinn Rosa Stefan Tara "
    "Umar Vera Walter Xenia Yusuf Zoe Amir Bella Carlos Dora Emil Fiona Goran Helga Ivan Julia Kofi Lena Milan Nora "
    "Oscar Paula Ralf Sonia Tomas Ursula Victor Wanda Yara Zeno"
).split()
# A fact, the question for it, and what the fact may say: one word each, so that an answer either holds it or not.
_FACTS = (
    ("moved to {}", "Which city did {} move to?", "Lisbon Oslo Kyoto Prague"),
    ("plays the {}", "Which instrument does {} play?", "violin piano cello drums"),
    ("has a dog called {}", "What is {}'s dog called?", "Biscuit Rex Luna Bruno"),
    ("works as a {}", "What is {}'s job?", "nurse teacher baker pilot"),
    ("is allergic to {}", "What is {} allergic to?", "peanuts shellfish strawberries milk"),
    ("drives a {} car", "What colour is {}'s car?", "red green blue yellow"),
    ("was born in {}", "In which month was {} born?", "March July October January"),
    ("speaks {} at home", "Which language does {} speak at home?", "Greek Danish Arabic Portuguese"),
    ("collects {}", "What does {} collect?", "stamps coins teapots postcards"),
    ("married {}", "Who did {} marry?", "Hannah Robert Sophie George"),
    ("studies {} at university", "What does {} study at university?", "physics law history medicine"),
    ("swims in the {} club", "Which club does {} swim in?", "Dolphin Neptune Aurora Harbour"),
    ("likes {} ice cream best", "Which ice cream does {} like best?", "vanilla pistachio lemon coconut"),
    ("keeps {} in the garden", "Which animals does {} keep in the garden?", "rabbits chickens bees goats"),
    ("supports {}", "Which football team does {} support?", "Arsenal Benfica Ajax Celtic"),
    ("cooks {} on Sundays", "What does {} cook on Sundays?", "paella lasagna curry pancakes"),
    ("paints {}", "What does {} paint?", "horses ships mountains portraits"),
    ("lost a {} on the train", "What did {} lose on the train?", "wallet scarf camera umbrella"),
    ("drinks {} in the morning", "What does {} drink in the morning?", "coffee tea cocoa juice"),
    ("reads {} novels", "What kind of novels does {} read?", "crime fantasy romance war"),
)
_AROUND = (
    "The weather was mild and the trains ran late that week.",
    "We had soup and bread for dinner and talked until midnight.",
    "The garden needs some work before the summer starts.",
    "There was a long queue at the post office in the morning.",
    "A neighbour lent us a ladder to paint the kitchen wall.",
    "The old radio in the hall still plays music from the sixties.",
    "It rained during the picnic, so we ate in the car.",
    "The new library opens on Saturdays until the afternoon.",
    "The lift in our building was out of order again.",
    "Somebody left a wet coat over the chair in the hall.",
    "The bakery on the corner now sells small cakes too.",
    "A storm took down the big tree behind the school.",
    "The heating was off for two days in the cold spell.",
    "They showed an old film in the park last evening.",
    "The market had good tomatoes and very cheap melons.",
    "We fixed the gate and swept the leaves off the path.",
    "The phone ran out of battery halfway up the hill.",
    "There were swans on the river when we crossed the bridge.",
)


@dataclass(frozen=True)
class Fact:
    """A question about one person, and the word that answers it."""

    question: str
    answer: str


def planted(n: int, rng: random.Random) -> tuple[list[str], list[Fact]]:
    """``n`` memories of 20 to 60 tokens about as many people, at most 50, with a fact somewhere in each; the facts
    in the same order."""
    memories, facts = [], []
    for i, name in enumerate(rng.sample(_NAMES, n)):
        says, asks, values = _FACTS[i % len(_FACTS)]
        value = rng.choice(values.split())
        around = rng.sample(_AROUND, rng.choice([1, 1, 2, 2]))
        around.insert(rng.randint(0, len(around)), f"{name} {says.format(value)}.")
        memories.append(" ".join(around))
        facts.append(Fact(asks.format(name), value))
    order = rng.sample(range(n), n)
    return [memories[i] for i in order], [facts[i] for i in order]


def answered(fact: Fact, answer: str) -> bool:
    """Say whether the answer holds the fact's word."""
    return fact.answer.lower() in answer.lower()
