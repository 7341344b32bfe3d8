//! What is in a spool, after whatever happened to it. Reads only: a crash while it is at it changes
//! nothing, and somebody who has no lock can do the same. What is found is told, not logged.

use std::cmp::Ordering;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tracing::warn;

use super::contents::{Contents, Segment};
use super::disk::{ASIDE, Disk, DiskFile, Kind as NameKind, LOCK, is_planted};
use super::segment::{
    Content, FOOTER_BODY_LEN, Files, HEADER_BYTES, HEADER_LEN, Header, Key, Kind, NoHeader,
    Summary, Totals, decode_entry, group_begin, ids_in,
};
use super::walk::{Step, Walk, read_full};
use super::{Damage, Place, Recovered, SpoolError, SpoolId, What, file_name, number_of};
use crate::telemetry::progress;

/// What opening found beside the segments.
#[derive(Debug)]
pub(super) struct Survey<F> {
    pub(super) contents: Contents<F>,
    pub(super) recovered: Recovered,
    /// Names that are none of the spool's.
    pub(super) unknown: Vec<String>,
    /// Where the last group of the last segment begins, if that has no footer: nothing tells that it
    /// is durable.
    pub(super) unproved: Option<u64>,
}

/// Looks at everything. Nothing is written.
pub(super) fn survey<D: Disk>(
    disk: &D,
    directory: &Path,
    confirmed: Option<(SpoolId, Place)>,
) -> Result<Survey<D::File>, SpoolError> {
    let mut looked = Vec::new();
    let (numbers, unknown) = numbers(disk, directory)?;
    for number in numbers {
        progress::step();
        looked.extend(look_at(disk, directory, number)?);
    }
    let id = match id_of(&looked, confirmed) {
        Some(id) => id,
        None => match id_by_marks(disk, &looked) {
            Some(id) => id,
            None => disk.new_id().map_err(io_at(directory))?,
        },
    };
    for segment in &mut looked {
        // One of another spool is as good as none.
        segment.header = segment.header.filter(|header| header.id == id);
    }
    let least_after = least_after(&looked);
    let from = |from| Surveyor {
        disk,
        directory,
        id,
        looked: &looked,
        least_after: &least_after,
        from,
        from_exists: false,
        unproved: None,
        files: Files::default(),
        recovered: Recovered::default(),
    };
    let Some((of, place)) = confirmed else {
        let survey = from(None).survey();
        return Ok(Survey { unknown, ..survey });
    };
    if of == id && !looked.is_empty() {
        let survey = from(Some(place)).survey();
        if survey.recovered.from == Some(place) {
            return Ok(Survey { unknown, ..survey });
        }
    }
    let mut survey = from(None).survey();
    survey.recovered.ignored = true;
    Ok(Survey { unknown, ..survey })
}

/// A segment's size and what its header says. No open file: there may be thousands.
struct Looked {
    number: u64,
    size: u64,
    header: Option<Header>,
}

/// The numbers of the segments, in order, and other names, which are left alone.
fn numbers<D: Disk>(disk: &D, directory: &Path) -> Result<(Vec<u64>, Vec<String>), SpoolError> {
    let mut numbers = Vec::new();
    let mut unknown = Vec::new();
    for (name, kind) in disk.list().map_err(io_at(directory))? {
        match number_of(&name) {
            Some(_) if kind != NameKind::File => return Err(planted(directory.join(name))),
            Some(number) => numbers.push(number),
            None if name == LOCK || name == ASIDE || is_leftover(&name) => {}
            None => unknown.push(name),
        }
    }
    numbers.sort_unstable();
    unknown.sort_unstable();
    Ok((numbers, unknown))
}

/// What `drop_oldest` was writing when it was interrupted.
pub(super) fn is_leftover(name: &str) -> bool {
    let stem = name.strip_suffix(".tmp");
    stem.is_some_and(|stem| number_of(&format!("{stem}.seg")).is_some())
}

