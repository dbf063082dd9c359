"""Read the token that a server asks for and a client sends."""

from pathlib import Path

LONGEST_TOKEN = 4096  # headers have 8,190 bytes at most


def read_token(file: Path) -> str:
    """Read a token from a file, since the command line of a process is open to every local user.

    Raises OSError where it cannot be read, and ValueError where a header could not carry it.
    """
    with file.open("rb") as content:
        # Not all of a file that may have no end.
        token = content.read(LONGEST_TOKEN + 1).strip()
    # Without one, the server would be open to all where its operator thinks it is not.
    if not token or len(token) > LONGEST_TOKEN or any(not 0x21 <= byte <= 0x7E for byte in token):
        rule = f"one token of printable ASCII characters without spaces, {LONGEST_TOKEN:,} at most"
        raise ValueError(f"{file} must hold {rule}")
    return token.decode()
