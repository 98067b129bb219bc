"""What may reach the terminal, and errors' codes."""

from io import StringIO

from mythos.cli.output import Exit, amount, exit_code, money, printable, show
from mythos.records.dsse import SignatureError
from mythos.records.errors import MythosError


def test_an_answer_cannot_drive_the_terminal():
    hostile = "a\x1b]0;title\x07b\x1b[2Jc\x9b1md\re\x00f\x7f"
    assert printable(hostile) == "a]0;titleb[2Jc1mdef"
    assert printable("one\n\ttwo é 漢 🙂") == "one\n\ttwo é 漢 🙂"


def test_lower_errors_have_codes():
    assert exit_code(SignatureError("x")) is Exit.REFUSED
    assert exit_code(MythosError("x")) is Exit.FAILED


def test_numbers_in_words():
    assert [amount(n) for n in (7, 2048, 134_515_008, 9.9e12)] == ["7", "2.0K", "134.5M", "9.9T"]
    assert money(0.0000125, "USD") == "0.0000125 USD"
    assert money(12.5, "USD") == "12.50 USD" and money(0, "EUR") == "0.00 EUR"


def test_what_is_shown_follows_stdout(capsys, monkeypatch) -> None:
    """A console that was made while stdout was something else writes where stdout is now."""
    with monkeypatch.context() as other:
        other.setattr("sys.stdout", StringIO())
        show("elsewhere")
    show("here")
    assert capsys.readouterr().out == "here\n"