fn look_at<D: Disk>(disk: &D, directory: &Path, number: u64) -> Result<Option<Looked>, SpoolError> {
    let path = directory.join(file_name(number));
    let file = match disk.open(&file_name(number)) {
        Ok(file) => file,
        // Released while somebody looks on.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if is_planted(&error) => return Err(planted(path)),
        Err(error) => return Err(io_at(&path)(error)),
    };
    let size = file.size().map_err(io_at(&path))?;
    let mut bytes = [0; HEADER_BYTES];
    let header = match read_full(&file, &mut bytes, 0) {
        Ok(read) => match Header::decode(&bytes[..read]) {
            Err(NoHeader::Newer(found)) => return Err(SpoolError::Newer { path, found }),
            Err(NoHeader::Damaged) => None,
            Ok(header) => Some(header).filter(|header| header.number == number),
        },
        Err(error) => {
            warn!(?path, %error, "a segment of the spool cannot be read");
            None
        }
    };
    Ok(Some(Looked {
        number,
        size,
        header,
    }))
}

/// For each segment the least number that a later one names as the one before it.
fn least_after(looked: &[Looked]) -> Vec<u64> {
    let mut least = u64::MAX;
    let mut numbers: Vec<u64> = looked
        .iter()
        .rev()
        .map(|segment| {
            let after = least;
            let previous = segment.header.map(|header| header.previous);
            let named = previous.map(|previous| previous.map_or(0, |place| place.segment));
            least = least.min(named.unwrap_or(u64::MAX));
            after
        })
        .collect();
    numbers.reverse();
    numbers
}

/// The id that state.db knows, if a segment has it; else that of the last segment that has one.
fn id_of(looked: &[Looked], confirmed: Option<(SpoolId, Place)>) -> Option<SpoolId> {
    let ids = || looked.iter().rev().filter_map(|segment| segment.header);
    let known = confirmed.map(|(id, _)| id);
    let known = known.filter(|known| ids().any(|header| header.id == *known));
    known.or_else(|| ids().next().map(|header| header.id))
}

/// The id that the marks of segments without header have, proved by one of them.
fn id_by_marks<D: Disk>(disk: &D, looked: &[Looked]) -> Option<SpoolId> {
    let segments = looked.iter().rev();
    let mut ids = segments.filter_map(|segment| id_in(disk, segment).ok().flatten());
    ids.next()
}

fn id_in<D: Disk>(disk: &D, segment: &Looked) -> io::Result<Option<SpoolId>> {
    let file = disk.open(&file_name(segment.number))?;
    let mut bytes = vec![0; 1 << 20];
    let mut from = 0;
    while from < segment.size {
        let read = read_full(&file, &mut bytes, from)?;
        let end = from + read as u64;
        for id in ids_in(&bytes[..read]) {
            let mut walk = Walk::new(&file, Key::new(id, segment.number), from, end);
            let is_record = match walk.next()? {
                Step::Record { .. } => true,
                Step::Damaged { behind, .. } => behind < end,
                Step::End => false,
            };
            if is_record {
                return Ok(Some(id));
            }
        }
        if read < bytes.len() {
            break;
        }
        // A mark may lie across.
        from += (read / 2) as u64;
    }
    Ok(None)
}

struct Surveyor<'a, D> {
    disk: &'a D,
    directory: &'a Path,
    id: SpoolId,
    looked: &'a [Looked],
    least_after: &'a [u64],
    /// Everything before is confirmed.
    from: Option<Place>,
    /// There is, or was, something at `from`.
    from_exists: bool,
    unproved: Option<u64>,
    files: Files,
    recovered: Recovered,
}

/// What one segment has.
struct Settled {
    end: u64,
    sealed: bool,
    summary: Summary,
    damages: Vec<Damage>,
}

