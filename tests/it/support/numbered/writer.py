"""Appends numbered lines to a log as fast as the disk takes them, until SIGTERM.

writer.py LOG TEXT SEED KEEPING

Line N is a piece of the file TEXT between N and a checksum; which piece, N and SEED say. With
KEEPING = reopening the log is opened again on SIGHUP, and what is written ends anywhere in a line;
with KEEPING = holding the descriptor stays, and every write is of whole lines.

Says on standard output how many lines and bytes it wrote: "begins LINES BYTES" where the next line
is the first one of a generation (of a new file, or of the same one after it was cut), "at LINES
BYTES" now and then, "ends LINES BYTES" at last.
"""

import os
import signal
import sys
import zlib

MASK = (1 << 64) - 1
SAY_EVERY = 64 * 1024

log, text_path, seed, keeping = sys.argv[1:]
seed = int(seed)
reopening = {"reopening": True, "holding": False}[keeping]
with open(text_path, "rb") as file:
    text = file.read()

asked = {signal.SIGHUP: False, signal.SIGTERM: False}


def note(number, _frame):
    asked[number] = True


def mixed(number):
    mix = (number * 0x9E3779B97F4A7C15 + seed) & MASK
    mix ^= mix >> 31
    mix = mix * 0xBF58476D1CE4E5B9 & MASK
    return mix ^ mix >> 27


def line(number):
    mix = mixed(number)
    length = mix % 150 if (mix >> 40) % 5000 else 20000 + (mix >> 20) % 30000
    start = (mix >> 8) % (len(text) - length)
    body = b"%d %b" % (number, text[start : start + length])
    return b"%b %08x\n" % (body, zlib.crc32(body))


def opened():
    return os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def write(descriptor, piece):
    written = os.write(descriptor, piece)
    if written != len(piece):
        sys.exit("a short write")


def say(*words):
    print(*words, flush=True)


for number in asked:
    signal.signal(number, note)
descriptor = opened()
number = total = said = 0
end = None
while not asked[signal.SIGTERM]:
    if reopening and asked[signal.SIGHUP]:
        asked[signal.SIGHUP] = False
        os.close(descriptor)
        descriptor = opened()
        end = None
    mix = mixed(number)
    count = 1 << mix % 7
    burst = b"".join(map(line, range(number, number + count)))
    cut = (mix >> 13) % len(burst) if reopening else 0
    if cut:
        write(descriptor, burst[:cut])
    write(descriptor, burst[cut:])
    # Whoever appends alone finds his own end before what he wrote, or a file that was cut.
    place = os.lseek(descriptor, 0, os.SEEK_CUR)
    if place - len(burst) != end:
        if place != len(burst):
            sys.exit("somebody else writes to the log")
        say("begins", number, total)
    end = place
    number += count
    total += len(burst)
    if total - said >= SAY_EVERY:
        said = total
        say("at", number, total)
say("ends", number, total)
