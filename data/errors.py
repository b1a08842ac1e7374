"""The error that says what is wrong with a data set."""

SHOWN = 200  # characters of a value in a message


class DataError(ValueError):
    """Says in one line what is wrong with a data set and what to do."""

    @property
    def line(self) -> str:
        """The line alone, without the traceback that a worker of a DataLoader puts before it."""
        return str(self).rpartition(f"{type(self).__name__}: ")[2]


def shortened(text: str) -> str:
    """The beginning of a long text: a message never shows an image in base64."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
