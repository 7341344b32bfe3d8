//! What the spool needs of a file system, so that tests can take it away.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};

use super::SpoolError;
use crate::model::SpoolId;
use crate::sys;

/// Directory, below the spool's own, of segments that were damaged.
pub const ASIDE: &str = "damaged";
pub(super) const LOCK: &str = "lock";

/// What stands under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, a FIFO, a socket, a device.
    Other,
}

/// Room on a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What unprivileged users may still have.
    pub free: u64,
}

/// A file system, and on it the spool's directory. Names are those of entries of that directory;
/// no symbolic link is followed.
pub trait Disk: fmt::Debug {
    /// An open file.
    type File: DiskFile;

    /// Makes the directory where it is missing, and locks it for as long as this lives.
    ///
    /// # Errors
    /// It is a link, or locked, or cannot be made.
    fn lock(&mut self, directory: &Path) -> Result<(), SpoolError>;

    /// A new id for a spool.
    ///
    /// # Errors
    /// The kernel's random source failed.
    fn new_id(&self) -> io::Result<SpoolId>;

    /// The names in the directory, in whatever order.
    ///
    /// # Errors
    /// As `readdir(3)`.
    fn list(&self) -> io::Result<Vec<(String, Kind)>>;

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// As `open(2)`; `InvalidInput` when it is no regular file.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Opens a regular file for reading and writing.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    fn open_to_write(&self, name: &str) -> io::Result<Self::File>;

    /// Makes a file that is not there yet, for its owner alone.
    ///
    /// # Errors
    /// As `open(2)`.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Puts a file in another one's place.
    ///
    /// # Errors
    /// As `rename(2)`.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name.
    ///
    /// # Errors
    /// As `unlink(2)`.
    fn unlink(&self, name: &str) -> io::Result<()>;

    /// Gives a file a second name, the same one, in [`ASIDE`], of whose files only the last `kept`
    /// are left.
    ///
    /// # Errors
    /// As `link(2)`.
    fn set_aside(&self, name: &str, kept: usize) -> io::Result<()>;

    /// Makes names durable.
    ///
    /// # Errors
    /// As `fsync(2)`.
    fn sync(&self) -> io::Result<()>;

    /// How much room there is.
    ///
    /// # Errors
    /// As `statvfs(3)`.
    fn space(&self) -> io::Result<Space>;
}

/// An open file.
pub trait DiskFile: fmt::Debug {
    /// Bytes.
    ///
    /// # Errors
    /// As `fstat(2)`.
    fn size(&self) -> io::Result<u64>;

    /// Reads some bytes; none at the end.
    ///
    /// # Errors
    /// As `pread(2)`.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes some bytes.
    ///
    /// # Errors
    /// As `pwrite(2)`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Gives back what is behind `size`.
    ///
    /// # Errors
    /// As `ftruncate(2)`.
    fn truncate(&self, size: u64) -> io::Result<()>;

    /// Makes content and size durable.
    ///
    /// # Errors
    /// As `fdatasync(2)`. A second call that succeeds proves nothing.
    fn sync(&self) -> io::Result<()>;
}

/// The real file system.
#[derive(Debug, Default)]
pub struct RealDisk {
    directory: Option<OwnedFd>,
    /// Held for as long as this lives.
    lock: Option<File>,
}

impl RealDisk {
    /// One that is not at any directory yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A look at a directory that somebody else may have locked.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn look(directory: &Path) -> io::Result<Self> {
        Ok(Self {
            directory: Some(open_directory(CWD, directory)?),
            lock: None,
        })
    }

    fn directory(&self) -> io::Result<&OwnedFd> {
        let none = || io::Error::other("no directory was opened");
        self.directory.as_ref().ok_or_else(none)
    }

    fn open_as(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = File::from(rustix::fs::openat(self.directory()?, name, flags, mode)?);
        if sys::status(&file)?.regular {
            Ok(file)
        } else {
            Err(not_regular())
        }
    }
}

fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")
}

/// Opens a directory that is no symbolic link, so that it can be listed and synced.
fn open_directory(at: impl std::os::fd::AsFd, path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, path, flags, Mode::empty())?)
}

