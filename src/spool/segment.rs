//! The bytes of a segment, format 1: both directions, no I/O.
//!
//! A segment is the file `NUMBER.seg`, the number in 20 digits. It is a header and, end to end,
//! records: groups of entries, each group with a mark behind it, and at last a footer, where it was
//! closed in peace. Numbers are little-endian. Texts and paths have their length in front of them.
//!
//! | header: bytes | what |
//! | --- | --- |
//! | 0..8 | `FANSPOOL` |
//! | 8..12 | format; header and checksum stand in the same place in all formats |
//! | 12..16 | `BTCH`: batches; `DROP`: what is left of a segment that was given up |
//! | 16..32 | id of the spool |
//! | 32..40 | number of the segment |
//! | 40..56 | the segment before it: its number (0: none) and where what counts of it ends |
//! | 56..60 | 0 |
//! | 60..64 | CRC32C of bytes 0..60 |
//!
//! | record: bytes | what |
//! | --- | --- |
//! | 0..8 | sync marker: the beginning of SHA-256 of the spool's id and the segment's number |
//! | 8..12 | `ENTR`, `MARK` or `FOOT` |
//! | 12..16 | length of its description |
//! | 16..20 | length of its body |
//! | 20..24 | CRC32C of the description |
//! | 24..28 | CRC32C of the body |
//! | 28..32 | CRC32C of bytes 0..28 |
//! | 32.. | description, then body |
//!
//! All checksums of a record begin with those of the spool's id, the segment's number, the record's
//! offset and which part it is. So zeros are never valid, nor is what a block held before it was used
//! again, nor a piece of a segment that somebody logged; and what nobody can write who does not know
//! the id, the sync marker, is what is looked for behind damage.
//!
//! | record | description | body |
//! | --- | --- | --- |
//! | entry | source; lines, priority (1 byte), bytes, format (1), coding (1), closed at; files, by number: records; ranges, by number: which file, start, end, skipped (1), eof (1), proof | the message's |
//! | mark | `FANMARK1`, the spool's id, where its group begins | |
//! | footer | entries, lines, bytes of bodies, first and last "closed at"; files, by number: record, first, end with proof, eof (1), holes (1) | where the footer begins (8) |
//!
//! A file's record stands in each entry of the file, not once in a segment: damage then takes what it
//! hits and nothing else, and an entry can be read alone.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Buf, Bytes, TryGetError};
use sha2::{Digest, Sha256};

use super::{Entry, FORMAT, Place, SpoolId, SpooledFile};
use crate::model::{
    Coding, FileId, FileRecord, Format, Identity, LogPath, Mark, Proof, Range, Skipped,
};

/// Length of a segment's header: where its first record begins.
pub(super) const HEADER_LEN: u64 = HEADER_BYTES as u64;
pub(super) const HEADER_BYTES: usize = 64;
/// Length of what stands in front of a record's description.
pub(super) const HEAD_LEN: usize = 32;
/// Length of the sync marker.
pub(super) const SYNC_LEN: usize = 8;
/// Length of a footer's body: where the footer begins.
pub(super) const FOOTER_BODY_LEN: usize = 8;
const MARK_MAGIC: &[u8; 8] = b"FANMARK1";
const MARK_META_LEN: usize = MARK_MAGIC.len() + 16 + 8;
/// What a group of entries takes beside them.
pub(super) const MARK_LEN: u64 = (HEAD_LEN + MARK_META_LEN) as u64;
/// The ids that the marks of one segment name: one, unless bytes lie.
const IDS_MAX: usize = 8;

const HEADER_MAGIC: &[u8; 8] = b"FANSPOOL";
const HEADER_CRC_AT: usize = 60;

/// What a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Batches.
    Batches,
    /// What is left of batches that were given up.
    Dropped,
}

impl Content {
    fn code(self) -> &'static [u8; 4] {
        match self {
            Self::Batches => b"BTCH",
            Self::Dropped => b"DROP",
        }
    }
}

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) content: Content,
    pub(super) id: SpoolId,
    pub(super) number: u64,
    /// Where what counts of the segment before it ends.
    pub(super) previous: Option<Place>,
}

