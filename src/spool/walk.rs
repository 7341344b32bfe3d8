//! Over the records of one segment, in order, and over damage to what can be read behind it. Reads
//! no more than it is asked for; asks for no memory that a checksum does not vouch for.

use std::io;

use bytes::Bytes;
use memchr::memmem;

use super::disk::DiskFile;
use super::segment::{HEAD_LEN, Head, Key, SYNC_LEN};

/// Read at once, where more than one record may follow.
const WINDOW: usize = 32 * 1024;
/// Read at once, where a record is looked for or a body is only checked.
const STRETCH: usize = 1024 * 1024;

/// What stands at a place.
#[derive(Debug)]
pub(super) enum Step {
    /// A record whose head and description are whole.
    Record {
        at: u64,
        head: Head,
        meta: Vec<u8>,
        behind: u64,
    },
    /// Bytes that are none, up to the next one or to the end.
    Damaged { at: u64, behind: u64 },
    /// Nothing more.
    End,
}

/// A walk over `[at, end)` of a segment's file.
#[derive(Debug)]
pub(super) struct Walk<'a, F> {
    file: &'a F,
    key: Key,
    at: u64,
    end: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl<'a, F: DiskFile> Walk<'a, F> {
    pub(super) fn new(file: &'a F, key: Key, at: u64, end: u64) -> Self {
        Self {
            file,
            key,
            at,
            end,
            window: Vec::new(),
            window_at: 0,
        }
    }

    /// The next step; the one after begins where it ends.
    pub(super) fn next(&mut self) -> io::Result<Step> {
        if self.at >= self.end {
            return Ok(Step::End);
        }
        let at = self.at;
        if let Some((head, meta)) = self.record_at(at)? {
            let behind = at + head.record_len();
            self.at = behind;
            return Ok(Step::Record {
                at,
                head,
                meta,
                behind,
            });
        }
        let behind = self.next_record(at + 1)?;
        self.at = behind;
        Ok(Step::Damaged { at, behind })
    }

    /// Whether the body of a record is whole. Memory does not grow with it.
    pub(super) fn body_fits(&mut self, at: u64, head: &Head) -> io::Result<bool> {
        let body_at = at + (HEAD_LEN + head.meta_len()) as u64;
        let mut check = self.key.check_body(at);
        let mut left = head.body_len();
        let mut buffer = vec![0; left.min(STRETCH)];
        let mut offset = body_at;
        while left > 0 {
            let part = left.min(buffer.len());
            if read_full(self.file, &mut buffer[..part], offset)? < part {
                return Ok(false);
            }
            check.add(&buffer[..part]);
            left -= part;
            offset += part as u64;
        }
        Ok(check.fits(head))
    }

    /// The body of a record; nothing if it is not whole.
    pub(super) fn body(&mut self, at: u64, head: &Head) -> io::Result<Option<Bytes>> {
        let mut body = vec![0; head.body_len()];
        let body_at = at + (HEAD_LEN + head.meta_len()) as u64;
        let whole = read_full(self.file, &mut body, body_at)? == body.len()
            && self.key.body_fits(at, head, &body);
        Ok(whole.then(|| body.into()))
    }

    fn record_at(&mut self, at: u64) -> io::Result<Option<(Head, Vec<u8>)>> {
        let key = self.key;
        let Some(head) = self.bytes(at, HEAD_LEN)? else {
            return Ok(None);
        };
        let Some(head) = key.head(at, head) else {
            return Ok(None);
        };
        if at + head.record_len() > self.end {
            return Ok(None);
        }
        let meta = self.bytes(at + HEAD_LEN as u64, head.meta_len())?;
        let meta = meta.filter(|meta| key.meta_fits(at, &head, meta));
        Ok(meta.map(|meta| (head, meta.to_vec())))
    }

    /// Where a record begins at or behind `from`, or the end. Looks for the sync marker, which nothing
    /// that was logged can hold.
    fn next_record(&mut self, mut from: u64) -> io::Result<u64> {
        let sync = self.key.sync;
        let finder = memmem::Finder::new(&sync);
        let end = self.end;
        let stretch_len = |from: u64| {
            let left = usize::try_from(end.saturating_sub(from)).unwrap_or(usize::MAX);
            left.min(STRETCH)
        };
        let mut stretch = vec![0; stretch_len(from)];
        while from < self.end {
            let len = stretch_len(from);
            let read = read_full(self.file, &mut stretch[..len], from)?;
            for found in finder.find_iter(&stretch[..read]) {
                let at = from + found as u64;
                if self.record_at(at)?.is_some() {
                    return Ok(at);
                }
            }
            if read < len || read <= SYNC_LEN {
                break;
            }
            // A marker may lie across.
            from += (read + 1 - SYNC_LEN) as u64;
        }
        Ok(self.end)
    }

    /// Bytes of the file, through a window; nothing where the file ends before.
    fn bytes(&mut self, at: u64, len: usize) -> io::Result<Option<&[u8]>> {
        let inside = |window_at: u64, window: &[u8]| {
            let begin = usize::try_from(at.checked_sub(window_at)?).ok()?;
            let end = begin.checked_add(len)?;
            (end <= window.len()).then_some(begin..end)
        };
        if inside(self.window_at, &self.window).is_none() {
            let left = usize::try_from(self.end.saturating_sub(at)).unwrap_or(WINDOW);
            self.window.resize(left.min(WINDOW).max(len), 0);
            let read = read_full(self.file, &mut self.window, at)?;
            self.window.truncate(read);
            self.window_at = at;
        }
        let inside = inside(self.window_at, &self.window);
        Ok(inside.map(|inside| &self.window[inside]))
    }
}

/// Fills `buffer` from `offset`, as far as the file goes.
pub(super) fn read_full(file: &impl DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Writes all of `bytes` at `offset`.
pub(super) fn write_full(file: &impl DiskFile, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut written = 0;
    while written < bytes.len() {
        match file.write_at(&bytes[written..], offset + written as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(wrote) => written += wrote,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
