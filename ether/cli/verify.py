"""`ether verify FILE`: prove that nothing is missing, or say what is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ether.cli import output
from ether.cli.arguments import AsJson, RecordingFile

if TYPE_CHECKING:
    from ether.recorder.verify import Report

__all__ = ["GUARANTEE_BROKEN", "holes_text", "verdict", "verify"]

GUARANTEE_BROKEN = 5


def verify(file: RecordingFile, json: AsJson = False) -> int:
    """Prove that a recording is complete.

    By the publishers' own numbers. Exit 5, and what is missing, if it is not.
    """
    from ether.recorder import verify as verifier

    report = verifier.verify(file)
    if json:
        output.as_json(report.as_dict(), indent=2)
    else:
        _show(report)
        output.line(f"{file}: {verdict(report)}")
    return 0 if report.complete else GUARANTEE_BROKEN


def _show(report: Report) -> None:
    output.table(
        ["PUBLISHER", "TOPIC", "LEVEL", "FIRST", "LAST", "RECEIVED", "STORED", "TWICE", "REJECTED", "MISSING", "HOLES"],
        [
            [
                tally.publisher or "(unnumbered)",
                tally.topic,
                tally.level,
                tally.first if tally.first >= 0 else None,
                tally.last if tally.last >= 0 else None,
                tally.received,
                tally.stored,
                tally.duplicates,
                tally.rejected,
                tally.missing,
                holes_text(tally.holes),
            ]
            for tally in report.tallies
        ],
    )
    if report.revisions:
        output.line(f"revisions: {report.revisions}, up to sha256 {report.revisions_sha256}")
    for each in report.reported:
        losses = ", ".join(f"{name} {count:,}" for name, count in each.items() if name not in ("publisher", "boot"))
        output.line(f"reported: {each['publisher']} (boot {each['boot']}): {losses}")
    for line in report.unproven:
        output.line(f"unproven: {line}")
    for line in report.damage:
        output.line(f"damage: {line}")


def verdict(report: Report) -> str:
    """Return ``complete``, or what keeps the recording from being so."""
    if report.complete:
        return f"complete, {report.messages:,} messages"
    reasons = [
        f"{report.missing:,} readings are missing" if report.missing else "",
        f"{len(report.unproven)} ends are unknown" if report.unproven else "",
        f"{len(report.damage)} places are damaged" if report.damage else "",
        f"it was not closed in order (it is {report.state})" if report.state != "sealed" else "",
    ]
    return "INCOMPLETE: " + ", ".join(reason for reason in reasons if reason)


def holes_text(holes: Sequence[Sequence[int]]) -> str:
    """Return ``4 7-9`` for the holes ``[[4, 4], [7, 9]]``."""
    return " ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in holes)