/// Why there is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoHeader {
    /// Of a later version.
    Newer(u32),
    Damaged,
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = HEADER_MAGIC.to_vec();
        bytes.extend(FORMAT.to_le_bytes());
        bytes.extend(self.content.code());
        bytes.extend(self.id.0);
        bytes.extend(self.number.to_le_bytes());
        let (number, end) = self
            .previous
            .map_or((0, 0), |place| (place.segment, place.offset));
        bytes.extend(number.to_le_bytes());
        bytes.extend(end.to_le_bytes());
        bytes.extend([0; 4]);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend(crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, NoHeader> {
        let Some((told, mut crc)) = bytes.split_at_checked(HEADER_CRC_AT) else {
            return Err(NoHeader::Damaged);
        };
        let crc_fits = crc.try_get_u32_le() == Ok(crc32c::crc32c(told));
        let Some(mut rest) = told.strip_prefix(HEADER_MAGIC).filter(|_| crc_fits) else {
            return Err(NoHeader::Damaged);
        };
        let format = rest.try_get_u32_le().map_err(|_| NoHeader::Damaged)?;
        if format > FORMAT {
            return Err(NoHeader::Newer(format));
        }
        header_of_this_format(&mut rest)
            .ok()
            .flatten()
            .ok_or(NoHeader::Damaged)
    }
}

fn header_of_this_format(rest: &mut &[u8]) -> Result<Option<Header>, TryGetError> {
    let content = match &array::<4>(rest)? {
        b"BTCH" => Content::Batches,
        b"DROP" => Content::Dropped,
        _ => return Ok(None),
    };
    let id = SpoolId(array(rest)?);
    let number = rest.try_get_u64_le()?;
    let previous = Place {
        segment: rest.try_get_u64_le()?,
        offset: rest.try_get_u64_le()?,
    };
    Ok(Some(Header {
        content,
        id,
        number,
        previous: (previous.segment > 0).then_some(previous),
    }))
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Entry,
    Mark,
    Footer,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Entry, Self::Mark, Self::Footer];

    fn code(self) -> &'static [u8; 4] {
        match self {
            Self::Entry => b"ENTR",
            Self::Mark => b"MARK",
            Self::Footer => b"FOOT",
        }
    }
}

/// What stands in front of a record's description. Lengths are believed once the checksum fits, and
/// never beyond the end of the segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) kind: Kind,
    meta_len: u32,
    body_len: u32,
    meta_crc: u32,
    body_crc: u32,
}

impl Head {
    pub(super) fn meta_len(&self) -> usize {
        self.meta_len as usize
    }

    pub(super) fn body_len(&self) -> usize {
        self.body_len as usize
    }

    /// Of the whole record.
    pub(super) fn record_len(&self) -> u64 {
        HEAD_LEN as u64 + u64::from(self.meta_len) + u64::from(self.body_len)
    }
}

#[derive(Clone, Copy)]
enum Part {
    Head,
    Meta,
    Body,
}

/// What makes the records of one segment its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    id: SpoolId,
    pub(super) sync: [u8; SYNC_LEN],
    /// Checksum of id and number.
    seed: u32,
}

impl Key {
    pub(super) fn new(id: SpoolId, number: u64) -> Self {
        let mut hash = Sha256::new();
        hash.update(id.0);
        hash.update(number.to_le_bytes());
        let mut sync = [0; SYNC_LEN];
        sync.copy_from_slice(&hash.finalize()[..SYNC_LEN]);
        let seed = crc32c::crc32c_append(crc32c::crc32c(&id.0), &number.to_le_bytes());
        Self { id, sync, seed }
    }

    fn begin(&self, offset: u64, part: Part) -> u32 {
        let seed = crc32c::crc32c_append(self.seed, &offset.to_le_bytes());
        crc32c::crc32c_append(seed, &[part as u8])
    }