fn names(directory: &OwnedFd) -> io::Result<Vec<(String, Kind)>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        // A name that is not UTF-8 is none of ours; it is told as what can be shown of it.
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "." || name == ".." {
            continue;
        }
        // File systems need not say what a name is.
        let stat = match rustix::fs::statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
        {
            Err(rustix::io::Errno::NOENT) => continue,
            stat => stat?,
        };
        let kind = match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
            rustix::fs::FileType::RegularFile => Kind::File,
            rustix::fs::FileType::Directory => Kind::Directory,
            _ => Kind::Other,
        };
        names.push((name, kind));
    }
    Ok(names)
}

impl Disk for RealDisk {
    type File = File;

    fn lock(&mut self, directory: &Path) -> Result<(), SpoolError> {
        let failed = |path: &Path, source| SpoolError::Io {
            path: path.to_path_buf(),
            source,
        };
        let planted = |path: &Path, wanted| SpoolError::Planted {
            path: path.to_path_buf(),
            wanted,
        };
        match rustix::fs::mkdirat(CWD, directory, Mode::RWXU) {
            Ok(()) => sync_parent(directory).map_err(|error| failed(directory, error))?,
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(failed(directory, error.into())),
        }
        let opened =
            open_directory(CWD, directory).map_err(
                |error| match rustix::io::Errno::from_io_error(&error) {
                    Some(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                        planted(directory, "directory")
                    }
                    _ => failed(directory, error),
                },
            )?;
        self.directory = Some(opened);
        let path = directory.join(LOCK);
        let lock = match self.open_as(LOCK, OFlags::RDWR | OFlags::CREATE) {
            Ok(lock) => lock,
            Err(error) if is_planted(&error) => return Err(planted(&path, "regular file")),
            Err(error) => return Err(failed(&path, error)),
        };
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(SpoolError::Locked(directory.to_path_buf()));
            }
            Err(error) => return Err(failed(&path, error.into())),
        }
        self.lock = Some(lock);
        Ok(())
    }

    fn new_id(&self) -> io::Result<SpoolId> {
        SpoolId::random().map_err(io::Error::other)
    }

    fn list(&self) -> io::Result<Vec<(String, Kind)>> {
        names(self.directory()?)
    }

    fn open(&self, name: &str) -> io::Result<File> {
        self.open_as(name, OFlags::RDONLY)
    }

    fn open_to_write(&self, name: &str) -> io::Result<File> {
        self.open_as(name, OFlags::RDWR)
    }

    fn create(&self, name: &str) -> io::Result<File> {
        self.open_as(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let directory = self.directory()?;
        Ok(rustix::fs::renameat(directory, from, directory, to)?)
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(
            self.directory()?,
            name,
            AtFlags::empty(),
        )?)
    }

    fn set_aside(&self, name: &str, kept: usize) -> io::Result<()> {
        let directory = self.directory()?;
        match rustix::fs::mkdirat(directory, ASIDE, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let aside = open_directory(directory, ASIDE)?;
        match rustix::fs::linkat(directory, name, &aside, name, AtFlags::empty()) {
            // Set aside before, and still here because of a crash.
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let mut names: Vec<String> = names(&aside)?
            .into_iter()
            .filter(|(name, kind)| *kind == Kind::File && super::number_of(name).is_some())
            .map(|(name, _)| name)
            .collect();
        names.sort_unstable();
        let surplus = names.len().saturating_sub(kept);
        for name in &names[..surplus] {
            rustix::fs::unlinkat(&aside, name, AtFlags::empty())?;
        }
        Ok(rustix::fs::fsync(&aside)?)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(self.directory()?)?)
    }

    fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::fstatvfs(self.directory()?)?;
        Ok(Space {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

/// Whether what stands under a name is not what fantail would have put there.
pub(super) fn is_planted(error: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(error);
    error.kind() == io::ErrorKind::InvalidInput
        || matches!(
            errno,
            Some(rustix::io::Errno::LOOP | rustix::io::Errno::ISDIR | rustix::io::Errno::NXIO)
        )
}

fn sync_parent(directory: &Path) -> io::Result<()> {
    let parent = directory.parent().filter(|parent| *parent != Path::new(""));
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

impl DiskFile for File {
    fn size(&self) -> io::Result<u64> {
        Ok(sys::status(self)?.size)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::write_at(self, bytes, offset)
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.set_len(size)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
