#!/usr/bin/env python3
"""Tests the examples as a user would use them: starts them, talks to them, kills them.

`make -C examples check` does it. OUT is the folder of the programs in C. What is missing on this machine (valgrind,
luajit, libuv, glib) is skipped, and told at the end. Arguments as for `python3 -m unittest`: `test.py EchoPoll`.
"""

import concurrent.futures
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.abspath(os.environ.get("OUT", os.path.join(HERE, "../build/examples")))
PATIENCE = 60  # seconds until something that should happen is given up
VALGRIND = ["valgrind", "-q", "--error-exitcode=99", "--leak-check=full"]
VALGRIND += ["--errors-for-leak-kinds=definite,indirect,possible"]
VALGRIND += ["--suppressions=" + os.path.join(HERE, "../c-tests/valgrind.supp")]


def within_patience(what, condition):
    """Asks again and again until `condition()` holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {PATIENCE} s: {what}")
        time.sleep(0.005)


class Program:
    """A running example. Its output is gathered as it comes; stdout and stderr together, but for `apart`."""

    def __init__(self, *command, stdin=subprocess.DEVNULL, apart=False, **named):
        errors = subprocess.PIPE if apart else subprocess.STDOUT
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=stdin, stdout=pipe, stderr=errors, bufsize=0, **named)
        self.output, self.errors = bytearray(), bytearray()
        pipes = [(self.process.stdout, self.output)] + ([(self.process.stderr, self.errors)] if apart else [])
        self.readers = [threading.Thread(target=self._gather, args=pipe, daemon=True) for pipe in pipes]
        for reader in self.readers:
            reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.process.poll() is None:  # the test has failed
            self.process.terminate()  # so that it can end what it has started
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
        for reader in self.readers:
            reader.join(10)
            if reader.is_alive():
                return  # something it started has the pipe open; closing it here would not end the read
        self.process.stdout.close()
        if self.process.stderr:
            self.process.stderr.close()

    @staticmethod
    def _gather(pipe, into):
        while True:
            got = pipe.read(65536)
            if not got:
                return
            into += got

    @property
    def text(self):
        return self.output.decode()

    def expect(self, pattern, count=1):
        """Waits until the output contains `pattern` so many times. Returns what its group caught, last."""

        def found():
            return len(re.findall(pattern, self.text)) >= count or self.process.poll() is not None

        try:
            within_patience(pattern, found)
            for reader in self.readers:
                if self.process.poll() is not None:
                    reader.join(PATIENCE)  # what it said last
            return re.findall(pattern, self.text)[count - 1]
        except (AssertionError, IndexError):
            raise AssertionError(f"{self.process.args}: no {pattern!r} ({count}) in:\n{self.text}") from None

    def falls_asleep(self):
        """Waits until all its threads are seen asleep ten times in a row. One that is busy with nothing never is, and
        on a busy machine, where it gets little of the processor, it still wants to run."""
        folder = f"/proc/{self.process.pid}/task"

        def state(thread):
            with open(f"{folder}/{thread}/stat") as f:
                return f.read().rpartition(")")[2].split()[0]

        def is_asleep():
            for _ in range(10):
                if any(state(thread) != "S" for thread in os.listdir(folder)):
                    return False
                time.sleep(0.005)
            return True

        within_patience(f"{self.process.args} sleeps", is_asleep)

    def end(self, number=None):
        """Sends a signal, if one is given. Returns the exit code."""
        if number is not None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.process.args} does not end; it said:\n{self.text}") from None
        for reader in self.readers:
            reader.join(PATIENCE)
            if reader.is_alive():
                raise AssertionError(f"{self.process.args} has ended, but not all that it started")
        return code


def run(*command, **named):
    pipe = subprocess.PIPE
    return subprocess.run(command, stdout=pipe, stderr=pipe, text=True, **{"timeout": PATIENCE, **named})


def in_c(name):
    path = os.path.join(OUT, name)
    if name.startswith("in_") and not os.path.exists(path):
        raise unittest.SkipTest(f"{name} was not built: its library is not here")
    return [path]


def connect(port):
    s = socket.create_connection(("127.0.0.1", port), PATIENCE)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


def read_exactly(s, n):
    got = bytearray()
    while len(got) < n:
        piece = s.recv(n - len(got))
        if not piece:
            raise AssertionError(f"the stream ended after {len(got)} of {n} bytes")
        got += piece
    return bytes(got)


class Case(unittest.TestCase):
    def check_usage(self, command, *wrong):
        """--help is answered on stdout with 0, wrong arguments on stderr with 2."""
        asked = run(*command, "--help")
        self.assertEqual((asked.returncode, asked.stderr), (0, ""))
        self.assertIn("usage:", asked.stdout)
        for arguments in wrong:
            refused = run(*command, *arguments)
            self.assertEqual((refused.returncode, refused.stdout), (2, ""), arguments)
            self.assertIn("usage:", refused.stderr)


class EchoServer:
    """Questions for every echo server."""

    def command(self):
        raise NotImplementedError

    def start(self, *arguments, before=(), **named):
        program = Program(*before, *self.command(), *(arguments or ["0"]), **named)
        self.addCleanup(program.__exit__)
        self.port = int(program.expect(r"listening on 127.0.0.1:(\d+)\n"))
        return program

    def open(self):
        s = connect(self.port)
        self.addCleanup(s.close)
        return s

    def check_echo(self, s, message):
        s.sendall(message)
        self.assertEqual(read_exactly(s, len(message)), message)

    def test_echoes_what_it_is_sent_and_then_more(self):
        self.start()
        s = self.open()
        for message in (b"hello\n", b"x", bytes(range(256)) * 200):
            self.check_echo(s, message)

    def test_serves_many_at_once(self):
        self.start()
        clients = [self.open() for _ in range(200)]
        for round in range(3):
            for i, s in enumerate(clients):
                s.sendall(b"%d of round %d\n" % (i, round))
            for i, s in enumerate(clients):
                expected = b"%d of round %d\n" % (i, round)
                self.assertEqual(read_exactly(s, len(expected)), expected)

    def test_a_client_that_does_not_read_holds_up_only_itself(self):
        program = self.start()
        slow, other = self.open(), self.open()
        slow.setblocking(False)
        pattern, sent = bytes(range(251)) * 4000, 0  # a period that is no power of two: misplaced bytes show
        while True:
            # Full for half a second: then the server, too, waits for room.
            if not select.select([], [slow], [], 0.5)[1]:
                break
            sent += slow.send(pattern[sent % 251 :])
        program.falls_asleep()
        self.check_echo(other, b"still here\n")
        slow.settimeout(PATIENCE)
        slow.shutdown(socket.SHUT_WR)
        received = bytearray()
        while True:
            piece = slow.recv(1 << 20)
            if not piece:
                break
            received += piece
        self.assertEqual(len(received), sent)
        self.assertEqual(bytes(received), (pattern * (sent // len(pattern) + 1))[:sent])

    def test_what_was_sent_before_the_end_comes_back_before_the_end(self):
        self.start()
        for size in (1, 4096, 4097, 100000):
            s = self.open()
            sender = threading.Thread(target=lambda: (s.sendall(b"q" * size), s.shutdown(socket.SHUT_WR)))
            sender.start()
            self.assertEqual(read_exactly(s, size), b"q" * size)
            self.assertEqual(s.recv(1), b"")
            sender.join()

    def test_the_end_that_comes_with_the_last_bytes_is_seen(self):
        program = self.start()
        s = self.open()
        self.check_echo(s, b"hello\n")
        program.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, program.process.pid, os.WSTOPPED | os.WNOWAIT)
        s.sendall(b"bye\n")
        s.shutdown(socket.SHUT_WR)
        program.process.send_signal(signal.SIGCONT)
        self.assertEqual(read_exactly(s, 4), b"bye\n")
        self.assertEqual(s.recv(1), b"")

    def test_a_client_that_resets_the_connection_harms_nobody(self):
        self.start()
        for _ in range(20):
            s = self.open()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            s.sendall(b"and away")
            s.close()
        self.check_echo(self.open(), b"still here\n")


class EchoServerInC(EchoServer):
    name = None

    def command(self):
        return in_c(self.name)

    def test_usage(self):
        self.check_usage(self.command(), [], ["-1"], ["65536"], ["x"], ["0", "0"], ["0", "1", "2"])

    def test_says_that_the_port_is_taken(self):
        self.start()
        second = run(*self.command(), str(self.port))
        self.assertEqual(second.returncode, 1)
        self.assertIn("Address already in use", second.stderr)

    def test_a_signal_ends_it_well_and_hangs_up(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            program = self.start()
            clients = [self.open() for _ in range(3)]
            for s in clients:
                self.check_echo(s, b"hello\n")
            self.assertEqual(program.end(number), 0)
            for s in clients:
                self.assertEqual(s.recv(1), b"")

    def test_hangs_up_on_who_is_silent_not_before_the_time_is_up(self):
        self.start("0", "300")
        begin = time.monotonic()
        self.assertEqual(self.open().recv(1), b"")
        self.assertGreater(time.monotonic() - begin, 0.299)

    def test_each_message_gives_a_client_more_time(self):
        self.start("0", "300")
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            begin, s = time.monotonic(), self.open()
            self.assertFalse(select.select([s], [], [], 0.2)[0] and time.monotonic() - begin < 0.299)
            last = time.monotonic()
            try:
                self.check_echo(s, b"x")
            except (AssertionError, OSError):
                continue  # too late, on a busy machine
            self.assertEqual(s.recv(1), b"")
            self.assertGreater(time.monotonic() - last, 0.299)
            return
        self.fail("never spoke in time")

    def test_hangs_up_on_who_does_not_read(self):
        self.start("0", "300")
        s = self.open()
        s.setblocking(False)
        watch = select.poll()
        watch.register(s, select.POLLOUT | select.POLLRDHUP)
        while True:
            [(_, events)] = watch.poll(PATIENCE * 1000) or [(None, 0)]
            if events & (select.POLLHUP | select.POLLERR | select.POLLRDHUP):
                return
            self.assertEqual(events, select.POLLOUT, "it waits for ever")
            try:
                s.send(bytes(100000))
            except BlockingIOError:
                pass
            except ConnectionError:
                return

    def test_survives_a_lack_of_fds(self):
        program = self.start(before=["sh", "-c", 'ulimit -n 24; exec "$@"', "sh"])
        clients = [self.open() for _ in range(60)]
        # The first have a place, the last are turned away.
        self.check_echo(clients[0], b"hello\n")
        try:
            self.assertEqual(clients[-1].recv(1), b"")
        except ConnectionError:
            pass
        for s in clients:
            s.close()

        def is_served():
            with connect(self.port) as s:
                try:
                    s.sendall(b"again\n")
                    return s.recv(1) == b"a"
                except ConnectionError:
                    return False

        within_patience("a client is served again", is_served)
        self.assertEqual(program.end(signal.SIGTERM), 0)

    @unittest.skipUnless(shutil.which("valgrind"), "no valgrind")
    def test_leaks_nothing(self):
        program = self.start("0", "60000", before=VALGRIND)
        for _ in range(3):
            clients = [self.open() for _ in range(5)]
            for s in clients:
                self.check_echo(s, b"hello\n" * 3000)
            clients.pop().close()
        self.assertEqual(program.end(signal.SIGTERM), 0, program.text)


class EchoPoll(EchoServerInC, Case):
    name = "echo_poll"


class EchoSlots(EchoServerInC, Case):
    name = "echo_slots"


class EchoQueue(EchoServerInC, Case):
    name = "echo_queue"


@unittest.skipUnless(shutil.which("luajit"), "no luajit")
class LuaJit(EchoServer, Case):
    script = os.path.join(HERE, "luajit/echo.lua")

    def command(self):
        return ["luajit", self.script, "serve"]

    def test_usage(self):
        self.check_usage(["luajit", self.script], [], ["serve"], ["call", "1"], ["other", "1"])

    def test_its_clients_get_their_answers_and_waste_no_reads(self):
        self.start()
        clients, rounds = 50, 20
        answer = run("luajit", self.script, "call", str(self.port), str(clients), str(rounds))
        self.assertEqual((answer.returncode, answer.stderr), (0, ""))
        pattern = r"(\d+) answers; parked (\d+) times; (\d+) system calls were told EAGAIN\n"
        counts = re.fullmatch(pattern, answer.stdout)
        answers, parked, refused = map(int, counts.groups())
        self.assertEqual(answers, clients * rounds)
        self.assertGreaterEqual(parked, clients * rounds)  # each round sleeps, if for nothing else
        self.assertLessEqual(refused, 2 * clients)  # the first write and the first read of a connection, not each round

    def test_its_clients_say_that_nobody_is_there(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))  # not listening
            answer = run("luajit", self.script, "call", str(s.getsockname()[1]), "2", "2")
        self.assertEqual((answer.returncode, answer.stdout), (1, ""))
        self.assertIn("the server is not there", answer.stderr)


class ThreadPool(Case):
    def setUp(self):
        self.folder = self.enterContextOf(tempfile.TemporaryDirectory())
        self.command = in_c("thread_pool")

    def enterContextOf(self, manager):
        self.addCleanup(manager.__exit__, None, None, None)
        return manager.__enter__()

    def file(self, name, content):
        path = os.path.join(self.folder, name)
        with open(path, "wb") as f:
            f.write(content)
        return path

    @staticmethod
    def line(path, content):
        value = 0xCBF29CE484222325
        for byte in content:
            value = (value ^ byte) * 0x100000001B3 % 2**64
        return f"{value:016x} {len(content):10} {path}"

    def files(self, n):
        contents = [b"%d" % i * i for i in range(n)]
        return {self.file(f"file {i}", c): c for i, c in enumerate(contents)}

    def test_usage(self):
        self.check_usage(self.command, [], ["0"], ["65"], ["x"], ["1", "2"])

    def test_sums_each_file_once(self):
        files = self.files(300)
        expected = sorted(self.line(path, content) for path, content in files.items())
        for workers in ("1", "2", "8"):
            answer = run(*self.command, workers, input="\n".join(files))  # the last line has no end
            self.assertEqual((answer.returncode, answer.stderr), (0, ""))
            self.assertEqual(sorted(answer.stdout.splitlines()), expected)

    def test_reads_names_from_a_file_or_nothing(self):
        path = self.file("abc", b"abc")
        names = self.file("names", path.encode() + b"\n")
        with open(names) as f:
            self.assertEqual(run(*self.command, "2", stdin=f).stdout, self.line(path, b"abc") + "\n")
        answer = run(*self.command, "3", stdin=subprocess.DEVNULL)
        self.assertEqual((answer.returncode, answer.stdout, answer.stderr), (0, "", ""))

    def test_tells_which_file_it_could_not_read_and_does_the_rest(self):
        path = self.file("abc", b"abc")
        answer = run(*self.command, "2", input=f"/nowhere/at all\n{path}\n{self.folder}\n")
        self.assertEqual(answer.returncode, 1)
        self.assertEqual(answer.stdout, self.line(path, b"abc") + "\n")
        complaints = {"/nowhere/at all: No such file or directory", f"{self.folder}: Is a directory"}
        self.assertEqual(set(answer.stderr.splitlines()), complaints)

    def test_a_job_that_blocks_holds_up_one_worker_only(self):
        pipe, path = os.path.join(self.folder, "pipe"), self.file("abc", b"abc")
        os.mkfifo(pipe)
        with Program("stdbuf", "-oL", *self.command, "2", stdin=subprocess.PIPE) as program:
            program.process.stdin.write(f"{pipe}\n".encode())
            with open(pipe, "wb") as f:  # opens when the job has opened it
                program.process.stdin.write(f"{path}\n".encode())
                program.expect(re.escape(self.line(path, b"abc")))
                f.write(b"late")
            program.expect(re.escape(self.line(pipe, b"late")))
            program.process.stdin.close()
            self.assertEqual(program.end(), 0)

    def test_says_how_far_it_is(self):
        path = self.file("abc", b"abc")
        with Program("stdbuf", "-oL", *self.command, "2", stdin=subprocess.PIPE) as program:
            program.process.stdin.write(f"{path}\n{path}\n".encode())
            program.expect(re.escape(self.line(path, b"abc")), 2)
            program.process.send_signal(signal.SIGUSR1)
            program.expect(r"\d done, 0 failed\n")
            program.process.stdin.close()
            self.assertEqual(program.end(), 0)

    @unittest.skipUnless(shutil.which("valgrind"), "no valgrind")
    def test_leaks_nothing(self):
        answer = run(*VALGRIND, *self.command, "4", input="\n".join(self.files(40)))
        self.assertEqual((answer.returncode, answer.stderr), (0, ""))
        self.assertEqual(len(answer.stdout.splitlines()), 40)


class Nested:
    name = own_timer = None

    def start(self, before=()):
        program = Program(*before, *in_c(self.name), stdin=subprocess.PIPE)
        self.addCleanup(program.__exit__)
        return program

    def test_usage(self):
        self.check_usage(in_c(self.name), ["x"])

    def test_fds_timeouts_and_posts_come_through(self):
        program = self.start()
        program.expect("posted by another thread\n")
        program.expect("tick\n", 2)
        program.process.stdin.write(b"abc")
        program.expect("input: 3 bytes\n")
        ticks = program.text.count("tick\n")
        program.expect("tick\n", ticks + 1)
        program.process.stdin.write(b"abcd")
        program.expect("input: 4 bytes\n")
        program.expect(self.own_timer, 2)
        program.process.stdin.close()
        program.expect("input: 0 bytes\n")
        self.assertEqual(program.end(), 0)
        self.assertEqual(program.text.count("posted by"), 1)
        self.assertEqual(program.text.count("input:"), 3)

    def test_sleeps_when_nothing_happens(self):
        program = self.start()
        program.expect("tick\n", 2)
        program.falls_asleep()
        program.process.stdin.write(b"abc")
        program.expect("input: 3 bytes\n")
        program.falls_asleep()

    @unittest.skipUnless(shutil.which("valgrind"), "no valgrind")
    def test_leaks_nothing(self):
        program = self.start(before=VALGRIND)
        program.expect("tick\n")
        program.process.stdin.write(b"abc")
        program.expect("input: 3 bytes\n")
        program.process.stdin.close()
        self.assertEqual(program.end(), 0, program.text)


class InLibuv(Nested, Case):
    name, own_timer = "in_libuv", "libuv's timer\n"


class InGlib(Nested, Case):
    name, own_timer = "in_glib", "GLib's timer\n"


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Supervise(Case):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.command = in_c("supervise")
        self.a, self.b = self.write("a"), self.write("b")

    def write(self, name):
        path = os.path.join(self.folder, name)
        with open(path, "w") as f:
            f.write("changed")
        return path

    def start(self, files, script, before=()):
        program = Program(*before, *self.command, *files, "--", "sh", "-c", script)
        self.addCleanup(program.__exit__)
        return program

    def pid(self, program, count=1):
        """Of the command when it was started the `count`th time; it is waited for."""
        pid = int(program.expect(r"sh runs as (\d+)\n", count))
        program.expect("up\n", count)
        return pid

    def test_usage(self):
        self.check_usage(self.command, [], ["x"], ["x", "--"], ["--", "true"])

    def test_starts_the_command_anew_when_a_file_is_written_or_replaced(self):
        program = self.start([self.a, self.b], "echo up; exec sleep 1000")
        pids = [self.pid(program)]
        fds = len(os.listdir(f"/proc/{program.process.pid}/fd"))
        self.write("a")
        pids.append(self.pid(program, 2))
        self.write("b")
        pids.append(self.pid(program, 3))
        os.rename(self.write("c"), self.a)
        pids.append(self.pid(program, 4))
        self.assertEqual(len(set(pids)), 4)
        self.assertEqual([is_alive(pid) for pid in pids], [False, False, False, True])
        self.assertEqual(len(os.listdir(f"/proc/{program.process.pid}/fd")), fds)
        self.assertEqual(program.end(signal.SIGTERM), 0)
        self.assertFalse(is_alive(pids[-1]))

    def test_a_file_nobody_named_changes_nothing(self):
        program = self.start([self.a], "echo up; exec sleep 1000")
        self.pid(program)
        self.write("b")
        self.write("a")
        self.pid(program, 2)
        self.assertEqual(program.end(signal.SIGINT), 0)
        self.assertEqual(re.findall(r"(\S+) changed", program.text), ["a"])
        self.assertEqual(program.text.count("up\n"), 2)

    def test_many_changes_at_once_are_one(self):
        program = self.start([self.a], "echo up; exec sleep 1000")
        self.pid(program)
        for _ in range(50):
            self.write("a")
        self.pid(program, 2)
        self.assertEqual(program.end(signal.SIGTERM), 0)
        self.assertLess(program.text.count("up\n"), 5)

    def test_a_command_that_ended_by_itself_is_started_by_the_next_change(self):
        program = self.start([self.a], "echo up; exit 3")
        program.expect("sh ended with 3\n")
        self.write("a")
        program.expect("sh ended with 3\n", 2)
        self.assertEqual(program.end(signal.SIGTERM), 0)

    def test_a_command_that_will_not_stop_is_killed(self):
        program = self.start([self.a], "trap '' TERM; echo up; while :; do sleep 1000; done")
        pid = self.pid(program)
        begin = time.monotonic()
        self.assertEqual(program.end(signal.SIGTERM), 0)
        self.assertGreaterEqual(time.monotonic() - begin, 3)
        self.assertIn("was ended by signal 9", program.text)
        self.assertFalse(is_alive(pid))

    def test_survives_being_stopped_and_continued(self):
        program = self.start([self.a], "echo up; exec sleep 1000")
        self.pid(program)
        program.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, program.process.pid, os.WSTOPPED | os.WNOWAIT)
        program.process.send_signal(signal.SIGCONT)
        self.write("a")
        self.pid(program, 2)
        self.assertEqual(program.end(signal.SIGTERM), 0)

    def test_says_what_it_cannot_run_or_watch(self):
        answer = run(*self.command, self.a, "--", "no such command")
        self.assertEqual(answer.returncode, 1)
        self.assertIn("no such command: No such file or directory", answer.stderr)
        answer = run(*self.command, "/nowhere/a", "--", "true")
        self.assertEqual(answer.returncode, 1)
        self.assertIn("/nowhere/a: No such file or directory", answer.stderr)

    def test_leaks_nothing(self):
        self.command = in_c("supervise-asan")
        program = self.start([self.a], "echo up; exec sleep 1000")
        self.pid(program)
        self.write("a")
        self.pid(program, 2)
        self.assertEqual(program.end(signal.SIGTERM), 0, program.text)


class Python(Case):
    def test_the_selector_keeps_its_promises(self):
        answer = run(sys.executable, os.path.join(HERE, "python/test_doorbell_selectors.py"))
        self.assertEqual(answer.returncode, 0, answer.stderr)

    def test_cpython_s_own_tests_see_no_difference(self):
        """A part of them; run_cpython_tests.py without arguments takes minutes."""
        script = os.path.join(HERE, "python/run_cpython_tests.py")
        answer = run(sys.executable, script, "test_selectors.EpollSelectorTestCase", timeout=5 * PATIENCE)
        if answer.returncode == 77:
            self.skipTest(answer.stdout.strip())
        self.assertEqual(answer.returncode, 0, answer.stdout + answer.stderr)
        self.assertRegex(answer.stdout, r"(?m)^test_selectors\S+ +doorbell +[1-9]\d* +0 .* [1-9]\d*$")
        self.assertIn("no test comes out differently", answer.stdout)


def run_class(name):
    """In a process of its own. Returns whether all went well, how many tests ran, and what is to be said."""
    answer = subprocess.run([sys.executable, __file__, name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    ran = re.search(r"Ran (\d+) test", answer.stderr)
    said = answer.stdout + (answer.stderr if answer.returncode or not ran else "")
    return answer.returncode == 0 and bool(ran), int(ran.group(1)) if ran else 0, said


def run_all():
    """Several classes at once: mostly they wait."""
    names = [n for n, c in globals().items() if isinstance(c, type) and issubclass(c, Case) and c is not Case]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run_class, names))
    for _, _, said in results:
        sys.stdout.write(said)
    failed = [name for name, (well, _, _) in zip(names, results) if not well]
    outcome = f"FAILED in {', '.join(failed)}" if failed else "all passed"
    print(f"examples: {sum(n for _, n, _ in results)} tests, {outcome}")
    return bool(failed)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(run_all())
    program = unittest.main(exit=False)
    for test, reason in program.result.skipped:
        print(f"skipped: {test}: {reason}")
    sys.exit(not program.result.wasSuccessful())
