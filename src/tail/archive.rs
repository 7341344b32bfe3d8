//! A log file that was compressed (`.gz`, `.zst`), read as what it was before: forwards, with a
//! little of what was read last kept, so that a place shortly before can be gone back to. Anything
//! further back is unpacked anew from the beginning.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use flate2::bufread::GzDecoder;
use zstd::stream::read::Decoder as ZstdDecoder;

use super::identity;
use crate::model::{Coding, Proof};
use crate::sys;

/// Bytes before the present place that are kept: an over-long line and two quanta.
const WINDOW: usize = 2 << 20;
/// Bytes unpacked at a time.
const PIECE: usize = 64 * 1024;
/// The largest window of a zstd frame, as a power of two: what `zstd -d` takes unasked, and more
/// memory than that is nobody's to ask for.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// What a gzip member begins with.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A log file's bytes, as they were written or uncompressed.
#[derive(Debug)]
pub enum Content {
    /// The file as it is.
    Plain(File),
    /// What was compressed into it.
    Packed(Box<Archive>),
}

impl Content {
    /// The file that it stands in.
    #[must_use]
    pub fn file(&self) -> &File {
        match self {
            Self::Plain(file) => file,
            Self::Packed(archive) => archive.file(),
        }
    }

    /// Reads at `offset` into `check`, then into `buffer`. Returns the bytes read in all; fewer than
    /// asked for may mean the end.
    ///
    /// # Errors
    /// As `preadv(2)`, or as [`Archive::go_on`].
    pub fn read_at(
        &mut self,
        check: &mut [u8],
        buffer: &mut [u8],
        offset: u64,
    ) -> io::Result<usize> {
        match self {
            Self::Plain(file) => sys::read_at(file, check, buffer, offset),
            Self::Packed(archive) => {
                let checked = archive.read_full_at(check, offset)?;
                if checked < check.len() {
                    return Ok(checked);
                }
                Ok(checked + archive.read_full_at(buffer, offset + checked as u64)?)
            }
        }
    }

    /// Fills `buffer` from `offset`, as far as the content goes.
    ///
    /// # Errors
    /// As [`Content::read_at`].
    pub fn read_full_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::Plain(file) => sys::read_full_at(file, buffer, offset),
            Self::Packed(archive) => archive.read_full_at(buffer, offset),
        }
    }

    /// The bytes right before `offset` (up to [`crate::model::PROOF_LEN`]) and their proof.
    ///
    /// # Errors
    /// As [`Content::read_at`].
    pub fn end_before(&mut self, offset: u64) -> io::Result<(Vec<u8>, Proof)> {
        identity::end_before_by(|bytes, at| self.read_full_at(bytes, at), offset)
    }
}

/// A compressed file.
pub struct Archive {
    file: Arc<File>,
    coding: Coding,
    /// Nothing before the first read, at the end, and after an error.
    decoder: Option<Decoder>,
    /// Bytes unpacked so far.
    at: u64,
    /// The last of them.
    window: Vec<u8>,
    /// All of them, once the end was reached.
    len: Option<u64>,
    /// What is wrong with it, for as long as it stays of this size and time of change.
    broken: Option<Broken>,
}

#[derive(Debug)]
struct Broken {
    version: (u64, i64),
    kind: io::ErrorKind,
    text: String,
}

