"""The terminal side of `mythos chat`: editing, history, keys, streaming."""

import os
import sys

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from mythos.cli.chat import obey, show_piece
from mythos.cli.conversation import COMMANDS, Conversation, Quit, describe, footer
from mythos.cli.output import console
from mythos.records.errors import MythosError
from mythos.store.home import Home


def converse(talk: Conversation) -> int:
    """Read, answer, repeat, until /quit or Ctrl-D. An error is shown and the conversation goes on."""
    tell(f"{talk.tier} of family {talk.family.name}; /help lists the commands, Ctrl-D leaves")
    prompt = editor()
    while True:
        try:
            line = prompt.prompt("> ", handle_sigint=False).strip()
            if line.startswith("/"):
                line = obey(talk, line)
            if line:
                answer(talk, line)
        except KeyboardInterrupt:
            tell("Ctrl-D or /quit leaves")
        except MythosError as error:
            tell(describe(error))
        except (Quit, EOFError):
            return 0


def answer(talk: Conversation, question: str) -> None:
    """Stream one answer; Ctrl-C ends the answer, not the conversation."""
    try:
        given = talk.ask(question, show_piece)
    except KeyboardInterrupt:
        sys.stdout.write("\n")
        tell("stopped")
        return
    except MythosError:
        sys.stdout.write("\n")
        raise
    sys.stdout.write("" if given.text.endswith("\n") else "\n")
    tell(footer(given))


def tell(text: str) -> None:
    """A line that is not part of an answer; dim where the terminal can."""
    sys.stdout.flush()
    console().print(text, style="dim", highlight=False, markup=False)


def editor() -> PromptSession[str]:
    """An input line with history across sessions; the history file is private."""
    path = Home.open().path / "chat_history"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\") and not buffer.document.text_after_cursor:
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(path)),
        key_bindings=keys,
        multiline=True,
        prompt_continuation="  ",
        reserve_space_for_menu=4,
        completer=WordCompleter(COMMANDS, sentence=True),
        complete_while_typing=Condition(lambda: session.default_buffer.text.startswith("/")),
    )
    return session
