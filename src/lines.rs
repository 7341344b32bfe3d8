//! Lines: where the next line of a file ends, where an over-long one is split, and which lines are
//! one (multiline). No I/O, no state of its own: the same bytes from the same offset are cut at the
//! same places, so that what is read again after a restart has the same ranges. (The one exception
//! is a group that was closed because nothing followed it in time.)

use std::time::Duration;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};
use memchr::{memchr, memrchr};
use regex::bytes::Regex;

/// How the lines of a source are found.
#[derive(Clone, Debug)]
pub struct Splitter {
    /// Bytes of content beyond which a line is split.
    pub line_max: usize,
    /// Bytes that must be known of a line behind the place where it is split, if it has as many.
    pub lookahead: usize,
    /// What the file's bytes are.
    pub encoding: &'static Encoding,
    /// Which lines are one.
    pub grouping: Option<Grouping>,
}

/// Which lines are one, and how much of them at most.
#[derive(Clone, Debug)]
pub struct Grouping {
    /// What makes a line belong to the ones before it.
    pub rule: Rule,
    /// Lines of one group.
    pub lines_max: usize,
    /// Bytes of one group, line ends included; a single line may have more.
    pub bytes_max: usize,
    /// After so long without more, whoever keeps the time takes a group as whole.
    pub timeout: Duration,
}

/// What makes a line belong to the ones before it.
#[derive(Clone, Debug)]
pub enum Rule {
    /// It does not match this.
    Start(Regex),
    /// It matches this.
    Continuation(Regex),
    /// The one before it is marked as a part, and both are of one stream: the log of a container
    /// (`TIME STREAM P|F content`).
    Cri,
}

/// What stands at the beginning of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A whole line, or a whole group: its content, then its line end.
    Line {
        /// Bytes of content, line ends between the lines of a group included.
        content: usize,
        /// Bytes of the (last) line end; 0 for the last line of a file that ended without one.
        end: usize,
        /// Lines that it consists of.
        lines: usize,
    },
    /// The first part of a line that is longer than allowed; the rest stands behind it.
    Part {
        /// Bytes of this part.
        content: usize,
    },
    /// Nothing that is known to be whole; what is known of it.
    Unfinished(Progress),
}

/// What is known of the beginning of a buffer that nothing whole stands in, so that it is not
/// looked at again when more follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Whole lines of a group to which more may come.
    pub lines: usize,
    /// Their bytes, line ends included.
    pub bytes: usize,
    /// Bytes of the last one's line end.
    end: usize,
    /// Bytes behind them that hold no line end.
    searched: usize,
}

impl Progress {
    /// The first `searched` bytes hold no line end.
    #[must_use]
    pub fn searched(searched: usize) -> Self {
        Self {
            searched,
            ..Self::default()
        }
    }

    /// What is left of it when the first `bytes` were taken, which are the group or a line.
    #[must_use]
    pub fn behind(self, bytes: usize) -> Self {
        Self::searched((self.bytes + self.searched).saturating_sub(bytes))
    }

    /// The group as it stands, if there is one: nothing followed it in time.
    #[must_use]
    pub fn group(self) -> Option<Next> {
        (self.lines > 0).then_some(Next::Line {
            content: self.bytes - self.end,
            end: self.end,
            lines: self.lines,
        })
    }
}

impl Next {
    /// Bytes of the file that it takes up.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::Line { content, end, .. } => content + end,
            Self::Part { content } => content,
            Self::Unfinished(_) => 0,
        }
    }
}

impl Splitter {
    /// Where the last line of `bytes` begins, if a line end stands before it. `bytes` begin at a
    /// multiple of the encoding's code unit.
    #[must_use]
    pub fn last_line(&self, bytes: &[u8]) -> Option<usize> {
        let unit = self.unit();
        let mut until = bytes.len();
        loop {
            let at = memrchr(b'\n', &bytes[..until])?;
            let at = at - at % unit;
            match self.line_end(&bytes[at..], 0) {
                Some((0, _)) => return Some(at + unit),
                _ => until = at,
            }
        }
    }

