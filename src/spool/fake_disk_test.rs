//! A disk that forgets what was not synced, tears what was being written, and fails when it is told to.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::rc::Rc;

use rustix::io::Errno;

use super::disk::{Disk, DiskFile, Kind, Space};
use super::{SpoolError, SpoolId};

pub(super) const ID: SpoolId = SpoolId([0x5b; 16]);
const BLOCK: usize = 64;

#[derive(Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    pub(super) fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap_or(0)
    }

    pub(super) fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

/// A disk; clones are the same one, as seen by the next process.
#[derive(Clone, Debug, Default)]
pub(super) struct FakeDisk(Rc<RefCell<World>>);

#[derive(Debug, Default)]
struct World {
    inodes: Vec<Inode>,
    names: BTreeMap<String, Name>,
    durable_names: BTreeMap<String, Name>,
    /// Changes of names since the directory was synced.
    pending: Vec<Change>,
    aside: BTreeMap<String, usize>,
    locked: bool,
    /// Calls that can fail, so far.
    calls: u64,
    /// From this call on, so many fail so.
    fault: Option<Fault>,
    /// Reads and writes do less than they are asked for, or are interrupted.
    short: Option<Random>,
    bytes_read: u64,
    space: Option<Space>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    File(usize),
    Other(Kind),
}

#[derive(Clone, Debug)]
enum Change {
    Made(String, Name),
    Gone(String),
    Moved(String, String, Name),
}

#[derive(Debug, Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    pub(super) at: u64,
    pub(super) times: u64,
    pub(super) errno: Errno,
}

#[derive(Debug)]
pub(super) struct FakeFile {
    disk: FakeDisk,
    inode: usize,
}

/// What may fail.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Reads,
    Changes,
}

impl FakeDisk {
    pub(super) fn fail(&self, fault: Fault) {
        let mut world = self.0.borrow_mut();
        world.calls = 0;
        world.fault = Some(fault);
    }

    /// No faults any more; whether the last one was ever met.
    pub(super) fn heal(&self) -> bool {
        let mut world = self.0.borrow_mut();
        let fault = world.fault.take();
        fault.is_some_and(|fault| world.calls > fault.at)
    }

    pub(super) fn be_short(&self, seed: u64) {
        self.0.borrow_mut().short = Some(Random(seed));
    }

    pub(super) fn set_space(&self, total: u64, free: u64) {
        self.0.borrow_mut().space = Some(Space { total, free });
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.0.borrow().bytes_read
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.0.borrow().names.keys().cloned().collect()
    }

    pub(super) fn aside(&self) -> Vec<String> {
        self.0.borrow().aside.keys().cloned().collect()
    }

    pub(super) fn bytes(&self, name: &str) -> Vec<u8> {
        let world = self.0.borrow();
        match world.names[name] {
            Name::File(inode) => world.inodes[inode].now.clone(),
            Name::Other(_) => Vec::new(),
        }
    }

    /// Puts a file there, durable, as somebody else would.
    pub(super) fn put(&self, name: &str, bytes: &[u8]) {
        let mut world = self.0.borrow_mut();
        let inode = world.inodes.len();
        world.inodes.push(Inode {
            now: bytes.to_vec(),
            durable: bytes.to_vec(),
            dirty: BTreeSet::new(),
        });
        world.names.insert(name.to_owned(), Name::File(inode));
        world
            .durable_names
            .insert(name.to_owned(), Name::File(inode));
    }

    pub(super) fn plant(&self, name: &str, kind: Kind) {
        let mut world = self.0.borrow_mut();
        world.names.insert(name.to_owned(), Name::Other(kind));
        world
            .durable_names
            .insert(name.to_owned(), Name::Other(kind));
    }

    pub(super) fn remove(&self, name: &str) {
        let mut world = self.0.borrow_mut();
        world.names.remove(name);
        world.durable_names.remove(name);
    }

    /// A disk of its own with the same files.
    pub(super) fn copy(&self) -> Self {
        let copy = Self::default();
        for name in self.names() {
            copy.put(&name, &self.bytes(&name));
        }
        copy
    }

