"""What `mythos bench speculation` asks: requests of three kinds, which drafts foresee more or less of."""

_CODE = """def mean(values):
    total = 0
    for value in values:
        total = total + value
    return total / len(values)


def variance(values):
    middle = mean(values)
    total = 0
    for value in values:
        total = total + (value - middle) ** 2
    return total / len(values)
"""

_TEXT = (
    "The river rises in the hills north of the town. In spring it carries melted snow, and the lower meadows "
    "are under water for some weeks. The old bridge was built of stone in three arches; the middle one was "
    "rebuilt after a flood. Since then a gauge at the bridge shows the level of the water, and the mill "
    "below it closes its gates when the level passes two metres. Boats may pass the bridge by day only."
)

PROMPTS: dict[str, tuple[str, ...]] = {
    # Nothing of the answer stands in the question.
    "chat": (
        "What is the difference between weather and climate?",
        "Give me three tips for learning a new language.",
        "Why is the sky blue? Explain it to a child.",
        "Write a short story about a lighthouse keeper.",
        "How do I make a good cup of tea?",
        "What should I think about before I buy a used bicycle?",
    ),
    # Code is written anew: it repeats itself more than speech does.
    "code": (
        "Write a Python function that returns the n-th Fibonacci number, with a docstring and an example.",
        "Write a Python class for a stack with push, pop, peek and is_empty.",
        "Write a SQL table for customers and one for orders, and a query that counts orders per customer.",
        "Write a Python function that reads a CSV file and returns a list of dictionaries.",
        "Write an HTML page with a table of three products and their prices.",
        "Write a Python function that checks whether a string is a palindrome, and three tests for it.",
    ),
    # Most of the answer stands in the question.
    "edit": (
        f"Add a docstring to each function and return the whole file:\n\n```python\n{_CODE}```",
        f"Rename `values` to `numbers` everywhere and return the whole file:\n\n```python\n{_CODE}```",
        f"Repeat this text, and put each sentence on a line of its own:\n\n{_TEXT}",
        f"Correct the spelling of this text and return all of it:\n\n{_TEXT}",
        f"Which sentences of this text speak of the bridge? Quote them.\n\n{_TEXT}",
        f"Return this file with a function `median` added at its end:\n\n```python\n{_CODE}```",
    ),
}