    /// A splitter of single lines in UTF-8.
    #[must_use]
    pub fn new(line_max: usize) -> Self {
        Self {
            line_max,
            lookahead: 0,
            encoding: UTF_8,
            grouping: None,
        }
    }

    /// Looks at `buffer`, which begins where a line (or the rest of a split one) begins. `known` is
    /// what a look at the beginning of the same bytes brought, or [`Progress::default`]. A line is
    /// split when its content, line end aside, is longer than `line_max`. If the file has `ended`,
    /// what stands behind the last line end is a line too.
    #[must_use]
    pub fn next(&self, buffer: &[u8], known: Progress, ended: bool) -> Next {
        let Some(grouping) = &self.grouping else {
            return self.line(buffer, known.searched, ended);
        };
        let mut group = known;
        loop {
            let rest = &buffer[group.bytes..];
            let piece = self.line(rest, group.searched, ended);
            let line_end = match piece {
                Next::Unfinished(_) if ended && group.lines > 0 => break,
                Next::Unfinished(found) => {
                    group.searched = found.searched;
                    return Next::Unfinished(group);
                }
                // An over-long line is never joined to anything.
                Next::Part { .. } if group.lines > 0 => break,
                Next::Part { .. } => return piece,
                Next::Line { end, .. } => end,
            };
            let line = &rest[..piece.bytes() - line_end];
            let full = group.lines >= grouping.lines_max
                || group.bytes + piece.bytes() > grouping.bytes_max;
            let first = &buffer[..group.bytes];
            if group.lines > 0 && (full || !self.belongs(&grouping.rule, first, line)) {
                break;
            }
            group = Progress {
                lines: group.lines + 1,
                bytes: group.bytes + piece.bytes(),
                end: line_end,
                searched: 0,
            };
            if matches!(grouping.rule, Rule::Cri) && !cri_head(line).is_some_and(|head| head.1) {
                break;
            }
        }
        group.group().unwrap_or(Next::Unfinished(group))
    }

    /// Whether `line` belongs to the lines before it, which begin with `first`.
    fn belongs(&self, rule: &Rule, first: &[u8], line: &[u8]) -> bool {
        let decoded;
        let line = if self.encoding == UTF_8 {
            line
        } else {
            decoded = self.encoding.decode_without_bom_handling(line).0;
            decoded.as_bytes()
        };
        match rule {
            Rule::Start(first) => !first.is_match(line),
            Rule::Continuation(further) => further.is_match(line),
            Rule::Cri => {
                let stream = |line| cri_head(line).map(|(stream, _)| stream);
                stream(first).is_some() && stream(first) == stream(line)
            }
        }
    }

    /// One line, whatever group it is of.
    fn line(&self, buffer: &[u8], searched: usize, ended: bool) -> Next {
        let Some((content, end)) = self.line_end(buffer, searched) else {
            // As much more than allowed may still be the CR of a line end.
            let spare = if ended {
                0
            } else {
                self.unit() + self.lookahead
            };
            return if buffer.len() > self.line_max + spare {
                self.part(buffer)
            } else if ended && !buffer.is_empty() {
                Next::Line {
                    content: buffer.len(),
                    end: 0,
                    lines: 1,
                }
            } else {
                Next::Unfinished(Progress::searched(buffer.len()))
            };
        };
        if content > self.line_max {
            return self.part(buffer);
        }
        let lines = 1;
        Next::Line {
            content,
            end,
            lines,
        }
    }

    /// Bytes of a line that may have to be in hand before anything of it can be taken.
    #[must_use]
    pub fn held_max(&self) -> usize {
        self.line_max + self.lookahead
    }

