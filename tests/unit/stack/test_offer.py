"""`pixorly emulator` as a user calls it."""

from typer.testing import CliRunner

from pixorly_stack.cli import app


def test_the_emulator_reads_its_own_options_and_lists_its_faults() -> None:
    shown = CliRunner().invoke(app, ["emulator", "--help"])

    assert shown.exit_code == 0
    assert "usage: pixorly emulator" in shown.output
    assert "--any-model" in shown.output
    assert "404model" in shown.output


def test_the_emulator_refuses_an_option_that_it_does_not_know() -> None:
    assert CliRunner().invoke(app, ["emulator", "--no-such"]).exit_code == 2