    /// The process ends: what it wrote is there, also what is not durable.
    pub(super) fn exit(&self) {
        self.0.borrow_mut().locked = false;
    }

    /// The machine ends: of what was not synced any part may be lost or torn.
    pub(super) fn crash(&self, random: &mut Random) {
        let mut world = self.0.borrow_mut();
        let world = &mut *world;
        world.locked = false;
        for inode in &mut world.inodes {
            inode.crash(random);
        }
        for change in std::mem::take(&mut world.pending) {
            if random.one_in(2) {
                change.apply(&mut world.durable_names);
            }
        }
        world.names = world.durable_names.clone();
    }

    fn call(&self, call: Call) -> io::Result<()> {
        let mut world = self.0.borrow_mut();
        let at = world.calls;
        // Faults are counted in calls that change something: those are the ones that crash tests
        // go through.
        world.calls += u64::from(call == Call::Changes);
        match world.fault {
            Some(fault)
                if call == Call::Changes && (fault.at..fault.at + fault.times).contains(&at) =>
            {
                Err(fault.errno.into())
            }
            _ => Ok(()),
        }
    }

    /// How much of so many bytes a call does.
    fn share(&self, len: usize) -> io::Result<usize> {
        let mut world = self.0.borrow_mut();
        let Some(random) = &mut world.short else {
            return Ok(len);
        };
        if random.one_in(4) {
            return Err(Errno::INTR.into());
        }
        Ok(len.min(1 + random.index(40)))
    }

    fn change(&self, change: Change) {
        let mut world = self.0.borrow_mut();
        change.clone().apply(&mut world.names);
        world.pending.push(change);
    }

    fn name(&self, name: &str) -> io::Result<Name> {
        let found = self.0.borrow().names.get(name).copied();
        found.ok_or_else(|| Errno::NOENT.into())
    }
}

impl Change {
    fn apply(self, names: &mut BTreeMap<String, Name>) {
        match self {
            Self::Made(name, file) => {
                names.insert(name, file);
            }
            Self::Gone(name) => {
                names.remove(&name);
            }
            Self::Moved(from, to, file) => {
                names.remove(&from);
                names.insert(to, file);
            }
        }
    }
}

impl Inode {
    fn write(&mut self, bytes: &[u8], at: usize) {
        let end = at + bytes.len();
        if self.now.len() < end {
            self.now.resize(end, 0);
        }
        self.now[at..end].copy_from_slice(bytes);
        self.dirty.extend(at / BLOCK..end.div_ceil(BLOCK));
    }

    fn sync(&mut self) {
        self.durable.resize(self.now.len(), 0);
        for block in std::mem::take(&mut self.dirty) {
            let begin = (block * BLOCK).min(self.now.len());
            let end = (begin + BLOCK).min(self.now.len());
            self.durable[begin..end].copy_from_slice(&self.now[begin..end]);
        }
    }

    fn crash(&mut self, random: &mut Random) {
        let (before, after) = (self.durable.len(), self.now.len());
        let len = match random.below(3) {
            0 => before,
            1 => after,
            _ => before.min(after) + random.index(before.abs_diff(after) + 1),
        };
        self.durable.resize(len, 0);
        for block in std::mem::take(&mut self.dirty) {
            let begin = (block * BLOCK).min(len);
            let end = (begin + BLOCK).min(len).min(self.now.len().max(begin));
            match random.below(8) {
                0..4 if end <= self.now.len() => {
                    self.durable[begin..end].copy_from_slice(&self.now[begin..end]);
                }
                // What the block held when it was somebody else's; only where nothing was durable.
                4 if begin >= before => {
                    for byte in &mut self.durable[begin..end] {
                        *byte = u8::try_from(random.below(256)).unwrap_or(0);
                    }
                }
                _ => {}
            }
        }
        self.now = self.durable.clone();
    }
}

impl Disk for FakeDisk {
    type File = FakeFile;

    fn lock(&mut self, directory: &Path) -> Result<(), SpoolError> {
        let mut world = self.0.borrow_mut();
        if std::mem::replace(&mut world.locked, true) {
            return Err(SpoolError::Locked(directory.to_path_buf()));
        }
        Ok(())
    }

