//! One generation: what is known of it, and how far it is read, in batches and confirmed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::archive::{Archive, Content};
use super::discover::Found;
use super::identity;
use super::passed::Passed;
use super::reader::{Reader, Scratch};
use super::report::Ages;
use super::rotation::Orphan;
use crate::batch::Origin;
use crate::model::{Epoch, FileId, Identity, Mark, Skipped};
use crate::sys;

/// Whether a file's id is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// It is still empty: nothing proves it, nothing needs it.
    Empty,
    /// Asked for.
    Asked,
    /// Its bytes may leave.
    Durable,
}

/// One generation.
#[derive(Debug)]
pub struct Tailed {
    /// Index of its source.
    pub source: usize,
    /// What stands in its lines.
    pub origin: Origin,
    /// Its bytes; nothing once the inode holds another generation.
    pub reader: Option<Reader>,
    /// Whether its id is durable.
    pub registration: Registration,
    /// No source wants it any more: it is read up to here, which was handed over before.
    pub(super) wanted_to: Option<u64>,
    /// Where delivery begins.
    pub begins: Mark,
    /// Why what lies before that is not delivered.
    pub begins_as: Skipped,
    /// Counts its rewinds.
    pub epoch: Epoch,
    /// Up to where it is in batches.
    pub batched: Mark,
    /// Its end is in a batch.
    pub eof_batched: bool,
    /// Places on the way there.
    pub(super) passed: Passed,
    /// How far it is confirmed, durably.
    pub confirmed: Mark,
    /// Its stamp when it was last found to have nothing new, and to begin as it did.
    pub(super) rests_since: Option<i64>,
    /// How long it was when new bytes were last read of it.
    pub size_seen: u64,
    /// Its inode held another generation before.
    pub anew: bool,
    /// It begins with so many zeros at least, behind which nothing was found yet.
    pub zeros: u64,
    /// From here on its bytes were counted as lost.
    pub lost_from: Option<u64>,
    /// Why what cannot be read of it any more is lost.
    pub lost_as: Skipped,
    pub(super) ages: Ages,
    pub(super) identity: Option<Identity>,
    /// Its present name among those that match; nothing once it was renamed out of them or
    /// deleted.
    pub(super) link: Option<PathBuf>,
    /// The part of that name in which links may be followed, and whether they may be everywhere.
    pub(super) fixed: Option<(Arc<Path>, bool)>,
    pub(super) inode: (u64, u64),
    pub(super) born: Option<i64>,
    /// When it was opened.
    pub(super) opened: Instant,
    /// To be closed as soon as what was read of it is confirmed: others wait for its descriptor.
    pub(super) yields: bool,
    /// When it was found first, in nanoseconds since 1970.
    pub(super) found: i64,
    /// When it lost the name that it was first matched under.
    pub(super) rotated: Option<Instant>,
    /// Another generation has its path.
    pub(super) superseded: bool,
    /// When it last had something new.
    pub(super) changed: Instant,
    /// A copy of it that was made while it is still there: what copytruncate does before it
    /// truncates. Held open, lest it be gone when it is needed.
    pub(super) copy: Option<(Found, Content)>,
    /// Its inode holds other bytes now. The rest may turn up in a copy.
    pub(super) orphan: Option<Orphan>,
    /// The generation of the same path that is read to its end first.
    pub(super) predecessor: Option<FileId>,
    /// Was read to its end since it was rotated.
    pub(super) drained: bool,
    pub(super) queued: bool,
    pub(super) failure: Option<Failure>,
}

#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: io::ErrorKind,
    pub(super) pause: Duration,
    /// How often it failed.
    pub(super) times: u64,
    pub(super) until: Instant,
}

impl Tailed {
    /// A generation that was found now, by the clock on the wall at `found`, of which nothing is known
    /// but where its bytes are.
    pub(super) fn new(
        source: usize,
        origin: Origin,
        reader: Option<Reader>,
        inode: (u64, u64),
        now: Instant,
        found: i64,
    ) -> Self {
        Self {
            source,
            origin,
            reader,
            registration: Registration::Empty,
            wanted_to: None,
            begins: Mark::default(),
            begins_as: Skipped::ReadFrom,
            epoch: 0,
            batched: Mark::default(),
            eof_batched: false,
            passed: Passed::default(),
            confirmed: Mark::default(),
            rests_since: None,
            size_seen: 0,
            anew: false,
            zeros: 0,
            lost_from: None,
            lost_as: Skipped::Truncated,
            ages: Ages::default(),
            identity: None,
            link: None,
            fixed: None,
            inode,
            born: None,
            opened: now,
            yields: false,
            found,
            rotated: None,
            superseded: false,
            changed: now,
            copy: None,
            orphan: None,
            predecessor: None,
            drained: false,
            queued: false,
            failure: None,
        }
    }

    /// What proves it: as it is known, or as it is if it was empty when it was last looked at.
    pub(super) fn present_identity(&self) -> io::Result<Option<Identity>> {
        match (&self.identity, &self.reader) {
            (None, Some(reader)) => {
                let status = sys::status(reader.file())?;
                identity::identify(reader.file(), &status)
            }
            (identity, _) => Ok(*identity),
        }
    }

    /// Whether reading it failed a moment ago.
    pub(super) fn is_put_off(&self, now: Instant) -> bool {
        let failure = self.failure.as_ref();
        failure.is_some_and(|failure| failure.until > now)
    }

    /// Whether its name is taken or gone.
    #[must_use]
    pub fn is_rotated(&self) -> bool {
        self.rotated.is_some()
    }

    /// Whether it was rotated and has been quiet for `quiet`.
    #[must_use]
    pub fn settled(&self, quiet: Duration, now: Instant) -> bool {
        self.rotated.is_some_and(|rotated| {
            now.saturating_duration_since(rotated.max(self.changed)) >= quiet
        })
    }

    /// Whether nothing will be found under its path any more that belongs to it.
    #[must_use]
    pub fn is_left(&self) -> bool {
        let elsewhere = self.link.as_deref() != Some(self.origin.path.as_path());
        self.superseded || elsewhere || self.archive().is_some()
    }

    /// Takes note of places in what was just taken into batches, the first `taken` bytes of what
    /// was unread.
    pub fn pass(&mut self, scratch: &Scratch, taken: usize) {
        loop {
            let at = self.passed.next().saturating_sub(scratch.offset());
            match usize::try_from(at) {
                Ok(at) if at <= taken => self.passed.pass(scratch.mark(at)),
                _ => return,
            }
        }
    }

    /// The compressed file that it is read from, if it is.
    pub(super) fn archive(&self) -> Option<&Archive> {
        self.reader.as_ref()?.archive()
    }

    /// Whether it is read from a compressed file, in which there is no more.
    #[must_use]
    pub fn is_unpacked(&self) -> bool {
        let archive = self.archive();
        archive.is_some_and(|archive| archive.end() == Some(self.read_to()))
    }

    /// Up to where it was read.
    #[must_use]
    pub fn read_to(&self) -> u64 {
        let reader = self.reader.as_ref();
        reader.map_or(self.batched.offset, Reader::read_to)
    }
}
