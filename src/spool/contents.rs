//! The segments that there are, and reading over all of them: what both the spool's owner and
//! `fantail spool`, which may look on, do.

use std::io;
use std::path::{Path, PathBuf};

use super::disk::{Disk, DiskFile};
use super::segment::{Content, HEADER_LEN, Head, Key, Kind, Totals, decode_entry};
use super::walk::{Step, Walk};
use super::{Damage, Next, Place, ReadError, SpoolId, What, file_name};

/// One segment.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) content: Content,
    /// Bytes of the file.
    pub(super) size: u64,
    /// Where what counts of it ends: behind the last mark, in front of the footer.
    pub(super) end: u64,
    /// It has its footer.
    pub(super) sealed: bool,
    /// What its header says of the one before.
    pub(super) previous: Option<Place>,
    /// Bytes that were durable between the one before and this one, and are gone.
    pub(super) gap: Option<u64>,
    /// Something in it cannot be read.
    pub(super) damaged: bool,
    /// That was logged.
    pub(super) said: bool,
    pub(super) totals: Totals,
    /// Files of which it has something.
    pub(super) files: usize,
}

impl Segment {
    pub(super) fn begin(&self) -> Place {
        Place {
            segment: self.number,
            offset: HEADER_LEN,
        }
    }

    pub(super) fn end(&self) -> Place {
        Place {
            segment: self.number,
            offset: self.end,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.end <= HEADER_LEN
    }
}

/// All segments, in order.
#[derive(Debug)]
pub(super) struct Contents<F> {
    pub(super) directory: PathBuf,
    pub(super) id: SpoolId,
    pub(super) segments: Vec<Segment>,
    /// The number of the next one.
    pub(super) next_number: u64,
    /// The segment that was read last.
    open: Option<(u64, F)>,
}

impl<F: DiskFile> Contents<F> {
    pub(super) fn new(directory: &Path, id: SpoolId, segments: Vec<Segment>) -> Self {
        let last = segments.last().map_or(0, |segment| segment.number);
        Self {
            directory: directory.to_path_buf(),
            id,
            segments,
            next_number: last.saturating_add(1),
            open: None,
        }
    }

    pub(super) fn key(&self, number: u64) -> Key {
        Key::new(self.id, number)
    }

    pub(super) fn path(&self, number: u64) -> PathBuf {
        self.directory.join(file_name(number))
    }

    pub(super) fn begin(&self) -> Place {
        let first = self.segments.first().map(Segment::begin);
        first.unwrap_or(Place {
            segment: self.next_number,
            offset: HEADER_LEN,
        })
    }

    pub(super) fn end(&self) -> Place {
        let last = self.segments.last().map(Segment::end);
        last.unwrap_or_else(|| self.begin())
    }

    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size).sum()
    }

    /// The segment of that number, or the one behind where it would be.
    pub(super) fn index_from(&self, number: u64) -> usize {
        self.segments
            .partition_point(|segment| segment.number < number)
    }

    /// Forgets a file that will not be at its name any more.
    pub(super) fn close(&mut self, number: u64) {
        self.open = self.open.take().filter(|(open, _)| *open != number);
    }

    /// The entry at or behind `place`.
    pub(super) fn read<D: Disk<File = F>>(
        &mut self,
        disk: &D,
        mut place: Place,
    ) -> Result<Next, ReadError> {
        loop {
            let index = self.index_from(place.segment);
            let Some(segment) = self.segments.get(index) else {
                return Ok(Next::End);
            };
            let begin = segment.begin();
            if segment.number > place.segment {
                match segment.gap {
                    Some(bytes) => {
                        let offset = place.offset.max(HEADER_LEN);
                        return Ok(Next::Damaged(Damage {
                            at: Place { offset, ..place },
                            behind: begin,
                            bytes,
                            what: What::Missing,
                        }));
                    }
                    None => place = begin,
                }
            }
            place = place.max(begin);
            if place.offset < segment.end {
                let found = self.read_in(disk, index, place).map_err(|source| {
                    let number = self.segments[index].number;
                    ReadError {
                        path: self.path(number),
                        source,
                        behind: self.behind(index),
                    }
                })?;
                if let Some(found) = found {
                    return Ok(found);
                }
            }
            if index + 1 == self.segments.len() {
                return Ok(Next::End);
            }
            place = Place {
                segment: place.segment + 1,
                offset: 0,
            };
        }
    }

    fn behind(&self, index: usize) -> Place {
        let next = self.segments.get(index + 1).map(Segment::begin);
        next.unwrap_or_else(|| self.end())
    }

    fn read_in<D: Disk<File = F>>(
        &mut self,
        disk: &D,
        index: usize,
        place: Place,
    ) -> io::Result<Option<Next>> {
        let (number, end) = (place.segment, self.segments[index].end);
        let key = self.key(number);
        let file = self.file(disk, number)?;
        let found = next_in(file, key, place, end)?;
        self.segments[index].damaged |= matches!(found, Some(Next::Damaged(_)));
        Ok(found)
    }

    fn file<D: Disk<File = F>>(&mut self, disk: &D, number: u64) -> io::Result<&F> {
        let file = match self.open.take() {
            Some((open, file)) if open == number => file,
            _ => disk.open(&file_name(number))?,
        };
        Ok(&self.open.insert((number, file)).1)
    }
}

/// The entry or the damage at or behind `place` in one segment; nothing at its end.
fn next_in<F: DiskFile>(file: &F, key: Key, place: Place, end: u64) -> io::Result<Option<Next>> {
    let mut walk = Walk::new(file, key, place.offset, end);
    let mut damage: Option<Damage> = None;
    loop {
        let (at, behind, what) = match walk.next()? {
            Step::End => return Ok(damage.map(Next::Damaged)),
            Step::Damaged { at, behind } => {
                let is_cut = file.size()? <= at;
                let what = if is_cut { What::CutOff } else { What::Damaged };
                (at, behind, what)
            }
            Step::Record {
                at,
                head,
                meta,
                behind,
            } => match entry_at(&mut walk, at, &head, &meta)? {
                Found::Entry(_) | Found::Other if damage.is_some() => {
                    return Ok(damage.map(Next::Damaged));
                }
                Found::Entry(entry) => {
                    let segment = place.segment;
                    let at = |offset| Place { segment, offset };
                    return Ok(Some(Next::Entry {
                        place: Place {
                            segment,
                            offset: behind - head.record_len(),
                        },
                        behind: at(behind),
                        entry: *entry,
                    }));
                }
                Found::Other => continue,
                Found::Bad(what) => (at, behind, what),
            },
        };
        let segment = place.segment;
        let stretch = damage.get_or_insert(Damage {
            at: Place {
                segment,
                offset: at,
            },
            behind: Place {
                segment,
                offset: behind,
            },
            bytes: 0,
            what,
        });
        stretch.behind.offset = behind;
        stretch.bytes = behind - stretch.at.offset;
    }
}

enum Found {
    Entry(Box<super::Entry>),
    /// A mark or a footer.
    Other,
    Bad(What),
}

fn entry_at<F: DiskFile>(
    walk: &mut Walk<'_, F>,
    at: u64,
    head: &Head,
    meta: &[u8],
) -> io::Result<Found> {
    if head.kind != Kind::Entry {
        return Ok(Found::Other);
    }
    let Some(body) = walk.body(at, head)? else {
        return Ok(Found::Bad(What::Damaged));
    };
    Ok(match decode_entry(meta, body) {
        Some(entry) => Found::Entry(Box::new(entry)),
        None => Found::Bad(What::Unknown),
    })
}