enum Decoder {
    Gzip(Box<GzDecoder<BufReader<At>>>),
    Zstd(Box<ZstdDecoder<'static, BufReader<At>>>),
}

/// A file read from a place of its own.
struct At {
    file: Arc<File>,
    offset: u64,
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = sys::read_at(&self.file, &mut [], buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive")
            .field("coding", &self.coding)
            .field("at", &self.at)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Archive {
    /// At its beginning.
    #[must_use]
    pub fn new(file: File, coding: Coding) -> Self {
        Self {
            file: Arc::new(file),
            coding,
            decoder: None,
            at: 0,
            window: Vec::new(),
            len: None,
            broken: None,
        }
    }

    /// The compressed file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where its content ends, uncompressed; not known before it was reached.
    #[must_use]
    pub fn end(&self) -> Option<u64> {
        self.len
    }

    /// Bytes unpacked so far.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Gives back the memory of the decoder. Reading on begins anew.
    pub fn rest(&mut self) {
        self.decoder = None;
        self.window = Vec::new();
        self.at = 0;
    }

    /// Unpacks up to the place `to`, at most `most` bytes now. Returns where it is, which is before
    /// `to` also at the end.
    ///
    /// # Errors
    /// The file cannot be read, is damaged (`InvalidData`, `InvalidInput`) or not whole
    /// (`UnexpectedEof`).
    pub fn go_on(&mut self, to: u64, most: usize) -> io::Result<u64> {
        if self.decoder.is_none() {
            self.still_broken()?;
        }
        let last = to.min(self.at.saturating_add(most as u64));
        while self.at < last && self.len != Some(self.at) {
            let wanted = usize::try_from(last - self.at).map_or(PIECE, |left| left.min(PIECE));
            self.unpack(wanted)?;
        }
        Ok(self.at)
    }

    /// Fills `buffer` from `offset`, as far as the content goes.
    ///
    /// # Errors
    /// As [`Archive::go_on`].
    pub fn read_full_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset < self.at - self.window.len() as u64 {
            self.rest();
        }
        let end = offset + buffer.len() as u64;
        // What is asked for must stay in the window until it is copied.
        let mut filled = 0;
        while filled < buffer.len() {
            let from = offset + filled as u64;
            if self.at <= from {
                self.go_on(end.min(from + PIECE as u64), usize::MAX)?;
            }
            if self.at <= from {
                break;
            }
            let behind = usize::try_from(self.at - from).unwrap_or(usize::MAX);
            let there = &self.window[self.window.len() - behind.min(self.window.len())..];
            let piece = there.len().min(buffer.len() - filled);
            buffer[filled..filled + piece].copy_from_slice(&there[..piece]);
            filled += piece;
        }
        Ok(filled)
    }

    /// Unpacks at most `wanted` bytes more into the window.
    fn unpack(&mut self, wanted: usize) -> io::Result<()> {
        if self.window.len() > 2 * WINDOW {
            self.window.drain(..self.window.len() - WINDOW);
        }
        let before = self.window.len();
        self.window.resize(before + wanted, 0);
        let read = self.read(before);
        self.window.truncate(before + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => {
                self.len = Some(self.at);
                self.decoder = None;
            }
            Ok(read) => self.at += read as u64,
            Err(error) => {
                self.rest();
                self.broken = Some(Broken {
                    version: self.version()?,
                    kind: error.kind(),
                    text: error.to_string(),
                });
                return Err(error);
            }
        }
        Ok(())
    }

    /// Its size and time of change: as long as they stay, so does what is in it.
    fn version(&self) -> io::Result<(u64, i64)> {
        let status = sys::status(&self.file)?;
        Ok((status.size, status.modified))
    }

    /// Says again what was wrong, if nothing has changed since.
    fn still_broken(&self) -> io::Result<()> {
        match &self.broken {
            Some(broken) if broken.version == self.version()? => {
                Err(io::Error::new(broken.kind, broken.text.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Reads into the window from `before` on; nothing is left at the end.
    fn read(&mut self, before: usize) -> io::Result<usize> {
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            None => {
                let raw = BufReader::with_capacity(
                    PIECE,
                    At {
                        file: Arc::clone(&self.file),
                        offset: 0,
                    },
                );
                self.decoder.insert(Decoder::new(self.coding, raw)?)
            }
        };
        let room = &mut self.window[before..];
        loop {
            let read = match decoder {
                Decoder::Gzip(decoder) => decoder.read(room)?,
                Decoder::Zstd(decoder) => decoder.read(room)?,
            };
            if read > 0 || !decoder.next_member()? {
                return Ok(read);
            }
        }
    }
}

impl Decoder {
    fn new(coding: Coding, mut raw: BufReader<At>) -> io::Result<Self> {
        if raw.fill_buf()?.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(match coding {
            Coding::Gzip => Self::Gzip(Box::new(GzDecoder::new(raw))),
            Coding::Zstd => {
                let mut decoder = ZstdDecoder::with_buffer(raw)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Self::Zstd(Box::new(decoder))
            }
        })
    }

    /// Goes on to the next member, which only gzip leaves to its caller. What follows the last one
    /// is ignored, as gzip itself ignores it.
    fn next_member(&mut self) -> io::Result<bool> {
        let Self::Gzip(decoder) = self else {
            return Ok(false);
        };
        let raw = decoder.get_mut();
        if !raw.fill_buf()?.starts_with(&GZIP_MAGIC) {
            return Ok(false);
        }
        let next = At {
            file: Arc::clone(&raw.get_ref().file),
            offset: raw.get_ref().offset - raw.buffer().len() as u64,
        };
        **decoder = GzDecoder::new(BufReader::with_capacity(PIECE, next));
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn packed(coding: Coding, content: &[u8]) -> Vec<u8> {
        match coding {
            Coding::Gzip => {
                let level = flate2::Compression::fast();
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(content).expect("packed");
                encoder.finish().expect("packed")
            }
            Coding::Zstd => zstd::encode_all(content, 1).expect("packed"),
        }
    }

    fn archive(coding: Coding, bytes: &[u8]) -> Archive {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("written");
        Archive::new(file, coding)
    }

    fn content(len: usize) -> Vec<u8> {
        (0..len)
            .map(|at| u8::try_from((at * 7 + at / 251) % 256).expect("a byte"))
            .collect()
    }

    const CODINGS: [Coding; 2] = [Coding::Gzip, Coding::Zstd];

    #[test]
    fn any_place_can_be_read_and_a_little_is_held() {
        let content = content(9 << 20);
        for coding in CODINGS {
            let mut archive = archive(coding, &packed(coding, &content));
            for (offset, len) in [
                (0, 1024),
                (100, 10),
                (5 << 20, 300_000),
                ((5 << 20) - (1 << 20), 1 << 20),
                (8 << 20, 2 << 20),
                (3, 70_000),
                (9 << 20, 10),
                (10 << 20, 10),
            ] {
                let mut buffer = vec![0; len];
                let read = archive.read_full_at(&mut buffer, offset as u64);
                let read = read.expect("read");
                let there = &content[offset.min(content.len())..(offset + len).min(content.len())];
                assert!(buffer[..read] == *there, "{coding:?} {offset} {len}");
                assert!(archive.window.capacity() <= 8 << 20);
            }
            assert_eq!(archive.end(), Some(9 << 20));
        }
    }

    #[test]
    fn members_follow_each_other_and_what_is_no_member_ends_them() {
        for coding in CODINGS {
            let mut bytes = packed(coding, b"one\n");
            bytes.extend(packed(coding, b""));
            bytes.extend(packed(coding, b"two\n"));
            if coding == Coding::Gzip {
                bytes.extend([0; 100]);
            }
            let mut archive = archive(coding, &bytes);
            let mut buffer = [0; 100];
            let read = archive.read_full_at(&mut buffer, 0).expect("read");
            assert_eq!(&buffer[..read], b"one\ntwo\n");
            assert_eq!(archive.end(), Some(8));
        }
    }

    #[test]
    fn what_is_not_whole_or_damaged_is_told_from_its_end() {
        let content = content(300_000);
        for coding in CODINGS {
            let bytes = packed(coding, &content);
            for cut in [0, 1, 5, bytes.len() / 2, bytes.len() - 1] {
                let mut archive = archive(coding, &bytes[..cut]);
                let error = archive.go_on(u64::MAX, usize::MAX).expect_err("not whole");
                assert_eq!(
                    error.kind(),
                    io::ErrorKind::UnexpectedEof,
                    "{coding:?} {cut}"
                );
                assert_eq!(archive.end(), None);
                let again = archive.go_on(1, 1).expect_err("nothing has changed");
                assert_eq!(again.to_string(), error.to_string());
                let mut file = archive.file();
                file.write_all(&bytes[cut..]).expect("written");
                assert_eq!(archive.go_on(u64::MAX, usize::MAX).expect("whole"), 300_000);
            }
            let mut damaged = bytes.clone();
            damaged[bytes.len() / 2] ^= 0x40;
            let mut archive = archive(coding, &damaged);
            let read = archive.go_on(u64::MAX, usize::MAX);
            // Without a checksum a changed byte may be a byte like others.
            assert!(read.is_err() || coding == Coding::Zstd, "{coding:?}");
        }
    }
}
