"""What DoorbellSelector promises beyond CPython's own tests, and the heart of those, quickly.

    DOORBELL_LIBRARY=build/libdoorbell.so python3 examples/python/test_doorbell_selectors.py
"""

import asyncio
import gc
import os
import resource
import select
import selectors
import signal
import socket
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import doorbell
from doorbell_selectors import DoorbellSelector, Poller
from selectors import EVENT_READ, EVENT_WRITE

PATIENCE = 60


def events_of(ready):
    return {key.fd: events for key, events in ready}


class Case(unittest.TestCase):
    def setUp(self):
        self.selector = DoorbellSelector()
        self.addCleanup(self.selector.close)
        self.a, self.b = self.pair()

    def pair(self):
        pair = socket.socketpair()
        for s in pair:
            s.setblocking(False)
            self.addCleanup(s.close)
        return pair

    def in_thread(self, function, *arguments):
        """Calls it on a thread. Returns a function that waits for the result."""
        results = []

        def call():
            try:
                results.append((function(*arguments), None))
            except Exception as e:
                results.append((None, e))

        thread = threading.Thread(target=call, daemon=True)
        thread.start()

        def result():
            thread.join(PATIENCE)
            self.assertFalse(thread.is_alive(), "it hangs")
            value, error = results[0]
            if error:
                raise error
            return value

        result.thread = thread
        return result

    def until_asleep(self, thread):
        """Waits until the thread sleeps in a wait of the library's."""
        waits = {"x86_64": ("232", "281", "441"), "aarch64": ("22", "441")}.get(os.uname().machine)
        if not waits:
            self.skipTest("which numbers do epoll_wait, epoll_pwait and epoll_pwait2 have here?")
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with open(f"/proc/self/task/{thread.native_id}/stat") as f:
                state = f.read().rpartition(")")[2].split()[0]
            with open(f"/proc/self/task/{thread.native_id}/syscall") as f:
                number = f.read().split()[0]
            if state == "S" and number in waits:
                return
            time.sleep(0.001)
        self.fail("the thread does not sleep in epoll")


