"""The demonstration, act by act: the broker and fantail started, an application that logs, a live table,
the proof. Leaves no process and no file behind, however it ends.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time

import demo_proof as proof
from demo_node import Broker, Child, Failure, Late, safe, wait_for

QUEUES = ("archive", "alerting", "search")
SYSTEM_LOGS = (
    "/var/log/dpkg.log",
    "/var/log/apt/history.log",
    "/var/log/apt/term.log",
    "/var/log/alternatives.log",
    "/var/log/fontconfig.log",
)
SYSTEM_LOG_BYTES_MAX = 32 << 20
LINES_PER_SECOND = 600


# What is shown


def short(text, width=150):
    return text if len(text) <= width else text[: width - 1] + "…"


class Screen:
    """Standard output: a block of lines redrawn in place on a terminal, appended elsewhere."""

    PLAIN_EVERY_S = 3

    def __init__(self):
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
        self.terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.colour = self.terminal and not os.environ.get("NO_COLOR")
        self.bar = "█" if (sys.stdout.encoding or "").lower().replace("-", "") == "utf8" else "#"
        self.drawn = 0
        self.printed_at = 0.0

    def paint(self, code, text):
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text

    def bold(self, text):
        return self.paint("1", text)

    def green(self, text):
        return self.paint("32", text)

    def red(self, text):
        return self.paint("31;1", text)

    def bar_width(self):
        return max(0, min(40, shutil.get_terminal_size().columns - 26))

    def say(self, text=""):
        self.drawn = 0
        print(text)

    def step(self, text):
        self.say()
        self.say(self.bold(text))

    def draw(self, lines, plain, last=False):
        """`lines` over the block drawn before; `plain` now and then where there is no terminal."""
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            up = f"\x1b[{self.drawn}A" if self.drawn else ""
            sys.stdout.write(up + "".join(f"\x1b[2K{line[:width]}\n" for line in lines))
            sys.stdout.flush()
            self.drawn = len(lines)
        elif last or time.monotonic() - self.printed_at >= self.PLAIN_EVERY_S:
            self.printed_at = time.monotonic()
            print(plain)


# The logs


class Application(threading.Thread):
    """Writes lines to `path` at a steady rate and renames the file once, half way, as logrotate does:
    it goes on writing to the renamed file for a moment."""

    TURN_S = 0.05

    def __init__(self, path, seconds):
        super().__init__(daemon=True)
        self.path = path
        self.rotated = path + ".1"
        self.seconds = seconds
        self.lines = 0
        self.lines_at_rotation = 0
        self.error = None
        self.random = random.Random(1)
        self.stopping = threading.Event()
        # There from the start: a file that is renamed before anybody saw it matches no pattern.
        self.log = self._open()
        os.write(self.log, self._line())

    def run(self):
        try:
            self._run()
        except OSError as error:
            self.error = error

    def _run(self):
        turns = int(self.seconds / self.TURN_S)
        rename_at, reopen_at = turns // 2, turns // 2 + max(1, int(0.5 / self.TURN_S))
        try:
            for turn in range(turns):
                if turn == rename_at:
                    os.rename(self.path, self.rotated)
                if turn == reopen_at:
                    os.close(self.log)
                    self.log = self._open()
                    self.lines_at_rotation = self.lines
                chunk = b"".join(self._line() for _ in range(int(LINES_PER_SECOND * self.TURN_S)))
                # Not at a line's end: what is unfinished must wait, not be torn.
                middle = self.random.randrange(len(chunk))
                os.write(self.log, chunk[:middle])
                if self.stopping.wait(self.TURN_S):
                    break
                os.write(self.log, chunk[middle:])
        finally:
            os.close(self.log)

    def _open(self):
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def _line(self):
        number = self.lines = self.lines + 1
        if number % 600 == 550:
            return b"\n"
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03}Z"
        text = f"{stamp} INFO request={number} path=/cart/{number % 97} took={self.random.randrange(900)}ms"
        # Now and then what breaks log shippers.
        awkward = {
            100: b' user="Zo\xc3\xab" \xe2\x80\xae\x1b[31mred\x1b[0m\x07',
            200: b" latin1=caf\xe9 \xff\x00",
            300: b' {"log":{"offset":0,"bytes":1},"message":"not from fantail"}',
            400: b" stack=" + b"frame;" * 7000,
            500: b"\r",
        }.get(number % 600, b"")
        return text.encode() + awkward + b"\n"


class Logs:
    """What is on disk: every generation of every file, also after it was renamed."""

    def __init__(self, paths):
        self.paths = paths
        self.held = {}  # (device, inode): (path, descriptor); held, so that no inode comes twice
        self.look()

    def look(self):
        for path in self.paths:
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                status = os.fstat(descriptor)
                if self.held.setdefault((status.st_dev, status.st_ino), (path, descriptor))[1] != descriptor:
                    os.close(descriptor)

    def read(self):
        """[(path, now named, content up to the last line end)]"""
        files = []
        # By path, the older generation first.
        for path, descriptor in sorted(self.held.values(), key=lambda held: self.paths.index(held[0])):
            size = os.fstat(descriptor).st_size
            data = os.pread(descriptor, size, 0)
            named = os.readlink(f"/proc/self/fd/{descriptor}")
            files.append((path, named, data[: data.rfind(b"\n") + 1]))
        return files

    def close(self):
        for _, descriptor in self.held.values():
            os.close(descriptor)


def system_logs():
    """Those that are there, not empty, readable and not huge."""
    found = []
    for path in SYSTEM_LOGS:
        with contextlib.suppress(OSError):
            if os.path.realpath(path) != path or not 0 < os.path.getsize(path) <= SYSTEM_LOG_BYTES_MAX:
                continue
            with open(path, "rb"):
                found.append(path)
    return found


# The acts


def fill(screen, broker, fantail, application, logs):
    """The live table, until the application has ended and the queues have come to rest."""
    began = time.monotonic()
    quiet_since, before = began, None
    while True:
        fantail.alive()
        broker.node.alive()
        logs.look()
        depths = broker.depths(QUEUES)
        now = time.monotonic()
        if depths != before:
            before, quiet_since = depths, now
        done = not application.is_alive() and (
            (len(set(depths)) == 1 and now - quiet_since > 1) or now - began > application.seconds + 15
        )
        show_table(screen, depths, application, now - began, done)
        if done:
            break
        time.sleep(0.1)
    if application.error:
        raise Failure(f"The application could not write its log: {application.error}")


def show_table(screen, depths, application, seconds, last):
    most = max([depth or 0 for depth in depths] + [1])
    rows = [f"  {'queue':<12}{'messages':>9}"]
    for queue, depth in zip(QUEUES, depths):
        bar = screen.bar * (screen.bar_width() * (depth or 0) // max(most, 100))
        rows.append(f"  {queue:<12}{depth or 0:>9,}  {screen.green(bar)}")
    rotated = (
        f", app.log renamed to app.log.1 after {application.lines_at_rotation:,}"
        if application.lines_at_rotation
        else ""
    )
    rows.append(f"  {seconds:5.1f} s   application: {application.lines:,} lines{rotated}")
    counts = ", ".join(f"{queue} {depth or 0:,}" for queue, depth in zip(QUEUES, depths))
    screen.draw(rows, f"  {seconds:5.1f} s  messages: {counts}; application: {application.lines:,} lines{rotated}", last)


class Reader:
    """Takes everything out of one queue, in the order of delivery."""

    def __init__(self, broker, queue):
        self.queue = queue
        self.connection = broker.connection
        self.channel = broker.connection.channel()
        self.messages = []
        self.ledger = proof.Ledger()
        self.channel.basic_consume(queue, self._take, auto_ack=True, exclusive=True)

    def _take(self, _channel, _method, properties, body):
        message = proof.Message(
            headers=properties.headers or {},
            body=body,
            type=properties.type,
            content_type=properties.content_type,
            content_encoding=properties.content_encoding,
            delivery_mode=properties.delivery_mode,
            message_id=properties.message_id or "",
        )
        self.messages.append(message)
        self.ledger.take(message)

    def has(self, due):
        """Whether the ranges account for so many bytes of each path."""
        self.connection.process_data_events(0.05)
        covered = self.ledger.covered()
        return all(covered.get(path, 0) >= size for path, size in due.items())

    def empty(self):
        """Whether nothing is left. The count comes through the channel that delivers, behind all
        that was delivered before."""
        left = self.channel.queue_declare(self.queue, passive=True).method.message_count
        had = len(self.messages)
        self.connection.process_data_events(0.05)
        return left == 0 and had == len(self.messages)


def collect(screen, broker, fantail, logs):
    """Reads the queues until they hold what is on disk now, stops fantail, reads what is left.
    Returns the readers and the sizes that were due, in the order of `logs`."""
    logs.look()
    files = logs.read()
    due = {}
    for path, _, data in files:
        due[path] = due.get(path, 0) + len(data)
    readers = [Reader(broker, queue) for queue in QUEUES]
    late = []
    for reader in readers:
        try:
            wait_for(reader.queue, lambda reader=reader: reader.has(due), 5 if late else 30, fantail.alive)
        except Late:
            # No reason to stop: the proof will say what is missing.
            late.append(reader.queue)
    used = usage_of(fantail.process.pid)
    status = fantail.stop(30)
    if status != 0:
        raise Failure(f"fantail was asked to stop and left with status {status}.\n{fantail.tail()}")
    for reader in readers:
        wait_for(f"The end of {reader.queue}", reader.empty, 30, broker.node.alive)
    screen.say(f"  fantail stopped on SIGTERM with status 0; {used}")
    return readers, [len(data) for _, _, data in files]


def usage_of(pid):
    """CPU time and largest resident size so far, in words."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        fields = stat.read().rpartition(")")[2].split()
    seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        peak = next((int(line.split()[1]) for line in status if line.startswith("VmHWM:")), 0)
    return f"it had used {seconds:.2f} s of CPU and at most {peak / 1024:.0f} MiB of memory."