    fn crc(&self, offset: u64, part: Part, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.begin(offset, part), bytes)
    }

    /// Puts a record that will stand at `offset` behind `out`. Nothing if a length does not fit.
    fn put(&self, out: &mut Vec<u8>, offset: u64, kind: Kind, meta: &[u8], body: &[u8]) -> bool {
        let lengths = (u32::try_from(meta.len()), u32::try_from(body.len()));
        let (Ok(meta_len), Ok(body_len)) = lengths else {
            return false;
        };
        let begin = out.len();
        out.extend(self.sync);
        out.extend(kind.code());
        out.extend(meta_len.to_le_bytes());
        out.extend(body_len.to_le_bytes());
        out.extend(self.crc(offset, Part::Meta, meta).to_le_bytes());
        out.extend(self.crc(offset, Part::Body, body).to_le_bytes());
        let crc = self.crc(offset, Part::Head, &out[begin..]);
        out.extend(crc.to_le_bytes());
        out.extend(meta);
        out.extend(body);
        true
    }

    /// Makes the checksum of a head fit again.
    #[cfg(test)]
    pub(super) fn sign(&self, offset: u64, head: &mut [u8]) {
        let crc = self.crc(offset, Part::Head, &head[..HEAD_LEN - 4]);
        head[HEAD_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
    }

    #[cfg(test)]
    pub(super) fn meta_crc(&self, offset: u64, meta: &[u8]) -> u32 {
        self.crc(offset, Part::Meta, meta)
    }

    /// The head at `offset`, if these bytes are one.
    pub(super) fn head(&self, offset: u64, bytes: &[u8]) -> Option<Head> {
        let (told, mut crc) = bytes.get(..HEAD_LEN)?.split_at(HEAD_LEN - 4);
        let mut rest = told.strip_prefix(&self.sync)?;
        if crc.try_get_u32_le() != Ok(self.crc(offset, Part::Head, told)) {
            return None;
        }
        let code = array::<4>(&mut rest).ok()?;
        Some(Head {
            kind: Kind::ALL.into_iter().find(|kind| *kind.code() == code)?,
            meta_len: rest.try_get_u32_le().ok()?,
            body_len: rest.try_get_u32_le().ok()?,
            meta_crc: rest.try_get_u32_le().ok()?,
            body_crc: rest.try_get_u32_le().ok()?,
        })
    }

    pub(super) fn meta_fits(&self, offset: u64, head: &Head, meta: &[u8]) -> bool {
        self.crc(offset, Part::Meta, meta) == head.meta_crc
    }

    pub(super) fn body_fits(&self, offset: u64, head: &Head, body: &[u8]) -> bool {
        self.crc(offset, Part::Body, body) == head.body_crc
    }

    /// The checksum of a body that comes in pieces.
    pub(super) fn check_body(&self, offset: u64) -> BodyCheck {
        BodyCheck(self.begin(offset, Part::Body))
    }

    /// Puts entries that will stand at `offset`, and a mark, behind `out`. Returns where they begin;
    /// nothing if one is too long for its length to be written.
    pub(super) fn put_group(
        &self,
        out: &mut Vec<u8>,
        offset: u64,
        entries: &[Entry],
    ) -> Option<Vec<u64>> {
        let before = out.len();
        let mut places = Vec::with_capacity(entries.len());
        for entry in entries {
            let at = offset + (out.len() - before) as u64;
            let meta = encode_entry(entry);
            if !self.put(out, at, Kind::Entry, &meta, &entry.body) {
                return None;
            }
            places.push(at);
        }
        let mut meta = MARK_MAGIC.to_vec();
        meta.extend(self.id.0);
        meta.extend(offset.to_le_bytes());
        let at = offset + (out.len() - before) as u64;
        self.put(out, at, Kind::Mark, &meta, &[]).then_some(places)
    }

    /// A footer that will stand at `offset`; nothing if it is too long.
    pub(super) fn footer(&self, offset: u64, summary: &Summary) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let (meta, body) = (summary.encode(), offset.to_le_bytes());
        let fits = self.put(&mut out, offset, Kind::Footer, &meta, &body);
        fits.then_some(out)
    }
}

/// A body's checksum so far.
#[derive(Debug)]
pub(super) struct BodyCheck(u32);

impl BodyCheck {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.0 = crc32c::crc32c_append(self.0, bytes);
    }

    pub(super) fn fits(&self, head: &Head) -> bool {
        self.0 == head.body_crc
    }
}

/// Where the group of a mark begins, from its description.
pub(super) fn group_begin(meta: &[u8]) -> Option<u64> {
    let mut rest = meta.strip_prefix(MARK_MAGIC)?.get(16..)?;
    rest.try_get_u64_le().ok()
}

/// The ids that what looks like marks in these bytes names. For a segment without a header, when no
/// other has one.
pub(super) fn ids_in(bytes: &[u8]) -> Vec<SpoolId> {
    let mut ids = Vec::new();
    for at in memchr::memmem::find_iter(bytes, MARK_MAGIC) {
        let mut rest = &bytes[at + MARK_MAGIC.len()..];
        let Ok(id) = array(&mut rest).map(SpoolId) else {
            break;
        };
        if !ids.contains(&id) && ids.len() < IDS_MAX {
            ids.push(id);
        }
    }
    ids
}

