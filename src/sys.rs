//! The system calls on files that the standard library does not have, or not safely enough.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

/// What `statx` says of an open file.
#[derive(Clone, Copy, Debug)]
pub struct FileStatus {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Birth time in nanoseconds since 1970, where the file system knows it.
    pub born: Option<i64>,
    /// Bytes.
    pub size: u64,
    /// Names that it has; 0 once it is deleted.
    pub links: u32,
    /// Owner.
    pub owner: u32,
    /// A regular file, and nothing else.
    pub regular: bool,
}

/// Asks what an open file is.
///
/// # Errors
/// As `statx(2)`.
pub fn status(file: &File) -> io::Result<FileStatus> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let stat = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, wanted)?;
    let born = (stat.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| {
        stat.stx_btime
            .tv_sec
            .saturating_mul(1_000_000_000)
            .saturating_add(i64::from(stat.stx_btime.tv_nsec))
    });
    Ok(FileStatus {
        dev: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        ino: stat.stx_ino,
        born,
        size: stat.stx_size,
        links: stat.stx_nlink,
        owner: stat.stx_uid,
        regular: FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile,
    })
}

/// Opens the file at `below`, a relative path, for reading. `fixed` may hold symbolic links, since
/// the operator wrote it; nothing in `below` may. Never blocks on a FIFO, never takes a terminal.
///
/// # Errors
/// As `openat2(2)`: `ELOOP` where a symbolic link stands in `below`.
pub fn open_below(fixed: &Path, below: &Path) -> io::Result<File> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fixed = rustix::fs::openat(CWD, fixed, directory, Mode::empty())?;
    let reading = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(&fixed, below, reading, Mode::empty(), resolve) {
        // Kernels before 5.6, and seccomp filters that do not know the call.
        Err(Errno::NOSYS | Errno::PERM) => open_step_by_step(fixed, below, reading),
        opened => Ok(File::from(opened?)),
    }
}

/// The same without `openat2`: each component opened in its directory, no link followed.
fn open_step_by_step(fixed: OwnedFd, below: &Path, reading: OFlags) -> io::Result<File> {
    let mut directory = fixed;
    let mut components = below.components().peekable();
    while let Some(component) = components.next() {
        let Component::Normal(name) = component else {
            return Err(Errno::XDEV.into());
        };
        let flags = if components.peek().is_some() {
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC
        } else {
            reading
        };
        directory = rustix::fs::openat(&directory, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Ok(File::from(directory))
}

/// Reads at `offset` into `check`, then into `buffer`, in one call. Returns the bytes read in all;
/// fewer than asked for means the end of the file.
///
/// # Errors
/// As `preadv(2)`.
pub fn read_at(file: &File, check: &mut [u8], buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        let mut parts = [IoSliceMut::new(check), IoSliceMut::new(buffer)];
        match rustix::io::preadv(file, &mut parts, offset) {
            Err(Errno::INTR) => {}
            read => return Ok(read?),
        }
    }
}

/// Fills `buffer` from `offset`, as far as the file goes.
///
/// # Errors
/// As `preadv(2)`.
pub fn read_full_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        let read = read_at(file, &mut [], &mut buffer[filled..], offset + filled as u64)?;
        if read == 0 {
            break;
        }
        filled += read;
    }
    Ok(filled)
}

/// Raises the soft limit of open files to the hard one. Returns the limit in force, or nothing
/// where there is none.
pub fn raise_open_files_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}
