"""What a queue delivered, held against the files on disk. Knows the wire format, version 1, and
nothing of AMQP, of fantail's inner life, or of how the messages were fetched.

It is also a worked example of a consumer: coverage per (agent, file), a line dropped as a repeat
only if it lies wholly inside what was already there.
"""

import base64
import binascii
import bisect
import dataclasses
import json
import re


@dataclasses.dataclass(frozen=True)
class Message:
    """One AMQP message; `headers` and the properties as the client library gives them."""

    headers: dict
    body: bytes
    type: str
    content_type: str
    content_encoding: str
    delivery_mode: int
    message_id: str


@dataclasses.dataclass(frozen=True)
class DiskFile:
    """One generation of one log file as it stands on disk."""

    label: str
    path: str  # under which fantail first matched it
    data: bytes  # up to its last line end
    due: int  # so many bytes must have arrived; the file may have grown since


class Coverage:
    """Disjoint, sorted intervals [start, end) of one file."""

    def __init__(self):
        self.starts = []
        self.ends = []

    def add(self, start, end):
        if start == end:
            return
        first = bisect.bisect_left(self.ends, start)
        last = bisect.bisect_right(self.starts, end)
        if first < last:
            start = min(start, self.starts[first])
            end = max(end, self.ends[last - 1])
        self.starts[first:last] = [start]
        self.ends[first:last] = [end]

    def holds(self, start, end):
        at = bisect.bisect_right(self.starts, start) - 1
        return at >= 0 and self.ends[at] >= end

    def reaches(self):
        """How far the file is covered from byte 0 without a gap."""
        return self.ends[0] if self.starts and self.starts[0] == 0 else 0

    def end(self):
        return self.ends[-1] if self.ends else 0

    def total(self):
        return sum(self.ends) - sum(self.starts)


class Generation:
    """What arrived of one file id."""

    def __init__(self, path):
        self.path = path
        self.coverage = Coverage()
        self.lines = {}  # offset: (bytes, message without line end, whether the line goes on)
        self.skipped = []

    def line_at(self, offset, size):
        """The bytes that arrived for the line on disk at [offset, offset + size), or None, and in
        how many parts."""
        parts, end = [], offset
        while end < offset + size:
            if end not in self.lines:
                return None, len(parts)
            length, content, partial = self.lines[end]
            parts.append(content)
            end += length
            if not partial:
                break
        content = b"".join(parts)
        # The line end is not sent, but `bytes` counts it: one byte for LF, two for CRLF.
        line_end = {0: b"", 1: b"\n", 2: b"\r\n"}.get(end - offset - len(content), b"?")
        return content + line_end, len(parts)


@dataclasses.dataclass
class FileVerdict:
    label: str
    lines: int = 0
    bytes: int = 0
    missing: int = 0
    altered: int = 0


@dataclasses.dataclass
class Verdict:
    """`findings` says in words what is wrong; the queue holds every line exactly if it is empty."""

    messages: int = 0
    repeats: int = 0
    files: list = dataclasses.field(default_factory=list)
    findings: list = dataclasses.field(default_factory=list)

    def sum(self, what):
        return sum(getattr(file, what) for file in self.files)


class Malformed(Exception):
    """A message that does not keep to the wire format."""


def expect(condition, finding):
    if not condition:
        raise Malformed(finding)


def no_key_twice(pairs):
    keys = dict(pairs)
    expect(len(keys) == len(pairs), "an object has a key twice")
    return keys


def ranges_of(message):
    return json.loads(message.headers["ranges"])


def line_of(text):
    """(file id, path, offset, bytes, content, partial) of one ndjson line."""
    line = json.loads(text, object_pairs_hook=no_key_twice)
    log = line["log"]
    if "message_base64" in line:
        content = base64.b64decode(line["message_base64"], validate=True)
    else:
        content = line["message"].encode()
    file = log["file"]
    return file["id"], file["path"], log["offset"], log["bytes"], content, log.get("partial", False)


