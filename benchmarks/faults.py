"""The table of docs/reliability.md: what was injected, how often, and what held.

Runs the tests that inject faults and counts what they injected, as they record it themselves.
Interrupts come at some lines drawn at random, or, with ``--every-line``, at all of them.

Run it as ``python benchmarks/faults.py [--every-line] [--write]``; it takes minutes, or an hour.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- made by benchmarks/faults.py -->\n", "<!-- end -->\n"


class Trial(NamedTuple):
    """A kind of fault, the tests that inject it, and what they demand."""

    fault: str
    file: str
    test: str
    right: str


TRIALS = [
    Trial(
        "Ctrl-C at a line of our code, in fit, partial_fit, warm start, CV, search, prediction",
        "test_interrupts",
        "test_interrupt_at_any_line",
        "as before or fitted; torch's generator, threads, modes as before; a refit is bit for bit "
        "that of a new estimator",
    ),
    Trial("one bit of a saved file flipped, or its end cut off", "test_save", "test_every_damage",
          "ValueError that says which"),
    Trial("a file of something else, or of a newer format", "test_save", "test_other_files",
          "ValueError that says which"),
    Trial("a file, its checksum right, that names a function for a part", "test_save",
          "test_a_file_names_no_function", "ValueError; nothing is run"),
    Trial("a file, its checksum right, of another form", "test_save",
          "test_a_file_of_another_form", "ValueError that names the file"),
    Trial("kill -9 while a file is written over and over", "test_save", "test_a_file_is_whole",
          "the file is whole whenever it is read"),
    Trial("kill -9 in a training, also in the middle of a file of its Checkpoint", "test_progress",
          "test_goes_on_after_kill_9", "run again, it ends with bit for bit the same net"),
    Trial("a full disk while saving", "test_save", "test_a_file_stays_whole",
          "an error; the file before is whole, no other is left"),
    Trial("a full disk, or no folder, under skorch's Checkpoint", "test_skorch_compatibility",
          "test_a_checkpoint_that_cannot", "a warning at the end of fit"),
    Trial("parameters of another net, NaN among them", "test_load", "test_parameters",
          "error or warning; net as before"),
    Trial("optimizer state of another net", "test_load", "test_state",
          "error if shapes differ; net as before"),
    Trial("a file of save_params, one bit of it flipped or its end cut off", "test_load",
          "test_a_damaged_file", "error or the same parameters; net as before"),
    Trial("a parameter or weights of a wrong type", "test_wrong_types", "test_",
          "error that names it; nothing fitted"),
    Trial("a warm start on rows with labels of other classes", "test_classifier",
          "test_warm_start_refuses", "error; net as before"),
    Trial("a worker of a Dask cluster killed in a search", "test_search",
          "test_a_worker_that_dies", "the same table"),
    Trial("a worker of joblib's own processes killed in a search", "test_search",
          "test_a_killed_process", "joblib's error; as before; fitted again, the same table"),
    Trial("memory that runs out in fit, partial_fit, warm start, CV, search, prediction",
          "test_interrupts", "test_memory_that_runs_out", "MemoryError or torch's; as before"),
    Trial("a callback of scikit-learn's that raises in a search", "test_callbacks",
          "test_what_a_callback_raises", "it is raised, as GridSearchCV does"),
    Trial("what a GPU saved, where there is none", "test_devices", "test_a_file_is_loaded",
          "the same probabilities, on the CPU"),
    Trial("a fork after torch's threads were used", "test_threads", "test_forked_processes",
          "fits and predictions answer in the child"),
    Trial("a read-only memory map", "test_shared_rows", "test_a_memory_map", "no copy"),
    Trial("a module that writes to its input", "test_shared_rows", "test_a_module_that_writes",
          "the rows are as they were"),
    Trial("weights of 1e-300 to 1e300", "test_shared_rows", "test_weights",
          "as weights that float32 holds"),
    Trial("files and pickles of version 0.2.0", "test_pack", "test_files_of", "the probabilities"),
]  # fmt: skip


class Outcome(NamedTuple):
    """How many faults a trial injected, and how many of its tests failed."""

    n_injected: int
    n_tests: int
    n_failed: int


def run_tests(every_line: bool) -> list[ET.Element]:
    """Run the tests of all trials; give their records."""
    files = sorted({str(ROOT / "tests" / f"{trial.file}.py") for trial in TRIALS})
    names = " or ".join(sorted({trial.test for trial in TRIALS} - {"test_"}))
    whole = {trial.file for trial in TRIALS if trial.test == "test_"}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        chosen = " or ".join([names, *sorted(whole)])
        options = [
            "-q",
            "-n",
            "0",
            "-k",
            chosen,
            f"--junitxml={report}",
            "-o",
            "junit_family=xunit1",
        ]
        options += ["--every-line"] if every_line else []
        subprocess.run([sys.executable, "-m", "pytest", *options, *files], cwd=ROOT)
        return list(ET.parse(report).getroot().iter("testcase"))


def outcome_of(trial: Trial, cases: Sequence[ET.Element]) -> Outcome:
    """Count what a trial injected."""
    own = [
        case
        for case in cases
        if trial.file in case.attrib["classname"].split(".")
        and case.attrib["name"].startswith(trial.test)
    ]
    recorded = [
        int(prop.attrib["value"])
        for case in own
        for prop in case.iter("property")
        if prop.attrib["name"] == "injected"
    ]
    failed = [case for case in own if {"failure", "error"} & {child.tag for child in case}]
    return Outcome(sum(recorded) + len(own) - len(recorded), len(own), len(failed))


def table(cases: Sequence[ET.Element]) -> str:
    """Lay out the table."""
    lines = ["| injected | times | right | held |", "| --- | ---: | --- | --- |"]
    for trial in TRIALS:
        found = outcome_of(trial, cases)
        held = (
            "yes"
            if found.n_tests and not found.n_failed
            else (
                f"no: {found.n_failed} of {found.n_tests} tests fail"
                if found.n_tests
                else "not run"
            )
        )
        lines.append(f"| {trial.fault} | {found.n_injected:,} | {trial.right} | {held} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every-line", action="store_true", help="interrupt at every line")
    parser.add_argument("--write", action="store_true", help="put the table in the page")
    options = parser.parse_args(argv)
    made = table(run_tests(options.every_line))
    print(made)
    if options.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        PAGE.write_text(before + BEGIN + made + END + after, encoding="utf-8")
    return made


if __name__ == "__main__":
    main()