class Readiness(Case):
    def test_readiness_is_told_again_until_it_is_used_up(self):
        self.selector.register(self.a, EVENT_READ, "data")
        self.assertEqual(self.selector.select(0), [])
        self.b.send(b"x")
        for _ in range(3):
            [(key, events)] = self.selector.select(PATIENCE)
            self.assertEqual((key.fileobj, key.data, events), (self.a, "data", EVENT_READ))
        self.a.recv(1)
        self.assertEqual(self.selector.select(0), [])

    def test_the_end_of_a_stream_can_be_read_and_written_to(self):
        self.selector.register(self.a, EVENT_READ | EVENT_WRITE)
        self.b.close()
        self.assertEqual(events_of(self.selector.select(PATIENCE)), {self.a.fileno(): EVENT_READ | EVENT_WRITE})

    def test_a_shut_down_half_is_readable_not_writable_to_a_writer(self):
        self.selector.register(self.a, EVENT_READ)
        self.b.shutdown(socket.SHUT_WR)
        self.assertEqual(events_of(self.selector.select(PATIENCE)), {self.a.fileno(): EVENT_READ})

    def test_modify_asks_for_the_new_events_only(self):
        self.b.send(b"x")
        self.selector.register(self.a, EVENT_READ)
        self.assertEqual(events_of(self.selector.select(PATIENCE)), {self.a.fileno(): EVENT_READ})
        self.selector.modify(self.a, EVENT_WRITE)
        self.assertEqual(events_of(self.selector.select(PATIENCE)), {self.a.fileno(): EVENT_WRITE})
        self.selector.unregister(self.a)
        self.assertEqual(self.selector.select(0), [])

    def test_all_that_is_ready_is_told_at_once(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        n = min(2500, (hard - 100) // 2)
        sockets = [s for _ in range(n) for s in self.pair()]
        for s in sockets:
            self.selector.register(s, EVENT_WRITE)
        for _ in range(2):
            self.assertEqual(len(self.selector.select(PATIENCE)), 2 * n)

    def test_its_fd_is_readable_when_something_is_ready(self):
        def is_readable(seconds):
            return bool(select.select([self.selector], [], [], seconds)[0])

        self.selector.register(self.a, EVENT_READ)
        self.assertFalse(is_readable(0))
        self.b.send(b"x")
        self.assertTrue(is_readable(PATIENCE))
        self.assertEqual(len(self.selector.select(0)), 1)
        self.assertTrue(is_readable(PATIENCE), "told once, but still ready")
        self.a.recv(1)
        self.selector.select(0)
        self.assertFalse(is_readable(0))

    def test_an_fd_that_was_closed_without_a_word_is_not_told_of_for_ever(self):
        fd = os.dup(self.a.fileno())
        self.selector.register(fd, EVENT_READ)
        self.b.send(b"x")
        os.close(fd)  # the description lives on in self.a, so the kernel goes on reporting it
        told = 0
        while self.selector.select(0.05):
            told += 1
            self.assertLessEqual(told, 1)
        # CLOSED is news to the library, none to us: at most one more select ends early.
        begin = time.process_time()
        for _ in range(6):
            self.assertEqual(self.selector.select(0.05), [])
        self.assertLess(time.process_time() - begin, 0.1, "it did not sleep")
        self.selector.unregister(fd)

    def test_what_cannot_be_watched_is_refused_and_forgotten(self):
        with open(__file__) as f:
            self.assertRaises(PermissionError, self.selector.register, f, EVENT_READ)
            self.assertRaises(KeyError, self.selector.get_key, f)
        with self.assertRaises(OSError) as caught:
            self.selector.register(f.fileno() if not f.closed else 9999, EVENT_READ)
        self.assertEqual(caught.exception.errno, 9)
        self.assertEqual(len(self.selector.get_map()), 0)


class Time(Case):
    def test_a_wait_is_never_too_short_and_not_a_millisecond_too_long(self):
        late = []
        for _ in range(50):
            begin = time.monotonic_ns()
            self.assertEqual(self.selector.select(0.0003), [])
            late.append(time.monotonic_ns() - begin - 300_000)
        self.assertGreaterEqual(min(late), 0)
        self.assertLess(min(late), 600_000, "as if it slept in whole milliseconds")

    def test_a_signal_runs_its_handler_and_the_wait_goes_on(self):
        handled = []
        old = signal.signal(signal.SIGUSR1, lambda *_: handled.append(time.monotonic_ns()))
        self.addCleanup(signal.signal, signal.SIGUSR1, old)
        main = threading.main_thread()

        def disturb():
            for i in range(3):
                self.until_asleep(main)
                signal.pthread_kill(main.ident, signal.SIGUSR1)
                while len(handled) <= i:
                    time.sleep(0.001)
            self.until_asleep(main)
            self.b.send(b"x")

        self.selector.register(self.a, EVENT_READ)
        done = self.in_thread(disturb)
        self.assertEqual(len(self.selector.select(PATIENCE)), 1)
        done()
        self.assertEqual(len(handled), 3)

    def test_a_handler_that_raises_ends_the_wait(self):
        def handler(*_):
            raise ZeroDivisionError

        old = signal.signal(signal.SIGALRM, handler)
        self.addCleanup(signal.signal, signal.SIGALRM, old)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with self.assertRaises(ZeroDivisionError):
            self.selector.select(PATIENCE)
        self.assertEqual(self.selector.select(0), [])  # no lock was left behind


class Threads(Case):
    def test_what_another_thread_registers_wakes_a_select(self):
        selected = self.in_thread(self.selector.select, PATIENCE)
        self.until_asleep(selected.thread)
        self.selector.register(self.a, EVENT_WRITE)
        self.assertEqual(events_of(selected()), {self.a.fileno(): EVENT_WRITE})

    def test_what_another_thread_unregisters_is_silent(self):
        self.selector.register(self.a, EVENT_READ)
        self.selector.register(c := self.pair()[0], EVENT_READ)
        selected = self.in_thread(self.selector.select, PATIENCE)
        self.until_asleep(selected.thread)
        self.selector.unregister(self.a)
        self.b.send(b"x")
        self.selector.modify(c, EVENT_WRITE)
        self.assertEqual(events_of(selected()), {c.fileno(): EVENT_WRITE})

    def test_two_selects_at_once_both_end(self):
        self.selector.register(self.a, EVENT_READ)
        first = self.in_thread(self.selector.select, PATIENCE)
        self.until_asleep(first.thread)
        second = self.in_thread(self.selector.select, PATIENCE)
        self.assertEqual(self.selector.select(0), [])
        self.assertEqual(self.selector.select(0.01), [])
        self.b.send(b"x")
        for select in (first, second):
            self.assertEqual(events_of(select()), {self.a.fileno(): EVENT_READ})

    def test_close_ends_the_select_of_another_thread(self):
        selected = self.in_thread(self.selector.select, None)
        self.until_asleep(selected.thread)
        self.selector.close()
        self.assertRaises(ValueError, selected)
        self.assertRaises(ValueError, self.selector.select, 0)
        self.assertRaises(ValueError, self.selector.register, self.a, EVENT_READ)
        self.assertRaises(ValueError, self.selector.fileno)

    def test_changes_of_many_threads_are_all_in_effect(self):
        stop = threading.Event()

        def change(pairs):
            for _ in range(50):
                for a, b in pairs:
                    self.selector.register(a, EVENT_READ)
                    self.selector.modify(a, EVENT_READ | EVENT_WRITE)
                    self.selector.unregister(a)
            for a, b in pairs:
                self.selector.register(a, EVENT_WRITE)
            return {a.fileno() for a, b in pairs}

        def turn():
            while not stop.is_set():
                self.selector.select(0.01)

        turning = self.in_thread(turn)
        changing = [self.in_thread(change, [self.pair() for _ in range(10)]) for _ in range(4)]
        expected = set().union(*(wait() for wait in changing))
        stop.set()
        turning()
        self.assertEqual(set(events_of(self.selector.select(PATIENCE))), expected)


class Processes(Case):
    def in_child(self, function):
        """Calls it in a forked child, which passes if it returns."""
        pid = os.fork()
        if pid == 0:
            try:
                signal.alarm(PATIENCE)
                function()
                os._exit(0)
            except BaseException as e:
                sys.excepthook(type(e), e, e.__traceback__)
            os._exit(1)
        self.assertEqual(os.waitpid(pid, 0)[1], 0)

    def test_a_child_goes_on_with_a_set_of_its_own(self):
        self.selector.register(self.a, EVENT_WRITE)

        def child():
            self.assertEqual(len(self.selector.select(PATIENCE)), 1)
            self.selector.unregister(self.a)
            self.selector.register(self.b, EVENT_WRITE)
            self.assertEqual(events_of(self.selector.select(PATIENCE)), {self.b.fileno(): EVENT_WRITE})

        self.in_child(child)
        self.assertEqual(events_of(self.selector.select(PATIENCE)), {self.a.fileno(): EVENT_WRITE})

    def test_a_child_may_select_where_a_thread_of_its_parent_did(self):
        self.selector.register(self.a, EVENT_READ)
        selected = self.in_thread(self.selector.select, PATIENCE)
        self.until_asleep(selected.thread)

        def child():
            self.assertEqual(self.selector.select(0), [])
            self.selector.modify(self.a, EVENT_WRITE)
            self.assertEqual(len(self.selector.select(PATIENCE)), 1)

        self.in_child(child)
        self.assertFalse(selected.thread.join(0) or not selected.thread.is_alive())
        self.b.send(b"x")
        self.assertEqual(len(selected()), 1)

    def test_a_child_may_close_it(self):
        self.selector.register(self.a, EVENT_WRITE)
        self.in_child(self.selector.close)
        self.assertEqual(len(self.selector.select(PATIENCE)), 1)


class Lifetime(Case):
    def test_forgotten_selectors_are_collected(self):
        gc.collect()  # what earlier tests left
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(600):  # more than managers can be alive
            DoorbellSelector().register(self.a, EVENT_READ)
        gc.collect()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_a_poller_says_what_epoll_would(self):
        poller = Poller()
        self.assertRaises(FileNotFoundError, poller.unregister, 0)
        self.assertRaises(FileNotFoundError, poller.modify, 0, doorbell.READ)
        poller.register(self.a.fileno(), doorbell.READ)
        self.assertRaises(FileExistsError, poller.register, self.a.fileno(), doorbell.READ)
        self.assertFalse(poller.closed)
        poller.close()
        poller.close()
        self.assertTrue(poller.closed)
        self.assertRaises(ValueError, poller.poll, 0)

    def test_errors_have_the_library_s_words(self):
        with self.assertRaises(doorbell.Error) as caught:
            doorbell.check(doorbell.E_STALE)
        self.assertEqual(caught.exception.errno, doorbell.E_STALE)
        self.assertEqual(caught.exception.strerror, doorbell.bell_strerror(doorbell.E_STALE).decode())


class Asyncio(unittest.TestCase):
    def run_on_doorbell(self, main):
        loop = asyncio.SelectorEventLoop(DoorbellSelector())
        try:
            return loop.run_until_complete(asyncio.wait_for(main, PATIENCE))
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    def test_an_echo_server_and_a_hundred_clients(self):
        async def serve(reader, writer):
            while line := await reader.readline():
                writer.write(line)
                await writer.drain()
            writer.close()

        async def call(port, i):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for round in range(10):
                writer.write(b"%d %d\n" % (i, round))
                self.assertEqual(await reader.readline(), b"%d %d\n" % (i, round))
                await asyncio.sleep(0)
            writer.close()
            await writer.wait_closed()
            return i

        async def main():
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            done = await asyncio.gather(*(call(port, i) for i in range(100)))
            server.close()
            return done

        self.assertEqual(self.run_on_doorbell(main()), list(range(100)))

    def test_threads_subprocesses_signals_and_timeouts(self):
        async def main():
            loop = asyncio.get_running_loop()
            self.assertEqual(await loop.run_in_executor(None, lambda: 7), 7)

            came = asyncio.Event()
            loop.add_signal_handler(signal.SIGUSR1, came.set)
            os.kill(os.getpid(), signal.SIGUSR1)
            await came.wait()
            loop.remove_signal_handler(signal.SIGUSR1)

            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.sleep(PATIENCE), 0.01)

            process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
            output, _ = await process.communicate(b"x" * 1000000)
            self.assertEqual((len(output), process.returncode), (1000000, 0))

        self.run_on_doorbell(main())


if __name__ == "__main__":
    unittest.main()
