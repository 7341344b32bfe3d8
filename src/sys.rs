//! The system calls on files and sockets that the standard library does not have, or not safely enough.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Component, Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, SeekFrom, StatxFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

use crate::telemetry::progress::call;

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
    /// Bytes that it takes on the disk.
    pub allocated: u64,
    /// When it was last written to: nanoseconds since 1970.
    pub modified: i64,
    /// Names that it has; 0 once it is deleted.
    pub links: u32,
    /// Owner.
    pub owner: u32,
    /// A regular file, and nothing else.
    pub regular: bool,
}

/// So many symbolic links are followed on the way to one file, as the kernel does.
const LINKS_MAX: usize = 40;

/// Asks what an open file is.
///
/// # Errors
/// As `statx(2)`.
pub fn status(file: &File) -> io::Result<FileStatus> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let stat = call(|| rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, wanted))?;
    let born = (stat.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| {
        stat.stx_btime
            .tv_sec
            .saturating_mul(1_000_000_000)
            .saturating_add(i64::from(stat.stx_btime.tv_nsec))
    });
    let modified = stat
        .stx_mtime
        .tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(i64::from(stat.stx_mtime.tv_nsec));
    Ok(FileStatus {
        dev: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        ino: stat.stx_ino,
        born,
        size: stat.stx_size,
        allocated: stat.stx_blocks.saturating_mul(512),
        modified,
        links: stat.stx_nlink,
        owner: stat.stx_uid,
        regular: FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile,
    })
}

/// Device and inode number of whatever is open.
///
/// # Errors
/// As `fstat(2)`.
pub fn inode(file: &impl AsFd) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(file)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Opens the file at `below`, a relative path, for reading. `fixed` may hold symbolic links, since
/// the operator wrote it; nothing in `below` may. Never blocks on a FIFO, never takes a terminal.
///
/// # Errors
/// As `openat2(2)`: `ELOOP` where a symbolic link stands in `below`.
pub fn open_below(fixed: &Path, below: &Path) -> io::Result<File> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fixed = call(|| rustix::fs::openat(CWD, fixed, directory, Mode::empty()))?;
    let reading = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match call(|| rustix::fs::openat2(&fixed, below, reading, Mode::empty(), resolve)) {
        // Kernels before 5.6, and seccomp filters that do not know the call.
        Err(Errno::NOSYS | Errno::PERM) => open_step_by_step(fixed, below, reading),
        opened => Ok(File::from(opened?)),
    }
}

