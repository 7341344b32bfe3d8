//! Lines on their way from what was read of a file into its source's batch: split, joined, treated.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;

use super::{Lane, Output};
use crate::batch::{self, Line};
use crate::lines::{Next, Progress, Splitter};
use crate::model::{Epoch, FileId, Format};
use crate::tail::reader::{Filled, Scratch};
use crate::treat::{Piece, Reason, Treated, Treatment, Verdict};

impl<S: Fn(Output)> Lane<S> {
    /// Puts what is whole of the scratch buffer into batches, and keeps the rest.
    pub(super) fn take_new(&mut self, id: FileId, searched: usize, now: Instant) {
        let Some(source) = self.tail.get_mut(id).map(|file| file.source) else {
            return;
        };
        let splitter = Arc::clone(&self.tail.source(source).splitter);
        let start = self.scratch.offset();
        let held = self.scratch.unread().len();
        let begun = self.groups.at(id, start).map(|begun| begun.progress);
        let known = match &splitter.grouping {
            None => Progress::searched(searched),
            Some(_) => begun
                .filter(|known| known.bytes <= held)
                .unwrap_or_default(),
        };
        let taken = self.take_lines(id, known, Taking::Whole, now);
        if let Some(file) = self.tail.get_mut(id) {
            file.pass(&self.scratch, taken.bytes);
        }
        if let (Some(grouping), Some(rest)) = (&splitter.grouping, taken.rest)
            && rest.lines > 0
        {
            let start = start + taken.bytes as u64;
            self.groups.set(id, start, rest, grouping.timeout, now);
        } else {
            self.groups.clear(id);
        }
        if let Some(reader) = self.tail.get_mut(id).and_then(|file| file.reader.as_mut()) {
            if taken.rest.is_some() {
                reader.keep(&self.scratch, taken.bytes);
            } else {
                reader.advance(&self.scratch, taken.bytes);
            }
        }
    }

    /// Puts lines of the scratch buffer into batches. `known` is what is known of the first one.
    pub(super) fn take_lines(
        &mut self,
        id: FileId,
        mut known: Progress,
        taking: Taking,
        now: Instant,
    ) -> Taken {
        let mut taken = Taken::default();
        let Some(file) = self.tail.get_mut(id) else {
            return taken;
        };
        let (source, origin, epoch) = (file.source, file.origin.clone(), file.epoch);
        let splitter = Arc::clone(&self.tail.source(source).splitter);
        let treatment = Arc::clone(&self.treatments[source]);
        let scratch = std::mem::take(&mut self.scratch);
        let timestamp = timestamp();
        let unread = scratch.unread();
        let mut begun = false;
        loop {
            let piece = match taking {
                Taking::Group => known.group(),
                Taking::Whole => Some(splitter.next(&unread[taken.bytes..], known, false)),
                Taking::Rest => Some(splitter.next(&unread[taken.bytes..], known, true)),
            };
            let piece = match piece {
                Some(Next::Unfinished(rest)) => {
                    taken.rest = Some(rest);
                    break;
                }
                Some(piece) => piece,
                None => break,
            };
            let found = found(&splitter, &treatment, &scratch, taken.bytes, piece);
            let verdict = match self.options.format {
                // Bare bytes are not treated.
                Format::Lines => Verdict::Kept(Treated::default()),
                Format::Ndjson | Format::Json => treatment.treat(&found.piece),
            };
            let raw = &unread[taken.bytes..taken.bytes + found.bytes];
            let offset = scratch.offset() + taken.bytes as u64;
            let line = match &verdict {
                Verdict::Kept(treated) => Some(Line {
                    timestamp: treated.timestamp.as_deref().unwrap_or(&timestamp),
                    offset,
                    raw,
                    partial: found.partial,
                    message: &treated.message,
                    exact: treated.exact.as_deref(),
                    labels: &treatment.labels,
                    parsed: treated.parsed.as_deref(),
                    error: treated.error.as_deref(),
                    priority: if treated.urgent {
                        treatment.urgent_priority
                    } else {
                        0
                    },
                }),
                Verdict::Dropped(_) => None,
            };
            let mut room = self.put(source, &origin, epoch, (begun, offset), line.as_ref());
            if room == Err(batch::Full) {
                self.end_range(id, &scratch, taken.bytes);
                self.close(source, now);
                if !self.parked.is_empty() && taking != Taking::Rest {
                    break;
                }
                // An empty batch takes any one line.
                room = self.put(source, &origin, epoch, (false, offset), line.as_ref());
                debug_assert_eq!(room, Ok(()));
            }
            begun = true;
            self.count(source, &verdict, found.partial);
            taken.bytes += found.bytes;
            known = known.behind(found.bytes);
            if matches!(&verdict, Verdict::Kept(treated) if treated.urgent) {
                self.end_range(id, &scratch, taken.bytes);
                begun = false;
                self.close(source, now);
                if !self.parked.is_empty() && taking != Taking::Rest {
                    break;
                }
            }
        }
        self.end_range(id, &scratch, taken.bytes);
        self.scratch = scratch;
        taken
    }

    /// Puts a line into the open batch, or accounts for one that was dropped. Whether the range has
    /// begun that it belongs to, and where it begins.
    fn put(
        &mut self,
        source: usize,
        origin: &batch::Origin,
        epoch: Epoch,
        (begun, offset): (bool, u64),
        line: Option<&Line<'_>>,
    ) -> Result<(), batch::Full> {
        let open = &mut self.open[source];
        if !begun {
            open.begin(origin, offset, epoch)?;
        }
        line.map_or(Ok(()), |line| open.push(origin, line))
    }

