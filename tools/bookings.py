"""Write the conversations of the chat quick start: booking requests, and the lines that a restaurant notes them in.

python -m tools.bookings        (writes configs/data/bookings_{train,validation,test}.jsonl, always the same)
"""

from __future__ import annotations

import json
import random
from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "configs" / "data"
_ROWS = {"train": 400, "validation": 50, "test": 50}

_DAYS = {"Monday": "Mon", "Tuesday": "Tue", "Wednesday": "Wed", "Thursday": "Thu", "Friday": "Fri", "Saturday": "Sat"}
_PEOPLE = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
_TIMES = {f"{hour}{minutes} pm": f"{hour}{minutes or ':00'}" for hour in range(5, 10) for minutes in ("", ":30")}
_NAMES = [
    "Miller", "Rossi", "Tanaka", "Novak", "Okafor", "Silva", "Larsen", "Dubois", "Kaya", "Moreau", "Fischer", "Patel",
    "Jansen", "Costa", "Weber", "Haddad", "Lindqvist", "Romero", "Petrov", "Keller", "Mbeki", "Olsen", "Ferrari", "Ito",
]  # fmt: skip
_PLACES = {"by the window": "window", "on the terrace": "terrace", "near the bar": "bar", "": "any"}
_REQUESTS = [
    "Could we have a table for {people} on {day} at {time}{place}? The name is {name}.",
    "Hello, {name} here. I would like to come on {day} with {people} of us, at {time}{place}.",
    "Please book {day}, {time}, {people} people{place}, under {name}.",
    "We are {people} and hope to eat{place} this {day} around {time}. Put it under {name}, please.",
    "Is there room for {people}{place} on {day}? {time} would suit us best. My name is {name}.",
    "Table for {people}, {day} evening, {time}{place}. {name}.",
    "Hi! It is {name}. My friends and I, {people} in all, want to have dinner on {day} at {time}{place}.",
    "I want to reserve for {people} at {time} on {day}{place}; you can write down {name}.",
]


def conversation(rng: random.Random) -> list[dict[str, str]]:
    """Return one request and its line: day, time, people, place, name."""
    day, people, time = rng.choice(list(_DAYS)), rng.choice(list(_PEOPLE)), rng.choice(list(_TIMES))
    name, place = rng.choice(_NAMES), rng.choice(list(_PLACES))
    request = rng.choice(_REQUESTS).format(
        people=people, day=day, time=time, name=name, place=f" {place}" if place else ""
    )
    line = f"{_DAYS[day]} {_TIMES[time]} | {_PEOPLE[people]} | {_PLACES[place]} | {name}"
    return [{"role": "user", "content": request}, {"role": "assistant", "content": line}]


def main() -> None:
    """Write the files; no request is in two of them."""
    rng, seen = random.Random(0), set()
    for split, count in _ROWS.items():
        lines: list[str] = []
        while len(lines) < count:
            messages = conversation(rng)
            if messages[0]["content"] not in seen:
                seen.add(messages[0]["content"])
                lines.append(json.dumps({"messages": messages}) + "\n")
        (_FOLDER / f"bookings_{split}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