/// Opens the file at `below` for reading, and follows symbolic links on the way to it. Returns where
/// it really lies, too. Whoever may write to a directory may plant a link there: each link that is
/// not in `fixed` must belong to root, to this process's user, or to the target's owner.
///
/// # Errors
/// As `openat2(2)`; `PermissionDenied` for a link of somebody else.
pub fn open_through_links(fixed: &Path, below: &Path) -> io::Result<(File, PathBuf)> {
    let mut real = call(|| std::fs::canonicalize(fixed))?;
    let mut left: Vec<OsString> = reversed(below);
    let mut owners = Vec::new();
    while let Some(name) = left.pop() {
        if name == ".." {
            real.pop();
            continue;
        }
        let next = real.join(&name);
        let metadata = call(|| std::fs::symlink_metadata(&next))?;
        if !metadata.is_symlink() {
            real = next;
            continue;
        }
        owners.push(metadata.uid());
        if owners.len() > LINKS_MAX {
            return Err(Errno::LOOP.into());
        }
        let target = call(|| std::fs::read_link(&next))?;
        if target.is_absolute() {
            real = PathBuf::from("/");
        }
        left.extend(reversed(&target));
    }
    // Whoever changes a link now is too late: this is the way that was looked at, without any.
    let root = Path::new("/");
    let file = open_below(root, real.strip_prefix(root).map_err(io::Error::other)?)?;
    let target = status(&file)?.owner;
    let own = rustix::process::geteuid().as_raw();
    if owners
        .iter()
        .all(|link| is_trusted_link(*link, target, own))
    {
        return Ok((file, real));
    }
    let text = "symbolic link that belongs neither to root nor to fantail's user nor to the owner of what it points to";
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

/// Whether a link of user `link` may make process of user `own` read a file of user `target`.
fn is_trusted_link(link: u32, target: u32, own: u32) -> bool {
    link == 0 || link == own || link == target
}

/// The names in a path, `..` among them, last one first.
fn reversed(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|component| {
        let named = matches!(component, Component::Normal(_) | Component::ParentDir);
        named.then(|| component.as_os_str().to_owned())
    });
    names.collect()
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
        let flags = flags | OFlags::NOFOLLOW;
        directory = call(|| rustix::fs::openat(&directory, name, flags, Mode::empty()))?;
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
        match call(|| rustix::io::preadv(file, &mut parts, offset)) {
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

/// Where data begins at or behind `offset`; nothing where a hole reaches to the end of the file. Where
/// the file system does not tell holes from data, that is `offset`.
///
/// # Errors
/// As `lseek(2)`.
pub fn next_data(file: &File, offset: u64) -> io::Result<Option<u64>> {
    match call(|| rustix::fs::seek(file, SeekFrom::Data(offset))) {
        Ok(data) => Ok(Some(data)),
        Err(Errno::NXIO) => Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(offset)),
        Err(error) => Err(error.into()),
    }
}

/// Reads a small regular file whole. Follows links; never blocks on a FIFO.
///
/// # Errors
/// As `open(2)` and `read(2)`; the file is not a regular one, or longer than `bytes_max`.
pub fn read_small(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let reading = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = call(|| rustix::fs::openat(CWD, path, reading, Mode::empty()))?;
    let file = File::from(opened);
    if !status(&file)?.regular {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = vec![0; bytes_max + 1];
    let len = read_full_at(&file, &mut bytes, 0)?;
    if len > bytes_max {
        return Err(io::Error::other(format!("longer than {bytes_max} bytes")));
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// The system's clock.
#[must_use]
pub fn seconds_since_1970() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
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

/// How many descriptors the process may have; nothing where there is no limit.
#[must_use]
pub fn open_files_limit() -> Option<u64> {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).current
}

/// Longest path of a Unix socket: `sun_path` less its final NUL.
const SOCKET_PATH_MAX: usize = 107;

/// Opens a directory that is not a symbolic link, as a place to find names in.
///
/// # Errors
/// As `open(2)`: `ENOTDIR` or `ELOOP` for a symbolic link.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// Listens on a new Unix socket called `name` in `directory`, whose path is `path`. It is the
/// owner's alone from its first moment on.
///
/// # Errors
/// As `bind(2)`: `EADDRINUSE` when there is something of that name, also a symbolic link.
pub fn listen(directory: &OwnedFd, name: &OsStr, path: &Path) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Linux makes the file with the mode that the socket has (unix_bind_bsd in af_unix.c); a
    // chmod afterwards would come too late, and a umask would be every thread's.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &socket_address(directory, name, path)?)?;
    rustix::net::listen(&socket, 64)?;
    Ok(UnixListener::from(socket))
}

/// Connects to the Unix socket called `name` in `directory`, whose path is `path`. Does not wait:
/// `EAGAIN` says that somebody listens there and is busy.
///
/// # Errors
/// As `connect(2)`: `ECONNREFUSED` when nobody listens.
pub fn connect(directory: &OwnedFd, name: &OsStr, path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &socket_address(directory, name, path)?)?;
    Ok(UnixStream::from(socket))
}

/// The path itself where it fits, for that is what `ss` shows; otherwise the way through the
/// directory's descriptor.
fn socket_address(directory: &OwnedFd, name: &OsStr, path: &Path) -> io::Result<SocketAddrUnix> {
    if path.as_os_str().len() <= SOCKET_PATH_MAX {
        return Ok(SocketAddrUnix::new(path)?);
    }
    let through = format!("/proc/self/fd/{}", directory.as_raw_fd());
    Ok(SocketAddrUnix::new(Path::new(&through).join(name))?)
}

/// What a name in a directory is: device, inode, and whether it is a socket. Follows no link.
///
/// # Errors
/// As `fstatat(2)`.
pub fn socket_at(directory: &OwnedFd, name: &OsStr) -> io::Result<((u64, u64), bool)> {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
    Ok(((stat.st_dev, stat.st_ino), is_socket))
}

/// Removes a name from a directory.
///
/// # Errors
/// As `unlinkat(2)`.
pub fn remove_at(directory: &OwnedFd, name: &OsStr) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(directory, name, AtFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_to_where_the_file_lies_and_not_in_circles() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        let opened = |name: &str| {
            let opened = open_through_links(directory.path(), Path::new(name));
            opened.map(|(_, path)| path)
        };
        fs::create_dir_all(at("real/deep")).expect("made");
        fs::write(at("real/deep/a.log"), "x").expect("written");
        symlink(at("real"), at("absolute")).expect("linked");
        symlink("absolute/deep", at("relative")).expect("linked");
        symlink("../deep/a.log", at("real/deep/b.log")).expect("linked");
        symlink("circle.log", at("circle.log")).expect("linked");
        symlink("gone.log", at("broken.log")).expect("linked");
        let real = fs::canonicalize(at("real/deep/a.log")).expect("there");
        for name in ["real/deep/a.log", "relative/a.log", "relative/b.log"] {
            assert_eq!(opened(name).expect(name), real, "{name}");
        }
        let circle = opened("circle.log").expect_err("a circle");
        assert_eq!(circle.raw_os_error(), Some(Errno::LOOP.raw_os_error()));
        let broken = opened("broken.log").expect_err("broken");
        assert_eq!(broken.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_link_that_somebody_else_planted_is_not_followed() {
        let (root, agent, app, other) = (0, 100, 1000, 1001);
        for (link, target, trusted) in [
            (app, app, true),
            (root, app, true),
            (agent, app, true),
            (app, other, false),
            (app, root, false),
            (app, agent, false),
        ] {
            assert_eq!(is_trusted_link(link, target, agent), trusted);
        }
        if rustix::process::geteuid().is_root() {
            let directory = tempfile::tempdir().expect("a directory");
            let at = |name: &str| directory.path().join(name);
            fs::write(at("secret"), "x").expect("written");
            symlink(at("secret"), at("a.log")).expect("linked");
            symlink("a.log", at("b.log")).expect("linked");
            let open = |name: &str| open_through_links(directory.path(), Path::new(name));
            assert!(open("b.log").is_ok());
            // The last link of a chain, and the first one.
            for name in ["a.log", "b.log"] {
                std::os::unix::fs::lchown(at(name), Some(app), None).expect("given away");
                let refused = open("b.log").expect_err("planted");
                assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
                std::os::unix::fs::lchown(at(name), Some(root), None).expect("taken back");
            }
        }
    }
}