impl<D: Disk> Surveyor<'_, D> {
    fn survey(mut self) -> Survey<D::File> {
        self.from_exists = self.is_from_between();
        let mut segments: Vec<Segment> = Vec::with_capacity(self.looked.len());
        let mut damages = Vec::new();
        // The last segment of which anything was ever durable.
        let mut counted = None;
        for index in 0..self.looked.len() {
            progress::step();
            let looked = &self.looked[index];
            let path = self.directory.join(file_name(looked.number));
            let settled = match self.settle(index) {
                Ok(settled) => settled,
                // Released while somebody looks on.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    warn!(?path, %error, "a segment of the spool cannot be read now");
                    self.unreadable(index)
                }
            };
            let before = counted.map(|counted: usize| &segments[counted]);
            let gap = self.gap_before(index, before, settled.end);
            if !self.is_given_up(index) {
                counted = Some(segments.len());
            }
            damages.extend(gap.map(|bytes| self.missing(index, bytes)));
            damages.extend(settled.damages);
            for file in settled.summary.files.list() {
                self.files.join(file);
            }
            segments.push(Segment {
                number: looked.number,
                content: looked
                    .header
                    .map_or(Content::Batches, |header| header.content),
                size: looked.size,
                end: settled.end,
                sealed: settled.sealed,
                previous: looked.header.and_then(|header| header.previous),
                gap,
                damaged: false,
                said: false,
                totals: settled.summary.totals,
                files: settled.summary.files.len(),
            });
        }
        let mut contents = Contents::new(self.directory, self.id, segments);
        for damage in damages.iter().filter(|damage| damage.what != What::Missing) {
            let index = contents.index_from(damage.at.segment);
            contents.segments[index].damaged = true;
        }
        let from = self.from.filter(|_| self.from_exists);
        self.recovered.from = Some(from.unwrap_or_else(|| contents.begin()));
        self.recovered.files = self.files.into_list();
        self.recovered.damaged = damages;
        Survey {
            contents,
            recovered: self.recovered,
            unknown: Vec::new(),
            unproved: self.unproved,
        }
    }

    /// Whether the place is in a segment that is gone: released, or missing.
    fn is_from_between(&self) -> bool {
        self.from.is_some_and(|from| {
            let last = self.looked.last().map_or(0, |last| last.number);
            let is_there = |looked: &Looked| looked.number == from.segment;
            from.segment < last && !self.looked.iter().any(is_there)
        })
    }

    /// Bytes that were durable in front of this segment and are gone.
    fn gap_before(&self, index: usize, before: Option<&Segment>, end: u64) -> Option<u64> {
        if self.is_given_up(index) {
            return None;
        }
        let number = self.looked[index].number;
        let told = self.looked[index].header.map(|header| {
            header
                .previous
                .map_or((0, 0), |place| (place.segment, place.offset))
        });
        // What is confirmed may be gone.
        let is_done = |segment, offset| self.from >= Some(Place { segment, offset });
        match (before, told) {
            (Some(before), Some((previous, end))) => {
                let is_gap = previous > before.number && !is_done(previous, end);
                is_gap.then(|| end.saturating_sub(HEADER_LEN))
            }
            (Some(before), None) => {
                // One that was being made when the machine ended says nothing of what was before.
                let is_gap = before.number.checked_add(1) != Some(number) && end > HEADER_LEN;
                (is_gap && !is_done(number, 0)).then_some(0)
            }
            // In front of the first one stood what was released, up to the place that state.db knows.
            (None, Some((previous, end))) => {
                let from = self.from?;
                let bytes = if from.segment == previous {
                    end.saturating_sub(from.offset)
                } else {
                    end.saturating_sub(HEADER_LEN)
                };
                (!is_done(previous, end) && bytes > 0).then_some(bytes)
            }
            (None, None) => None,
        }
    }

    fn missing(&self, index: usize, bytes: u64) -> Damage {
        let number = self.looked[index].number;
        let before = index.checked_sub(1).map(|index| self.looked[index].number);
        let at = match (before, self.from) {
            (Some(before), _) => Place {
                segment: before.saturating_add(1),
                offset: HEADER_LEN,
            },
            (None, Some(from)) => from,
            (None, None) => Place {
                segment: number.saturating_sub(1),
                offset: HEADER_LEN,
            },
        };
        Damage {
            at,
            behind: Place {
                segment: number,
                offset: HEADER_LEN,
            },
            bytes,
            what: What::Missing,
        }
    }

    /// How much of a segment counts, by its footer, by what the next one says, or by its marks.
    fn settle(&mut self, index: usize) -> io::Result<Settled> {
        let looked = &self.looked[index];
        let file = self.disk.open(&file_name(looked.number))?;
        let mut settled = match self.footer(&file, looked)? {
            Some((end, summary)) => self.by_footer(&file, looked, end, summary)?,
            None => self.without_footer(&file, index)?,
        };
        let (is_whole, has_some) = (looked.size >= HEADER_LEN, settled.end > HEADER_LEN);
        if looked.header.is_none() && is_whole && has_some {
            settled.damages.insert(0, header_damage(looked.number));
        }
        Ok(settled)
    }

    fn without_footer(&mut self, file: &D::File, index: usize) -> io::Result<Settled> {
        let looked = &self.looked[index];
        let is_batches = looked
            .header
            .is_none_or(|header| header.content == Content::Batches);
        let told = self.told_end(index).filter(|_| is_batches);
        let is_last = index + 1 == self.looked.len();
        let end = match told {
            Some(end) => end,
            None => {
                let (group, end) = self.marked_end(file, looked, is_last)?;
                self.unproved = Some(group).filter(|_| is_last);
                end
            }
        };
        let settled = self.walk(file, looked, end, is_last)?;
        if is_last {
            self.recovered.cut_bytes += looked.size.saturating_sub(end.max(HEADER_LEN));
        }
        Ok(settled)
    }

    fn by_footer(
        &mut self,
        file: &D::File,
        looked: &Looked,
        end: u64,
        summary: Summary,
    ) -> io::Result<Settled> {
        let mut settled = Settled {
            end,
            sealed: true,
            summary,
            damages: Vec::new(),
        };
        let from = self.from.map(|from| from.segment.cmp(&looked.number));
        match from {
            // What a footer says of files, it says of all of the segment.
            Some(Ordering::Equal) => {
                settled.summary.files = self.walk(file, looked, end, false)?.summary.files;
            }
            Some(Ordering::Greater) => settled.summary.files = Files::default(),
            Some(Ordering::Less) | None => {}
        }
        Ok(settled)
    }

    /// Where a footer begins and what it says, if there is a good one at the very end.
    fn footer(&self, file: &D::File, looked: &Looked) -> io::Result<Option<(u64, Summary)>> {
        let Some(at) = looked.size.checked_sub(FOOTER_BODY_LEN as u64) else {
            return Ok(None);
        };
        let mut body = [0; FOOTER_BODY_LEN];
        if read_full(file, &mut body, at)? < body.len() {
            return Ok(None);
        }
        let begin = u64::from_le_bytes(body);
        if begin < HEADER_LEN || begin >= at {
            return Ok(None);
        }
        let key = Key::new(self.id, looked.number);
        let mut walk = Walk::new(file, key, begin, looked.size);
        let Step::Record { at, head, meta, .. } = walk.next()? else {
            return Ok(None);
        };
        let is_footer = head.kind == Kind::Footer
            && at + head.record_len() == looked.size
            && key.body_fits(at, &head, &body);
        let summary = Summary::decode(&meta).filter(|_| is_footer);
        Ok(summary.map(|summary| (begin, summary)))
    }

    /// What the next segment that has a header, and counts, says.
    fn next_header(&self, index: usize) -> Option<Header> {
        let mut later = index + 1..self.looked.len();
        later.find_map(|later| {
            let header = self.looked[later].header;
            header.filter(|_| !self.is_given_up(later))
        })
    }

    /// Whether nothing in this segment was ever durable: a later one goes on where an earlier one ends.
    fn is_given_up(&self, index: usize) -> bool {
        self.least_after[index] < self.looked[index].number
    }

    /// Where this segment ends, by what the next one says of it.
    fn told_end(&self, index: usize) -> Option<u64> {
        let number = self.looked[index].number;
        let previous = self.next_header(index)?.previous;
        let place = previous.unwrap_or(Place {
            segment: 0,
            offset: 0,
        });
        match place.segment.cmp(&number) {
            Ordering::Equal => Some(place.offset),
            // Nothing in this one was ever durable.
            Ordering::Less => Some(HEADER_LEN),
            Ordering::Greater => None,
        }
    }

    /// Where the last group of this segment begins and ends, by its last mark. In the last segment a group may have its mark and
    /// not be whole: writes reach a disk in any order. It was never reported as durable then, and
    /// counts up to where it is not whole.
    fn marked_end(&self, file: &D::File, looked: &Looked, is_last: bool) -> io::Result<(u64, u64)> {
        let key = Key::new(self.id, looked.number);
        let mut walk = Walk::new(file, key, HEADER_LEN, looked.size);
        let (mut group, mut end) = (HEADER_LEN, HEADER_LEN);
        // What is bad since the last mark, and in the group of the last mark.
        let mut bad: Vec<(u64, u64)> = Vec::new();
        let mut doubtful = None;
        loop {
            match walk.next()? {
                Step::End => break,
                Step::Damaged { at, behind } => bad.push((at, behind)),
                Step::Record {
                    at,
                    head,
                    meta,
                    behind,
                } => match head.kind {
                    Kind::Mark => {
                        group = group_begin(&meta).unwrap_or(at);
                        let in_group = bad.iter().find(|(_, behind)| *behind > group);
                        doubtful = in_group.map(|(at, _)| group.max(*at));
                        bad.clear();
                        end = behind;
                    }
                    Kind::Entry if is_last => {
                        if !walk.body_fits(at, &head)? {
                            bad.push((at, behind));
                        }
                    }
                    Kind::Entry | Kind::Footer => {}
                },
            }
        }
        Ok((group, doubtful.filter(|_| is_last).unwrap_or(end)))
    }

    /// Everything up to `end`, by heads and descriptions, or with bodies.
    fn walk(
        &mut self,
        file: &D::File,
        looked: &Looked,
        end: u64,
        bodies: bool,
    ) -> io::Result<Settled> {
        let key = Key::new(self.id, looked.number);
        let from = self.from.filter(|from| from.segment == looked.number);
        let done = self.from.is_some_and(|from| from.segment > looked.number);
        let mut walk = Walk::new(file, key, HEADER_LEN, end);
        let (mut totals, mut files) = (Totals::default(), Files::default());
        let mut damages: Vec<Damage> = Vec::new();
        let mut exists = from.is_some_and(|from| from.offset == end.max(HEADER_LEN));
        loop {
            progress::step();
            let (at, behind, what) = match walk.next()? {
                Step::End => break,
                Step::Damaged { at, behind } if at >= looked.size => (at, behind, What::CutOff),
                Step::Damaged { at, behind } => (at, behind, What::Damaged),
                Step::Record {
                    at,
                    head,
                    meta,
                    behind,
                } => {
                    exists |= from.is_some_and(|from| from.offset == at);
                    if head.kind != Kind::Entry {
                        continue;
                    }
                    let whole = !bodies || walk.body_fits(at, &head)?;
                    match decode_entry(&meta, Bytes::new()) {
                        Some(entry) if whole => {
                            totals.add(&entry, head.body_len());
                            if !done && from.is_none_or(|from| from.offset <= at) {
                                files.add(&entry);
                            }
                            continue;
                        }
                        Some(_) => (at, behind, What::Damaged),
                        None => (at, behind, What::Unknown),
                    }
                }
            };
            exists |= from.is_some_and(|from| (at..behind).contains(&from.offset));
            let place = |offset| Place {
                segment: looked.number,
                offset,
            };
            match damages.last_mut() {
                Some(last) if last.behind.offset == at => {
                    last.behind.offset = behind;
                    last.bytes = behind - last.at.offset;
                }
                _ => damages.push(Damage {
                    at: place(at),
                    behind: place(behind),
                    bytes: behind - at,
                    what,
                }),
            }
        }
        self.from_exists |= exists;
        Ok(Settled {
            end: end.max(HEADER_LEN),
            sealed: false,
            summary: Summary { totals, files },
            damages,
        })
    }

    /// A segment that the disk does not give out: all of it counts, so that it is tried again.
    fn unreadable(&mut self, index: usize) -> Settled {
        let looked = &self.looked[index];
        let end = self.told_end(index).unwrap_or(looked.size);
        self.from_exists |= self.from.is_some_and(|from| from.segment == looked.number);
        Settled {
            end,
            sealed: false,
            summary: Summary::default(),
            damages: Vec::new(),
        }
    }
}

fn header_damage(number: u64) -> Damage {
    let place = |offset| Place {
        segment: number,
        offset,
    };
    Damage {
        at: place(0),
        behind: place(HEADER_LEN),
        bytes: HEADER_LEN,
        what: What::Damaged,
    }
}

fn planted(path: PathBuf) -> SpoolError {
    SpoolError::Planted {
        path,
        wanted: "regular file",
    }
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> SpoolError {
    let path = path.to_path_buf();
    move |source| SpoolError::Io {
        path: path.clone(),
        source,
    }
}