def show_samples(screen, messages):
    """Properties of one message and its first line, then the messages of two awkward lines."""
    first = messages[0]
    screen.say("  The first message of `archive`, its headers, and its first line:")
    for name in ("type", "content_type", "delivery_mode", "message_id"):
        screen.say(f"    {name:<14}{safe(str(getattr(first, name)))}")
    for name, value in sorted(first.headers.items()):
        screen.say(f"    {name:<14}{short(safe(str(value)), 120)}")
    lines = [line for message in messages for line in message.body.splitlines()]
    for text in json.dumps(json.loads(lines[0]), indent=2, ensure_ascii=False).splitlines():
        screen.say(f"    {short(safe(text), 120)}")
    show_awkward(screen, lines, "with control characters (escaped here, exact in the message)", b"\\u001b")
    show_awkward(screen, lines, "that is not UTF-8 (`message_base64` has its exact bytes)", b'"message_base64"')


def show_awkward(screen, lines, what, mark):
    line = next((json.loads(line) for line in lines if mark in line), None)
    if line is not None:
        screen.say(f"  A line {what}:")
        for key in ("message", "message_base64"):
            if key in line:
                screen.say(f"    {key}: {short(safe(line[key]), 120)}")


def show_verdicts(screen, verdicts):
    screen.say(f"  {'file on disk':<34}{'lines':>9}{'bytes':>13}   in the queues")
    for files in zip(*(verdict.files for verdict in verdicts)):
        first = files[0]
        same = all(file == first for file in files) and not first.missing and not first.altered
        differs = "differs: " + ", ".join(f"{file.lines:,}" for file in files) + " lines"
        screen.say(
            f"  {safe(short(first.label, 33)):<34}{first.lines:>9,}{first.bytes:>13,}   "
            + (screen.green("identical") if same else screen.red(differs))
        )
    screen.say()
    screen.say(
        f"  {'queue':<10}{'messages':>9}{'files':>6}{'lines':>9}{'bytes':>13}{'repeats':>8}{'missing':>8}{'altered':>8}"
    )
    for queue, verdict in zip(QUEUES, verdicts):
        row = (
            f"  {queue:<10}{verdict.messages:>9,}{len(verdict.files):>6}{verdict.sum('lines'):>9,}"
            f"{verdict.sum('bytes'):>13,}{verdict.repeats:>8,}{verdict.sum('missing'):>8,}{verdict.sum('altered'):>8,}"
        )
        screen.say(screen.red(row) if verdict.findings else row)


