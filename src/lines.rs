//! Lines: where the next line of a file ends, and where an over-long one is split. No I/O, no
//! state: the same bytes from the same offset are always cut at the same places, so that what is
//! read again after a restart has the same ranges.

use memchr::memchr;

/// What stands at the beginning of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A whole line: its content, then its line end.
    Line {
        /// Bytes of content.
        content: usize,
        /// Bytes of the line end: 1 for LF, 2 for CRLF, 0 for the last line of a file that ended
        /// without one.
        end: usize,
    },
    /// The first part of a line that is longer than allowed; the rest stands behind it.
    Part {
        /// Bytes of this part.
        content: usize,
    },
    /// No line end yet.
    Unfinished,
}

impl Next {
    /// Bytes of the file that it takes up.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::Line { content, end } => content + end,
            Self::Part { content } => content,
            Self::Unfinished => 0,
        }
    }
}

/// Looks at `buffer`, which begins where a line (or the rest of a split one) begins. Its first
/// `searched` bytes are known to hold no line end. A line is split when its content, line end
/// aside, is longer than `line_max`.
#[must_use]
pub fn next(buffer: &[u8], searched: usize, line_max: usize) -> Next {
    let Some(found) = memchr(b'\n', &buffer[searched..]) else {
        // One byte more than allowed may still be the CR of a line end.
        return if buffer.len() > line_max + 1 {
            part(buffer, line_max)
        } else {
            Next::Unfinished
        };
    };
    let line_feed = searched + found;
    let end = if buffer[..line_feed].ends_with(b"\r") {
        2
    } else {
        1
    };
    let content = line_feed + 1 - end;
    if content > line_max {
        return part(buffer, line_max);
    }
    Next::Line { content, end }
}

/// Looks at the bytes behind the last line end of a file that will not grow any more.
#[must_use]
pub fn last(buffer: &[u8], line_max: usize) -> Next {
    if buffer.is_empty() {
        Next::Unfinished
    } else if buffer.len() > line_max {
        part(buffer, line_max)
    } else {
        Next::Line {
            content: buffer.len(),
            end: 0,
        }
    }
}

/// Cuts at `line_max`, or up to three bytes before it where that keeps a UTF-8 character whole.
fn part(buffer: &[u8], line_max: usize) -> Next {
    let begins_character = |at: &usize| buffer[*at] & 0b1100_0000 != 0b1000_0000;
    let earliest = line_max.saturating_sub(3).max(1);
    let content = (earliest..=line_max)
        .rev()
        .find(begins_character)
        .unwrap_or(line_max);
    Next::Part { content }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(bytes: &[u8], line_max: usize) -> Vec<Next> {
        let mut rest = bytes;
        let mut found = Vec::new();
        loop {
            let piece = match next(rest, 0, line_max) {
                Next::Unfinished => last(rest, line_max),
                piece => piece,
            };
            if piece == Next::Unfinished {
                return found;
            }
            rest = &rest[piece.bytes()..];
            found.push(piece);
        }
    }

    #[test]
    fn a_line_end_is_lf_or_crlf_and_a_lone_cr_is_content() {
        assert_eq!(next(b"ab\ncd", 0, 9), Next::Line { content: 2, end: 1 });
        assert_eq!(next(b"ab\r\ncd", 0, 9), Next::Line { content: 2, end: 2 });
        assert_eq!(next(b"\n", 0, 9), Next::Line { content: 0, end: 1 });
        assert_eq!(next(b"\r\n", 0, 9), Next::Line { content: 0, end: 2 });
        assert_eq!(next(b"a\rb\n", 0, 9), Next::Line { content: 3, end: 1 });
        assert_eq!(next(b"ab\r", 0, 9), Next::Unfinished);
        assert_eq!(last(b"ab\r", 9), Next::Line { content: 3, end: 0 });
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_whole_with_either_line_end() {
        assert_eq!(next(b"abcd\n", 0, 4), Next::Line { content: 4, end: 1 });
        assert_eq!(next(b"abcd\r\n", 0, 4), Next::Line { content: 4, end: 2 });
        assert_eq!(next(b"abcd\r", 0, 4), Next::Unfinished);
        assert_eq!(next(b"abcde\n", 0, 4), Next::Part { content: 4 });
        assert_eq!(next(b"abcdef", 0, 4), Next::Part { content: 4 });
    }

    #[test]
    fn a_split_keeps_a_character_whole_where_it_can() {
        assert_eq!(
            next("abc\u{20ac}def\n".as_bytes(), 0, 4),
            Next::Part { content: 3 }
        );
        assert_eq!(
            next(b"\x80\x80\x80\x80\x80\x80\x80", 0, 4),
            Next::Part { content: 4 }
        );
    }

    proptest! {
        #[test]
        fn pieces_cover_every_byte_once_wherever_the_reads_were_cut(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..200),
            line_max in 1usize..12,
            cut in 0usize..200,
        ) {
            let pieces = split(&bytes, line_max);
            prop_assert_eq!(pieces.iter().map(|piece| piece.bytes()).sum::<usize>(), bytes.len());
            // A shorter read sees the same pieces, or waits.
            let shorter = &bytes[..cut.min(bytes.len())];
            let mut at = 0;
            for piece in pieces {
                match next(&shorter[at..], 0, line_max) {
                    Next::Unfinished => break,
                    early => prop_assert_eq!(early, piece),
                }
                at += piece.bytes();
            }
        }
    }
}