    fn new_id(&self) -> io::Result<SpoolId> {
        Ok(ID)
    }

    fn list(&self) -> io::Result<Vec<(String, Kind)>> {
        let world = self.0.borrow();
        let names = world.names.iter().map(|(name, file)| match file {
            Name::File(_) => (name.clone(), Kind::File),
            Name::Other(kind) => (name.clone(), *kind),
        });
        Ok(names.collect())
    }

    fn open(&self, name: &str) -> io::Result<FakeFile> {
        self.call(Call::Reads)?;
        match self.name(name)? {
            Name::File(inode) => Ok(FakeFile {
                disk: self.clone(),
                inode,
            }),
            Name::Other(_) => Err(Errno::LOOP.into()),
        }
    }

    fn open_to_write(&self, name: &str) -> io::Result<FakeFile> {
        self.open(name)
    }

    fn create(&self, name: &str) -> io::Result<FakeFile> {
        self.call(Call::Changes)?;
        if self.name(name).is_ok() {
            return Err(Errno::EXIST.into());
        }
        let inode = {
            let mut world = self.0.borrow_mut();
            world.inodes.push(Inode::default());
            world.inodes.len() - 1
        };
        self.change(Change::Made(name.to_owned(), Name::File(inode)));
        Ok(FakeFile {
            disk: self.clone(),
            inode,
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.call(Call::Changes)?;
        let file = self.name(from)?;
        self.change(Change::Moved(from.to_owned(), to.to_owned(), file));
        Ok(())
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        self.call(Call::Changes)?;
        self.name(name)?;
        self.change(Change::Gone(name.to_owned()));
        Ok(())
    }

    fn set_aside(&self, name: &str, kept: usize) -> io::Result<()> {
        self.call(Call::Changes)?;
        let Name::File(inode) = self.name(name)? else {
            return Err(Errno::LOOP.into());
        };
        let mut world = self.0.borrow_mut();
        world.aside.insert(name.to_owned(), inode);
        while world.aside.len() > kept {
            world.aside.pop_first();
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let called = self.call(Call::Changes);
        let mut world = self.0.borrow_mut();
        let world = &mut *world;
        if called.is_ok() {
            world.pending.clear();
            world.durable_names = world.names.clone();
        }
        called
    }

    fn space(&self) -> io::Result<Space> {
        let space = self.0.borrow().space;
        Ok(space.unwrap_or(Space {
            total: 1 << 40,
            free: 1 << 39,
        }))
    }
}

impl DiskFile for FakeFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.0.borrow().inodes[self.inode].now.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.call(Call::Reads)?;
        let share = self.disk.share(buffer.len())?;
        let mut world = self.disk.0.borrow_mut();
        let now = &world.inodes[self.inode].now;
        let at = usize::try_from(offset).unwrap_or(usize::MAX).min(now.len());
        let read = share.min(now.len() - at);
        buffer[..read].copy_from_slice(&now[at..at + read]);
        world.bytes_read += read as u64;
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let called = self.disk.call(Call::Changes);
        let share = self.disk.share(bytes.len())?;
        let mut world = self.disk.0.borrow_mut();
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let inode = &mut world.inodes[self.inode];
        if let Err(error) = called {
            // A disk that is full takes what still fits, and says so at the next call.
            inode.write(&bytes[..share / 2], at);
            return Err(error);
        }
        inode.write(&bytes[..share], at);
        Ok(share)
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.disk.call(Call::Changes)?;
        let mut world = self.disk.0.borrow_mut();
        let inode = &mut world.inodes[self.inode];
        inode
            .now
            .truncate(usize::try_from(size).unwrap_or(usize::MAX));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let called = self.disk.call(Call::Changes);
        let mut world = self.disk.0.borrow_mut();
        let inode = &mut world.inodes[self.inode];
        match called {
            Ok(()) => inode.sync(),
            // The kernel counts the pages as clean from now on; they are not on the disk.
            Err(_) => inode.dirty.clear(),
        }
        called
    }
}