class Ledger:
    """Takes the messages of one queue one after the other."""

    def __init__(self):
        self.generations = {}  # (agent, file id)
        self.messages = 0
        self.repeats = 0
        self.findings = []

    def take(self, message):
        self.messages += 1
        try:
            self._take(message)
        except (Malformed, KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
            self.findings.append(f"message {self.messages} ({message.message_id}): {error!r}")

    def _take(self, message):
        expect(message.delivery_mode == 2, "not persistent")
        expect(message.content_encoding is None, f"content_encoding {message.content_encoding!r}")
        expect(message.type in ("fantail.batch.v1", "fantail.ranges.v1"), f"type {message.type!r}")
        expect(len(message.message_id) == 32, "message_id is not 32 hex digits")
        ranges = ranges_of(message)
        agent = message.headers["agent"]
        lines = message.body.split(b"\n")
        expect(lines.pop() == b"", "the last line has no line end")
        expect(message.headers["lines"] == len(lines), "header `lines` is not what the body holds")
        expect(message.headers["bytes"] == len(message.body), "header `bytes` is not the size of the body")
        if message.type == "fantail.batch.v1":
            expect(message.content_type == "application/x-ndjson", f"content_type {message.content_type!r}")

        here = {}
        for entry in ranges:
            file, start, end = entry["file"], entry["start"], entry["end"]
            expect(0 <= start <= end, f"range [{start}, {end})")
            generation = self.generations.setdefault((agent, file), Generation(entry["path"]))
            expect(generation.path == entry["path"], f"file {file} changed its path")
            if start > generation.coverage.end():
                self.findings.append(
                    f"{generation.path}: [{generation.coverage.end():,}, {start:,}) did not come before what follows it"
                )
            if "skipped" in entry:
                generation.skipped.append((start, end, entry["skipped"]))
            else:
                here.setdefault(file, Coverage()).add(start, end)

        for text in lines:
            file, path, offset, size, content, partial = line_of(text)
            expect(size > 0, f"a line of {size} bytes")
            inside = file in here and here[file].holds(offset, offset + size)
            expect(inside, f"the line at {offset} lies outside the message's ranges")
            generation = self.generations[(agent, file)]
            expect(path == generation.path, f"a line says {path}, its range {generation.path}")
            if generation.coverage.holds(offset, offset + size):
                self.repeats += 1
            else:
                generation.lines[offset] = (size, content, partial)

        for entry in ranges:
            self.generations[(agent, entry["file"])].coverage.add(entry["start"], entry["end"])

    def covered(self):
        """Bytes accounted for so far, by path."""
        by_path = {}
        for generation in self.generations.values():
            by_path[generation.path] = by_path.get(generation.path, 0) + generation.coverage.total()
        return by_path

    def verdict(self, disk):
        """Compares all that arrived with `disk`, byte for byte."""
        verdict = Verdict(self.messages, self.repeats, findings=list(self.findings))
        left = dict(self.generations)
        for file in disk:
            verdict.files.append(compare(file, self._claim(file, left), verdict.findings))
        for generation in left.values():
            verdict.findings.append(f"{generation.path}: arrived, and is none of the files on disk")
        return verdict

    def _claim(self, file, left):
        """The generation with the most lines of `file`: a path has one for each rotation."""
        lines = list(lines_of(file.data))

        def alike(key):
            return sum(left[key].line_at(offset, len(line))[0] == line for offset, line in lines)

        keys = [key for key, generation in left.items() if generation.path == file.path]
        best = max(keys, key=alike, default=None)
        if best is None or alike(best) == 0:
            return Generation(file.path)
        return left.pop(best)


def lines_of(data):
    """(offset, line with its LF) of each line; `bytes.splitlines` would also end one at a lone CR."""
    offset = 0
    for text in data.split(b"\n")[:-1]:
        yield offset, text + b"\n"
        offset += len(text) + 1


def compare(file, generation, findings):
    verdict = FileVerdict(file.label)
    parts_known = 0
    for offset, line in lines_of(file.data):
        arrived, parts = generation.line_at(offset, len(line))
        parts_known += parts
        if arrived is None:
            verdict.missing += offset < file.due
        elif arrived != line:
            verdict.altered += 1
        else:
            verdict.lines += 1
            verdict.bytes += len(line)
    if parts_known != len(generation.lines):
        findings.append(f"{file.label}: {len(generation.lines) - parts_known:,} lines arrived that it does not hold")
    for start, end, reason in generation.skipped:
        findings.append(f"{file.label}: [{start}, {end}) was skipped: {reason}")
    if verdict.missing:
        findings.append(f"{file.label}: {verdict.missing:,} lines are missing")
    if verdict.altered:
        findings.append(f"{file.label}: {verdict.altered:,} lines differ from those on disk")
    covered = generation.coverage.reaches()
    if covered < file.due:
        findings.append(f"{file.label}: the ranges cover {covered:,} of {file.due:,} bytes without a gap")
    return verdict


def prove(messages, disk):
    """The verdict over one queue's messages, in the order they were delivered."""
    ledger = Ledger()
    for message in messages:
        ledger.take(message)
    return ledger.verdict(disk)


def prove_the_proof(messages, disk):
    """A proof that cannot fail proves nothing. Withholds a message, then alters a line of it;
    returns how many lines were found missing and how many altered."""
    tampered = {at: body for at, message in enumerate(messages) if (body := with_a_line_altered(message.body))}
    at = sorted(tampered)[len(tampered) // 2]
    chosen = messages[at]
    # Repeats of it would rightly make up for it.
    before = [message for message in messages[:at] if not overlap(message, chosen)]
    after = [message for message in messages[at + 1 :] if not overlap(message, chosen)]
    changed = dataclasses.replace(chosen, body=tampered[at])
    withheld = prove(before + after, disk)
    altered = prove([*before, changed, *after], disk)
    return withheld.sum("missing"), altered.sum("altered")


def with_a_line_altered(body):
    """`body` with the first character of one message replaced, or None if none lends itself."""
    lines = body.splitlines(keepends=True)
    for at, line in enumerate(lines):
        found = re.search(rb'"message":"[0-9A-Za-z]', line)
        if found and b'"message_base64"' not in line:
            lines[at] = line[: found.end() - 1] + b"~" + line[found.end() :]
            return b"".join(lines)
    return None


def overlap(one, other):
    return any(
        a["file"] == b["file"] and a["start"] < b["end"] and b["start"] < a["end"]
        for a in ranges_of(one)
        for b in ranges_of(other)
    )