def demonstrate(screen, fantail_binary, seconds, directory, cleanup):
    system = system_logs()
    app_log = os.path.join(directory, "app", "app.log")
    os.mkdir(os.path.dirname(app_log))

    screen.step("A private RabbitMQ")
    began = time.monotonic()
    broker = Broker(os.path.join(directory, "rabbitmq"), cleanup)
    screen.say(
        f"  Listens on 127.0.0.1:{broker.port}, ready after {time.monotonic() - began:.0f} s;"
        " no exchange `logs` and no queue in it yet."
    )

    screen.step("fantail run --config fantail.toml")
    application = Application(app_log, seconds)
    cleanup.callback(application.stopping.set)
    toml = configuration(broker.url, directory, app_log, system)
    for line in toml.splitlines():
        screen.say(f"  {line}")
    fantail = start_fantail(fantail_binary, toml, directory)
    cleanup.callback(fantail.stop, 15)
    try:
        wait_for("The three queues that fantail makes", lambda: None not in broker.depths(QUEUES), 30, fantail.alive)
    except Late as late:
        raise Failure(f"{late}\n{fantail.tail()}") from late
    screen.say("  fantail has made the exchange `logs` and three quorum queues.")

    screen.step(f"{seconds} seconds of logging (a message holds as many lines as came together)")
    logs = Logs([app_log, *system])
    cleanup.callback(logs.close)
    application.start()
    fill(screen, broker, fantail, application, logs)

    screen.step("The proof")
    readers, due_sizes = collect(screen, broker, fantail, logs)
    disk = [
        proof.DiskFile(named.removeprefix(directory + "/app/"), path, data, due)
        for (path, named, data), due in zip(logs.read(), due_sizes)
        if data
    ]
    judge(screen, readers, disk, fantail)