impl Entry {
    /// Bytes that it takes on the disk, but for its share of mark, header and footer.
    #[must_use]
    pub fn stored_len(&self) -> u64 {
        let files: usize = self.files.iter().map(|file| record_len(file)).sum();
        let fixed = HEAD_LEN + 4 + self.source.len() + ENTRY_FIXED + 8;
        (fixed + files + self.ranges.len() * RANGE_LEN + self.body.len()) as u64
    }

    /// The record of one of its ranges' files.
    #[must_use]
    pub fn record(&self, file: FileId) -> Option<&Arc<FileRecord>> {
        self.files.iter().find(|record| record.id == file)
    }
}

/// Lines, priority, bytes, format, coding, closed at.
const ENTRY_FIXED: usize = 8 + 1 + 8 + 1 + 1 + 8;
const PROOF_LEN: usize = 4 + 16;
const MARK_ENCODED_LEN: usize = 8 + PROOF_LEN;
const RANGE_LEN: usize = 4 + 8 + 8 + 1 + 1 + PROOF_LEN;
const RECORD_FIXED: usize = 16 + 8 + (8 + 8 + 1 + 8 + PROOF_LEN) + 2 * MARK_ENCODED_LEN + 1;

fn record_len(record: &FileRecord) -> usize {
    4 + record.source.len() + 4 + record.path.as_bytes().len() + RECORD_FIXED
}

const FORMATS: [(u8, Format); 3] = [(1, Format::Ndjson), (2, Format::Json), (3, Format::Lines)];
const CODINGS: [(u8, Option<Coding>); 3] =
    [(1, None), (2, Some(Coding::Gzip)), (3, Some(Coding::Zstd))];
const SKIPPED: [(u8, Option<Skipped>); 8] = [
    (1, None),
    (2, Some(Skipped::ReadFrom)),
    (3, Some(Skipped::Ignored)),
    (4, Some(Skipped::Truncated)),
    (5, Some(Skipped::Hole)),
    (6, Some(Skipped::Deleted)),
    (7, Some(Skipped::Damaged)),
    (8, Some(Skipped::DropOldest)),
];

/// The code of a value; 0, which is never read, for one that the table lacks.
fn code<T: PartialEq>(table: &[(u8, T)], value: &T) -> u8 {
    let found = table.iter().find(|(_, known)| known == value);
    found.map_or(0, |(code, _)| *code)
}

fn value<T: Copy>(table: &[(u8, T)], code: u8) -> Option<T> {
    let found = table.iter().find(|(known, _)| *known == code);
    found.map(|(_, value)| *value)
}

fn encode_entry(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, entry.source.as_bytes());
    out.extend(entry.lines.to_le_bytes());
    out.push(entry.priority);
    out.extend(entry.bytes.to_le_bytes());
    out.push(code(&FORMATS, &entry.format));
    out.push(code(&CODINGS, &entry.coding));
    out.extend(entry.closed_at.to_le_bytes());
    put_count(&mut out, entry.files.len());
    for record in &entry.files {
        put_record(&mut out, record);
    }
    put_count(&mut out, entry.ranges.len());
    for range in &entry.ranges {
        let which = entry.files.iter().position(|file| file.id == range.file);
        put_count(&mut out, which.unwrap_or(usize::MAX));
        out.extend(range.start.to_le_bytes());
        out.extend(range.end.to_le_bytes());
        out.push(code(&SKIPPED, &range.skipped));
        out.push(u8::from(range.eof));
        put_proof(&mut out, range.proof);
    }
    out
}

/// An entry from its description and its body; nothing if it makes no sense.
pub(super) fn decode_entry(meta: &[u8], body: Bytes) -> Option<Entry> {
    let mut rest = meta;
    let entry = entry_from(&mut rest, body).ok()??;
    rest.is_empty().then_some(entry)
}

fn entry_from(rest: &mut &[u8], body: Bytes) -> Result<Option<Entry>, TryGetError> {
    let Some(source) = text(rest)? else {
        return Ok(None);
    };
    let (lines, priority, bytes) = (
        rest.try_get_u64_le()?,
        rest.try_get_u8()?,
        rest.try_get_u64_le()?,
    );
    let format = value(&FORMATS, rest.try_get_u8()?);
    let coding = value(&CODINGS, rest.try_get_u8()?);
    let (Some(format), Some(coding)) = (format, coding) else {
        return Ok(None);
    };
    let closed_at = rest.try_get_u64_le()?;
    let mut files = Vec::new();
    for _ in 0..rest.try_get_u32_le()? {
        match record(rest)? {
            Some(record) => files.push(Arc::new(record)),
            None => return Ok(None),
        }
    }
    let mut ranges = Vec::new();
    for _ in 0..rest.try_get_u32_le()? {
        match range(rest, &files)? {
            Some(range) => ranges.push(range),
            None => return Ok(None),
        }
    }
    Ok(Some(Entry {
        source: source.into(),
        ranges,
        lines,
        priority,
        bytes,
        format,
        coding,
        body,
        closed_at,
        files,
    }))
}

