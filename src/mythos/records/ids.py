"""Random identifiers. They carry no meaning, so an id tells its holder nothing about what it names."""

import secrets
import string

_ALPHABET = string.ascii_letters + string.digits
_LENGTH = 22  # 62**22 > 2**130


def new_id(prefix: str) -> str:
    """`prefix_` and 22 random letters and digits (131 bits), for example `msg_4fKq...`."""
    number, letters = secrets.randbelow(len(_ALPHABET) ** _LENGTH), []
    for _ in range(_LENGTH):
        number, letter = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[letter])
    return prefix + "_" + "".join(letters)
