"""The one exception for mistakes that the user can mend."""


class UserError(ValueError):
    """A user's mistake: the message names file or key, what was expected, what was found and how to mend it.

    The commands print the message without a traceback and exit with code 2.
    """