fn range(rest: &mut &[u8], files: &[Arc<FileRecord>]) -> Result<Option<Range>, TryGetError> {
    let which = rest.try_get_u32_le()?;
    let (start, end) = (rest.try_get_u64_le()?, rest.try_get_u64_le()?);
    let skipped = value(&SKIPPED, rest.try_get_u8()?);
    let eof = rest.try_get_u8()? != 0;
    let proof = proof(rest)?;
    let file = usize::try_from(which).ok().and_then(|at| files.get(at));
    Ok(file.zip(skipped).map(|(record, skipped)| Range {
        file: record.id,
        path: record.path.clone(),
        start,
        end,
        skipped,
        eof,
        epoch: 0,
        proof,
    }))
}

/// What a segment holds, in short: what its footer says.
#[derive(Clone, Debug, Default)]
pub(super) struct Summary {
    pub(super) totals: Totals,
    pub(super) files: Files,
}

/// Of all entries of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) entries: u64,
    pub(super) lines: u64,
    pub(super) body_bytes: u64,
    /// Of the first entry: seconds since 1970.
    pub(super) first_closed_at: u64,
    /// Of the last one.
    pub(super) last_closed_at: u64,
}

impl Totals {
    pub(super) fn add(&mut self, entry: &Entry, body_len: usize) {
        if self.entries == 0 {
            self.first_closed_at = entry.closed_at;
        }
        self.entries += 1;
        self.lines += entry.lines;
        self.body_bytes += body_len as u64;
        self.last_closed_at = entry.closed_at;
    }
}

/// What there is of each file, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    list: Vec<SpooledFile>,
    places: HashMap<FileId, usize>,
    encoded_len: usize,
}

impl Files {
    pub(super) fn add(&mut self, entry: &Entry) {
        for range in &entry.ranges {
            let Some(record) = entry.record(range.file) else {
                continue;
            };
            self.join(&SpooledFile {
                record: Arc::clone(record),
                path: range.path.clone(),
                first: range.start,
                end: range.end_mark(),
                eof: range.eof,
                holes: false,
            });
        }
    }

    /// Adds what comes behind what is there.
    pub(super) fn join(&mut self, later: &SpooledFile) {
        let Some(place) = self.places.get(&later.record.id) else {
            self.places.insert(later.record.id, self.list.len());
            self.encoded_len += file_len(later);
            self.list.push(later.clone());
            return;
        };
        let file = &mut self.list[*place];
        self.encoded_len -= file_len(file);
        file.holes |= later.holes || later.first > file.end.offset;
        file.first = file.first.min(later.first);
        file.end = file.end.max_by_offset(later.end);
        file.eof |= later.eof;
        file.record = Arc::clone(&later.record);
        self.encoded_len += file_len(file);
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn list(&self) -> &[SpooledFile] {
        &self.list
    }

    pub(super) fn into_list(self) -> Vec<SpooledFile> {
        self.list
    }
}

fn file_len(file: &SpooledFile) -> usize {
    record_len(&file.record) + 8 + MARK_ENCODED_LEN + 2
}

impl Summary {
    pub(super) fn add(&mut self, entry: &Entry) {
        self.totals.add(entry, entry.body.len());
        self.files.add(entry);
    }

    /// Bytes that the footer takes.
    pub(super) fn footer_len(&self) -> u64 {
        (HEAD_LEN + 5 * 8 + 4 + self.files.encoded_len + FOOTER_BODY_LEN) as u64
    }

    fn encode(&self) -> Vec<u8> {
        let totals = &self.totals;
        let mut out = Vec::new();
        for number in [
            totals.entries,
            totals.lines,
            totals.body_bytes,
            totals.first_closed_at,
            totals.last_closed_at,
        ] {
            out.extend(number.to_le_bytes());
        }
        put_count(&mut out, self.files.len());
        for file in self.files.list() {
            put_record(&mut out, &file.record);
            out.extend(file.first.to_le_bytes());
            put_mark(&mut out, file.end);
            out.push(u8::from(file.eof));
            out.push(u8::from(file.holes));
        }
        out
    }