    /// What of `buffer` belongs to the line that it begins in.
    #[must_use]
    pub fn rest_of_line<'a>(&self, buffer: &'a [u8]) -> &'a [u8] {
        let content = self.line_end(buffer, 0).map(|(content, _)| content);
        &buffer[..content.unwrap_or(buffer.len())]
    }

    /// Whether a line begins behind `before`, which ends what stands before it in the file. Behind
    /// the zeros of a hole one does.
    #[must_use]
    pub fn begins_line(&self, before: &[u8]) -> bool {
        let last = &before[before.len().saturating_sub(self.unit())..];
        last.iter().all(|byte| *byte == 0) || self.line_end(last, 0).is_some()
    }

    /// Bytes of a code unit, which a line end consists of one or two of.
    fn unit(&self) -> usize {
        1 + usize::from(self.encoding == UTF_16LE || self.encoding == UTF_16BE)
    }

    /// The content's bytes before the first line end, and the bytes of that.
    fn line_end(&self, buffer: &[u8], searched: usize) -> Option<(usize, usize)> {
        let unit = self.unit();
        let mut from = searched - searched % unit;
        let is = |at: usize, byte: u8| match self.unit() {
            1 => buffer[at] == byte,
            _ if self.encoding == UTF_16LE => buffer[at..].starts_with(&[byte, 0]),
            _ => buffer[at..].starts_with(&[0, byte]),
        };
        loop {
            // Where its unit begins: the line feed may be the second byte of it, or of another.
            let at = from + memchr(b'\n', &buffer[from..])?;
            let at = at - at % unit;
            if is(at, b'\n') {
                let carriage_return = at >= unit && is(at - unit, b'\r');
                let end = if carriage_return { 2 * unit } else { unit };
                return Some((at + unit - end, end));
            }
            from = at + unit;
            if from >= buffer.len() {
                return None;
            }
        }
    }

    /// Cuts at `line_max`, or a little before it where that keeps a character whole.
    fn part(&self, buffer: &[u8]) -> Next {
        let content = match self.unit() {
            1 => cut_of_bytes(buffer, self.line_max),
            unit => {
                let most = (self.line_max - self.line_max % unit).max(unit);
                let last = [buffer[most - 2], buffer[most - 1]];
                let last = if self.encoding == UTF_16LE {
                    u16::from_le_bytes(last)
                } else {
                    u16::from_be_bytes(last)
                };
                // The first half of a surrogate pair belongs to the second.
                let half = (0xd800..0xdc00).contains(&last) && most > unit;
                if half { most - unit } else { most }
            }
        };
        Next::Part { content }
    }
}

/// The stream of a container's log line, and whether it is marked as a part.
fn cri_head(line: &[u8]) -> Option<(&[u8], bool)> {
    let mut words = line.splitn(4, |byte| *byte == b' ');
    let (_time, stream, tags) = (words.next()?, words.next()?, words.next()?);
    let tag = tags.split(|byte| *byte == b':').next()?;
    match tag {
        b"P" => Some((stream, true)),
        b"F" => Some((stream, false)),
        _ => None,
    }
}

