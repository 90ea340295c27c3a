#!/usr/bin/env python3
"""CPython's own test_selectors and test_asyncio, with select.epoll and with Doorbell in its place; compared.

    DOORBELL_LIBRARY=build/libdoorbell.so python3 examples/python/run_cpython_tests.py [--runs N] [MODULE ...]

Each module (test_selectors, test_asyncio, or a part like test_asyncio.test_events) runs in a process of its own, once
as it is and once with DoorbellSelector as selectors.EpollSelector and selectors.DefaultSelector. Then the outcome of
each test is compared. A test whose outcome differs is run again on both sides, up to N times (default 3), and counts as
a difference only if it never comes out the same: some of these tests depend on the clock.

Exit code: 0 no difference, 1 some, 2 bad usage, 77 this Python has no test package (Debian: libpython3.11-testsuite).
"""

import argparse
import collections
import faulthandler
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
SIDES = ("epoll", "doorbell")
OUTCOMES = ("passed", "failed", "skipped")
LIMIT = 1800  # seconds that a module may take before it is said to hang, and where


class Outcomes(unittest.TextTestResult):
    """The outcome of each test by its name. A test with a failed subtest has failed."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.outcomes = {}

    def _note(self, test, outcome):
        name = getattr(test, "test_case", test).id()  # of a subtest: of the test around it
        if self.outcomes.get(name) != "failed":
            self.outcomes[name] = outcome

    def addSuccess(self, test):
        super().addSuccess(test)
        self._note(test, "passed")

    def addError(self, test, error):
        super().addError(test, error)
        self._note(test, "failed")

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self._note(test, "failed")

    def addSubTest(self, test, subtest, error):
        super().addSubTest(test, subtest, error)
        if error:
            self._note(test, "failed")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self._note(test, "skipped")

    def addExpectedFailure(self, test, error):
        super().addExpectedFailure(test, error)
        self._note(test, "passed")

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self._note(test, "failed")


def run_here(side, names, output):
    """In the process of one side: runs the tests and writes what became of them to the file `output`."""
    import selectors

    faulthandler.dump_traceback_later(LIMIT, exit=True)
    made = 0
    if side == "doorbell":
        sys.path.insert(0, HERE)
        from doorbell_selectors import DoorbellSelector

        # The name matters: test_selectors chooses by it what to test.
        class EpollSelector(DoorbellSelector):
            def __init__(self):
                nonlocal made
                made += 1
                super().__init__()

        selectors.EpollSelector = selectors.DefaultSelector = EpollSelector
    suite = unittest.defaultTestLoader.loadTestsFromNames(names)
    result = unittest.TextTestRunner(verbosity=2, resultclass=Outcomes).run(suite)
    with open(output, "w") as f:
        json.dump({"outcomes": result.outcomes, "selectors": made}, f)


def run(side, names):
    """Outcomes by name, and how many DoorbellSelectors were made."""
    with tempfile.TemporaryDirectory() as scratch:
        output = os.path.join(scratch, "outcomes.json")
        command = [sys.executable, os.path.abspath(__file__), "--side", side, "--output", output] + names
        with open(os.path.join(scratch, "log"), "w+") as log:
            code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=scratch).returncode
            if not os.path.exists(output):
                log.seek(0)
                sys.stdout.write(log.read()[-4000:])
                sys.exit(f"{side}: the tests did not come to their end: exit code {code}")
            log.seek(0)
            with open(output) as f:
                answer = json.load(f)
            return answer["outcomes"], answer["selectors"], log.read()


def differing(a, b):
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", default=["test_selectors", "test_asyncio"])
    parser.add_argument("--runs", type=int, default=3, help="how often a test may run before it differs (default 3)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        return run_here(arguments.side, arguments.modules, arguments.output)

    names = ["test." + module for module in arguments.modules]
    for name in names:
        package = ".".join(name.split(".")[:2])
        if not importlib.util.find_spec(package):
            print(f"skipped: {sys.executable} has no {package} (Debian: apt-get install libpython3.11-testsuite)")
            return 77
    library = os.environ.get("DOORBELL_LIBRARY")
    if library:
        os.environ["DOORBELL_LIBRARY"] = os.path.abspath(library)  # the tests run in a folder of their own

    print(f"Python {platform.python_version()}, Linux {platform.release()}")
    print(f"{'module':<40} {'instead':<9}" + "".join(f"{outcome:>9}" for outcome in OUTCOMES) + f"{'selectors':>11}")
    remaining = []
    for module, name in zip(arguments.modules, names):
        sides = {}
        for side in SIDES:
            sides[side], made, log = run(side, [name])
            count = collections.Counter(sides[side].values())
            row = f"{module:<40} {side:<9}" + "".join(f"{count[o]:>9}" for o in OUTCOMES)
            print(f"{row}{made or '':>11}".rstrip(), flush=True)
            if not sides[side] or (side == "doorbell") != bool(made):
                sys.exit(log[-4000:] + f"\n{side}: no tests ran, or not on what they should")
        for test in sorted(t for t, o in sides["epoll"].items() if o == sides["doorbell"].get(t) == "failed"):
            print(f"  fails with both: {test}")
        different = differing(sides["epoll"], sides["doorbell"])
        for attempt in range(1, arguments.runs):
            # What is not a test (a module that does not load, setUpClass) cannot be run again by its name.
            if not different or any("(" in test for test in different):
                break
            for test in different:
                print(f"  run again: {test}: epoll {sides['epoll'].get(test)}, doorbell {sides['doorbell'].get(test)}")
            again = [run(side, different)[0] for side in SIDES]
            different = differing(*again)
        for test in different:
            print(f"  DIFFERS: {test}: epoll {sides['epoll'].get(test)}, doorbell {sides['doorbell'].get(test)}")
        remaining += different
    print(f"tests that come out differently: {len(remaining)}" if remaining else "no test comes out differently")
    return 1 if remaining else 0


if __name__ == "__main__":
    sys.exit(main())