    /// A summary from a footer's description; nothing if it makes no sense.
    pub(super) fn decode(meta: &[u8]) -> Option<Self> {
        let mut rest = meta;
        let summary = summary_from(&mut rest).ok()??;
        rest.is_empty().then_some(summary)
    }
}

fn summary_from(rest: &mut &[u8]) -> Result<Option<Summary>, TryGetError> {
    let totals = Totals {
        entries: rest.try_get_u64_le()?,
        lines: rest.try_get_u64_le()?,
        body_bytes: rest.try_get_u64_le()?,
        first_closed_at: rest.try_get_u64_le()?,
        last_closed_at: rest.try_get_u64_le()?,
    };
    let mut files = Files::default();
    for _ in 0..rest.try_get_u32_le()? {
        let Some(record) = record(rest)? else {
            return Ok(None);
        };
        files.join(&SpooledFile {
            path: record.path.clone(),
            record: Arc::new(record),
            first: rest.try_get_u64_le()?,
            end: mark(rest)?,
            eof: rest.try_get_u8()? != 0,
            holes: rest.try_get_u8()? != 0,
        });
    }
    Ok(Some(Summary { totals, files }))
}

fn put_record(out: &mut Vec<u8>, record: &FileRecord) {
    out.extend(record.id.0);
    put_bytes(out, record.source.as_bytes());
    put_bytes(out, record.path.as_bytes());
    out.extend(record.found.to_le_bytes());
    let identity = &record.identity;
    out.extend(identity.dev.to_le_bytes());
    out.extend(identity.ino.to_le_bytes());
    out.push(u8::from(identity.born.is_some()));
    out.extend(identity.born.unwrap_or(0).to_le_bytes());
    put_proof(out, identity.head);
    put_mark(out, record.begins);
    put_mark(out, record.confirmed);
    out.push(u8::from(record.ended));
}

fn record(rest: &mut &[u8]) -> Result<Option<FileRecord>, TryGetError> {
    let id = FileId(array(rest)?);
    let Some(source) = text(rest)? else {
        return Ok(None);
    };
    let path = LogPath::from_bytes(bytes(rest)?);
    let found = rest.try_get_i64_le()?;
    let (dev, ino) = (rest.try_get_u64_le()?, rest.try_get_u64_le()?);
    let is_born = rest.try_get_u8()? != 0;
    let born = rest.try_get_i64_le()?;
    let identity = Identity {
        dev,
        ino,
        born: is_born.then_some(born),
        head: proof(rest)?,
    };
    Ok(Some(FileRecord {
        id,
        source: source.into(),
        path,
        found,
        identity,
        begins: mark(rest)?,
        confirmed: mark(rest)?,
        ended: rest.try_get_u8()? != 0,
    }))
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    // What does not fit is refused by the length of the whole.
    out.extend(u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend(bytes);
}

fn text<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a str>, TryGetError> {
    bytes(rest).map(|bytes| std::str::from_utf8(bytes).ok())
}

fn put_proof(out: &mut Vec<u8>, proof: Proof) {
    out.extend(proof.len.to_le_bytes());
    out.extend(proof.hash);
}

fn proof(rest: &mut &[u8]) -> Result<Proof, TryGetError> {
    Ok(Proof {
        len: rest.try_get_u32_le()?,
        hash: array(rest)?,
    })
}

fn put_mark(out: &mut Vec<u8>, mark: Mark) {
    out.extend(mark.offset.to_le_bytes());
    put_proof(out, mark.proof);
}

fn mark(rest: &mut &[u8]) -> Result<Mark, TryGetError> {
    Ok(Mark {
        offset: rest.try_get_u64_le()?,
        proof: proof(rest)?,
    })
}

fn array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], TryGetError> {
    let mut array = [0; N];
    rest.try_copy_to_slice(&mut array)?;
    Ok(array)
}

/// Bytes behind their length. Asks for no memory.
fn bytes<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], TryGetError> {
    let len = rest.try_get_u32_le()? as usize;
    let Some((bytes, behind)) = rest.split_at_checked(len) else {
        return Err(TryGetError {
            requested: len,
            available: rest.len(),
        });
    };
    *rest = behind;
    Ok(bytes)
}