def judge(screen, readers, disk, fantail):
    """Shows the verdicts; raises unless every queue holds every line, and the proof could fail."""
    verdicts = [reader.ledger.verdict(disk) for reader in readers]
    findings = [
        f"  {queue}: {safe(finding)}" for queue, verdict in zip(QUEUES, verdicts) for finding in verdict.findings
    ]
    if not findings:
        show_samples(screen, readers[0].messages)
        screen.say()
    show_verdicts(screen, verdicts)
    if findings:
        more = [f"  … and {len(findings) - 20:,} findings more"] if len(findings) > 20 else []
        raise Failure("\n".join(["NOT every line is in every queue:", *findings[:20], *more, fantail.tail()]))
    missing, altered = proof.prove_the_proof(readers[0].messages, disk)
    if not missing or not altered:
        raise Failure("The proof did not notice a message withheld or a line altered on purpose: it proves nothing.")
    screen.say()
    screen.say("  The proof can fail. The same over `archive`, tampered with on purpose:")
    screen.say(f"    one message withheld: {missing:,} missing; one line altered: {altered:,} altered.")
    screen.say()
    screen.say(
        screen.green(
            f"Proved: each of the three queues holds all {verdicts[0].sum('lines'):,} lines of {len(disk)} files,\n"
            f"{verdicts[0].sum('bytes'):,} bytes, identical to the files on disk."
        )
    )


def start_fantail(binary, toml, directory):
    config = os.path.join(directory, "fantail.toml")
    with open(config, "w", encoding="utf-8") as out:
        out.write(toml)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FANTAIL_")}
    return Child(
        "fantail",
        [os.path.abspath(binary), "run", "--config", config],
        environment,
        os.path.join(directory, "fantail.log"),
    )


def configuration(url, directory, app_log, system):
    sources = f'[[source]]\nname = "app"\ninclude = ["{os.path.dirname(app_log)}/*.log"]\n'
    if system:
        paths = "".join(f'  "{path}",\n' for path in system)
        sources += f'[[source]]\nname = "system"\ninclude = [\n{paths}]\n'
    return f'[agent]\nstate_dir = "{directory}/state"\n[broker]\nurls = ["{url}"]\n{sources}'


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--seconds", type=int, default=15)
    arguments.add_argument("--keep", action="store_true")
    arguments.add_argument("fantail")
    options = arguments.parse_args()

    screen = Screen()

    def leave(number, _frame):
        raise SystemExit(128 + number)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        signal.signal(number, leave)
    cleanup = contextlib.ExitStack()
    try:
        # The real path: fantail tells the one it opened, and /tmp may be a link.
        directory = os.path.realpath(tempfile.mkdtemp(prefix="fantail-demo-"))
        if not options.keep:
            cleanup.callback(shutil.rmtree, directory)
        demonstrate(screen, options.fantail, options.seconds, directory, cleanup)
        status = 0
    except Failure as failure:
        screen.say()
        screen.say(screen.red(str(failure)))
        status = 1
    except SystemExit as stopped:
        screen.say()
        screen.say("Stopped; cleaning up.")
        status = stopped.code
    finally:
        # Cleaning up takes a few seconds and is not to be interrupted half way.
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        cleanup.close()
    screen.say(
        "fantail and the private RabbitMQ are stopped; "
        + (f"kept: {directory}" if options.keep else "nothing of them is left.")
    )
    return status


if __name__ == "__main__":
    sys.exit(main())