/// Cuts at `line_max`, or up to three bytes before it where that keeps a UTF-8 character whole.
fn cut_of_bytes(buffer: &[u8], line_max: usize) -> usize {
    let begins_character = |at: &usize| buffer[*at] & 0b1100_0000 != 0b1000_0000;
    let earliest = line_max.saturating_sub(3).max(1);
    (earliest..=line_max)
        .rev()
        .find(begins_character)
        .unwrap_or(line_max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All pieces of a file that has ended.
    fn split(splitter: &Splitter, bytes: &[u8]) -> Vec<Next> {
        let mut rest = bytes;
        let mut found = Vec::new();
        loop {
            let piece = splitter.next(rest, Progress::default(), true);
            if let Next::Unfinished(_) = piece {
                return found;
            }
            rest = &rest[piece.bytes()..];
            found.push(piece);
        }
    }

    fn next(bytes: &[u8], line_max: usize) -> Next {
        Splitter::new(line_max).next(bytes, Progress::default(), false)
    }

    fn line(content: usize, end: usize) -> Next {
        let lines = 1;
        Next::Line {
            content,
            end,
            lines,
        }
    }

    fn unfinished(searched: usize) -> Next {
        Next::Unfinished(Progress::searched(searched))
    }

    fn grouped(rule: Rule) -> Splitter {
        let grouping = Grouping {
            rule,
            lines_max: 3,
            bytes_max: 20,
            timeout: Duration::from_secs(1),
        };
        Splitter {
            grouping: Some(grouping),
            ..Splitter::new(12)
        }
    }

    fn regex(pattern: &str) -> Regex {
        Regex::new(pattern).expect("a pattern")
    }

    /// The pieces as text.
    fn texts<'a>(splitter: &Splitter, text: &'a str) -> Vec<&'a str> {
        let mut rest = text;
        let mut texts = Vec::new();
        for piece in split(splitter, text.as_bytes()) {
            let (piece, behind) = rest.split_at(piece.bytes());
            texts.push(piece);
            rest = behind;
        }
        texts
    }

    #[test]
    fn a_group_ends_where_the_next_one_starts_or_nothing_continues_it() {
        let by_start = grouped(Rule::Start(regex("^[0-9]")));
        assert_eq!(
            texts(&by_start, "  x\n1 a\n\tb\r\n2 c\n3\n"),
            ["  x\n", "1 a\n\tb\r\n", "2 c\n", "3\n"]
        );
        let by_continuation = grouped(Rule::Continuation(regex(r"^\s")));
        assert_eq!(
            texts(&by_continuation, "1 a\n\tb\n2 c\n d\n e"),
            ["1 a\n\tb\n", "2 c\n d\n e"]
        );
        // Whether more comes is not known before the next line is there.
        let buffer = b"1 a\r\n b\n";
        let Next::Unfinished(progress) = by_continuation.next(buffer, Progress::default(), false)
        else {
            unreachable!("nothing is known to end the group");
        };
        assert_eq!((progress.lines, progress.bytes), (2, 8));
        let whole = Next::Line {
            content: 7,
            end: 1,
            lines: 2,
        };
        assert_eq!(progress.group(), Some(whole));
        assert_eq!(
            by_continuation.next(b"1 a\r\n b\n2\n", progress, false),
            whole
        );
    }

    #[test]
    fn a_group_has_limits_and_an_over_long_line_is_joined_to_nothing() {
        let splitter = grouped(Rule::Continuation(regex("^ ")));
        assert_eq!(texts(&splitter, "1\n 2\n 3\n 4\n"), ["1\n 2\n 3\n", " 4\n"]);
        assert_eq!(
            texts(&splitter, "1 345 7\n 345 7 9\n 34\n"),
            ["1 345 7\n 345 7 9\n", " 34\n"]
        );
        assert_eq!(
            texts(&splitter, "1\n 3456789012345\n 2\n"),
            ["1\n", " 34567890123", "45\n 2\n"]
        );
    }

    #[test]
    fn parts_of_a_containers_line_are_one_while_nothing_comes_between() {
        let splitter = Splitter {
            grouping: Some(Grouping {
                rule: Rule::Cri,
                lines_max: 10,
                bytes_max: 100,
                timeout: Duration::from_secs(1),
            }),
            ..Splitter::new(100)
        };
        assert_eq!(
            texts(
                &splitter,
                "t out P a\nt out P b\nt out F c\nt out F d\nt err P e\nt out F f\nno\nt err P g\n"
            ),
            [
                "t out P a\nt out P b\nt out F c\n",
                "t out F d\n",
                "t err P e\n",
                "t out F f\n",
                "no\n",
                "t err P g\n"
            ]
        );
        // A last part is not waited for.
        let whole = splitter.next(b"t out P a\nt out F b\n", Progress::default(), false);
        assert_eq!(whole.bytes(), 20);
    }

    #[test]
    fn a_line_of_utf_16_ends_at_its_own_line_feed_and_not_inside_a_character() {
        for (encoding, little) in [(UTF_16LE, true), (UTF_16BE, false)] {
            let bytes = |text: &str| -> Vec<u8> {
                let pair = |unit: u16| match little {
                    true => unit.to_le_bytes(),
                    false => unit.to_be_bytes(),
                };
                text.encode_utf16().flat_map(pair).collect()
            };
            let splitter = Splitter {
                encoding,
                ..Splitter::new(7)
            };
            // U+0A00 and U+000A have the same bytes, the other way round.
            let text = bytes("\u{a00}a\r\n\u{10a0a}\n");
            let pieces = split(&splitter, &text);
            assert_eq!(pieces, [line(4, 4), line(4, 2)]);
            for cut in 0..8 {
                let early = splitter.next(&text[..cut], Progress::default(), false);
                let Next::Unfinished(progress) = early else {
                    unreachable!("{cut} bytes hold a line: {early:?}");
                };
                assert_eq!(splitter.next(&text, progress, false), line(4, 4));
            }
            let long = bytes("ab\u{10a0a}c\n");
            assert_eq!(split(&splitter, &long)[0], Next::Part { content: 4 });
        }
    }

    #[test]
    fn a_line_end_is_lf_or_crlf_and_a_lone_cr_is_content() {
        assert_eq!(next(b"ab\ncd", 9), line(2, 1));
        assert_eq!(next(b"ab\r\ncd", 9), line(2, 2));
        assert_eq!(next(b"\n", 9), line(0, 1));
        assert_eq!(next(b"\r\n", 9), line(0, 2));
        assert_eq!(next(b"a\rb\n", 9), line(3, 1));
        assert_eq!(next(b"ab\r", 9), unfinished(3));
        assert_eq!(split(&Splitter::new(9), b"ab\r"), [line(3, 0)]);
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_whole_with_either_line_end() {
        assert_eq!(next(b"abcd\n", 4), line(4, 1));
        assert_eq!(next(b"abcd\r\n", 4), line(4, 2));
        assert_eq!(next(b"abcd\r", 4), unfinished(5));
        assert_eq!(next(b"abcde\n", 4), Next::Part { content: 4 });
        assert_eq!(next(b"abcdef", 4), Next::Part { content: 4 });
    }

    #[test]
    fn a_split_keeps_a_character_whole_where_it_can() {
        assert_eq!(
            next("abc\u{20ac}def\n".as_bytes(), 4),
            Next::Part { content: 3 }
        );
        assert_eq!(
            next(b"\x80\x80\x80\x80\x80\x80\x80", 4),
            Next::Part { content: 4 }
        );
    }

    proptest! {
        #[test]
        fn pieces_cover_every_byte_once_wherever_the_reads_were_cut(
            bytes in proptest::collection::vec(
                prop_oneof![Just(b'\n'), Just(b'\r'), Just(b' '), Just(0), any::<u8>()],
                0..200,
            ),
            line_max in 1usize..12,
            form in 0usize..4,
            cuts in proptest::collection::vec(0usize..200, 0..6),
        ) {
            let mut splitter = Splitter::new(line_max);
            match form {
                1 => splitter.encoding = UTF_16LE,
                2 => splitter.grouping = grouped(Rule::Continuation(regex("^ "))).grouping,
                3 => splitter.grouping = grouped(Rule::Start(regex("^[a-z]"))).grouping,
                _ => {}
            }
            let pieces = split(&splitter, &bytes);
            prop_assert_eq!(pieces.iter().map(|piece| piece.bytes()).sum::<usize>(), bytes.len());
            // Shorter reads see the same pieces, or wait; what they learned holds.
            let mut cuts = cuts;
            cuts.sort_unstable();
            cuts.push(200);
            let (mut at, mut known, mut expected) = (0, Progress::default(), pieces.into_iter());
            for cut in cuts {
                let shorter = &bytes[..cut.min(bytes.len())];
                while at <= shorter.len() {
                    match splitter.next(&shorter[at..], known, false) {
                        Next::Unfinished(progress) => {
                            known = progress;
                            break;
                        }
                        early => {
                            prop_assert_eq!(Some(early), expected.next());
                            at += early.bytes();
                            known = Progress::default();
                        }
                    }
                }
            }
        }
    }
}
