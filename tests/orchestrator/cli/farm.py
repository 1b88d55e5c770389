"""The `farm` command, run in this process."""

from __future__ import annotations

import contextlib
import io
import sys
from unittest import mock

from orchestrator.cli.app import main


def farm(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `farm ARGUMENTS`."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["farm", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as done:
            assert isinstance(done.code, int | None)
            return done.code or 0, out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()