    fn count(&mut self, source: usize, verdict: &Verdict<'_>, partial: bool) {
        let count = &mut self.counts[source];
        count.read += u64::from(!partial);
        match verdict {
            Verdict::Kept(_) => {}
            Verdict::Dropped(Reason::Keep) => count.dropped_by_keep += 1,
            Verdict::Dropped(Reason::Drop) => count.dropped_by_drop += 1,
        }
    }

    /// Says that the first `taken` bytes of what was unread are in the open batch.
    fn end_range(&mut self, id: FileId, scratch: &Scratch, taken: usize) {
        let Some(file) = self.tail.get_mut(id) else {
            return;
        };
        if taken > 0 && file.batched.offset < scratch.offset() + taken as u64 {
            let mark = scratch.mark(taken);
            file.batched = mark;
            self.open[file.source].end(id, mark.offset, mark.proof);
        }
    }

    /// A file has nothing new: a group that nothing followed in time is whole. If the file was
    /// rotated a while ago, its last line counts as finished, and in the end the file as over.
    pub(super) fn at_end(&mut self, id: FileId, now: Instant) -> std::io::Result<()> {
        let (settle, let_go) = (self.options.settle, self.options.let_go);
        let Some(file) = self.tail.get_mut(id) else {
            return Ok(());
        };
        // Nobody writes on in what was compressed.
        let whole = file.is_unpacked();
        let (settled, over) = (
            whole || file.settled(settle, now),
            whole || file.settled(let_go, now),
        );
        let Some(reader) = &mut file.reader else {
            return Ok(());
        };
        if reader.read_to() > reader.line_start() {
            let group = self.groups.at(id, reader.line_start());
            if settled {
                self.take_held(id, Progress::default(), Taking::Rest, now)?;
            } else if let Some(group) = group.filter(|group| group.is_due(now)) {
                self.take_held(id, group.progress, Taking::Group, now)?;
            }
        } else if file.batched.offset > 0 && !file.eof_batched && file.is_left() && over {
            self.say_eof(id, now);
        }
        Ok(())
    }

    /// Puts lines of what is held of a file into batches.
    pub(super) fn take_held(
        &mut self,
        id: FileId,
        known: Progress,
        taking: Taking,
        now: Instant,
    ) -> std::io::Result<()> {
        let Some(source) = self.tail.get_mut(id).map(|file| file.source) else {
            return Ok(());
        };
        let line_max = self.tail.source(source).splitter.held_max();
        let file = self.tail.get_mut(id);
        let Some(reader) = file.and_then(|file| file.reader.as_mut()) else {
            return Ok(());
        };
        reader.recall(&mut self.scratch, line_max)?;
        let filled = reader.fill(&mut self.scratch, 0, line_max)?;
        // What else it may be, the next read finds out.
        if filled == Filled::End && known.bytes <= self.scratch.unread().len() {
            let taken = self.take_lines(id, known, taking, now);
            if taken.bytes > 0 {
                self.groups.clear(id);
            }
            if let Some(reader) = self.tail.get_mut(id).and_then(|file| file.reader.as_mut()) {
                reader.keep(&self.scratch, taken.bytes);
            }
        }
        Ok(())
    }
}

/// How much of what the scratch buffer holds is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taking {
    /// What is whole, while there is room.
    Whole,
    /// The one group that is known, as it stands.
    Group,
    /// All of it, the last line too, room or no room: no more will come.
    Rest,
}

/// What was taken of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken {
    /// So many bytes.
    pub(super) bytes: usize,
    /// What is known of the unfinished line or group behind them; nothing if there was no room for
    /// more.
    pub(super) rest: Option<Progress>,
}

/// A piece of a file, as it is treated.
struct Found<'a> {
    piece: Piece<'a>,
    /// Bytes that it takes up, line end included.
    bytes: usize,
    /// More of the same line follows.
    partial: bool,
}

/// What stands `at` bytes into the scratch buffer. A part of a line ends where redaction wants it.
fn found<'a>(
    splitter: &Splitter,
    treatment: &Treatment,
    scratch: &'a Scratch,
    at: usize,
    next: Next,
) -> Found<'a> {
    let unread = &scratch.unread()[at..];
    let before = scratch.before(at);
    let begins = splitter.begins_line(before);
    let mark = if scratch.offset() + at as u64 == 0 {
        treatment.byte_order_mark(unread)
    } else {
        0
    };
    let whole = |content: usize| Piece {
        content: &unread[mark.min(content)..content],
        before: if begins { &[] } else { before },
        after: &[],
        is_part: !begins,
        is_joined: false,
    };
    match next {
        Next::Line { content, lines, .. } => Found {
            piece: Piece {
                is_joined: lines > 1,
                ..whole(content)
            },
            bytes: next.bytes(),
            partial: false,
        },
        Next::Part { content: proposed } => {
            let most = (proposed + splitter.lookahead).min(unread.len());
            let after = splitter.rest_of_line(&unread[proposed..most]).len();
            let part = |content: usize| Piece {
                after: &unread[content..proposed + after],
                is_part: true,
                ..whole(content)
            };
            let content = mark.min(proposed) + treatment.cut(&part(proposed));
            Found {
                piece: part(content),
                bytes: content,
                partial: content < unread.len(),
            }
        }
        Next::Unfinished(_) => Found {
            piece: whole(0),
            bytes: 0,
            partial: false,
        },
    }
}

/// The present time as `@timestamp` shows it: UTC with milliseconds.
fn timestamp() -> String {
    Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
        .to_string()
}
