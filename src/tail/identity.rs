//! Which file is this: device, inode and birth time hold only while a descriptor is held, so every
//! claim is proved by bytes of the file as well.

use std::fs::File;
use std::io;

use crate::model::{HEAD_LEN, Identity, Mark, PROOF_LEN, Proof};
use crate::sys::{self, FileStatus};

/// The identity of an open file as it is now; nothing while it is empty, for then nothing proves
/// it.
///
/// # Errors
/// The file could not be read.
pub fn identify(file: &File, status: &FileStatus) -> io::Result<Option<Identity>> {
    let head = head(file, HEAD_LEN)?;
    if head.len == 0 {
        return Ok(None);
    }
    Ok(Some(Identity {
        dev: status.dev,
        ino: status.ino,
        born: status.born,
        head,
    }))
}

/// Whether an open file is the one that was known as `identity` and was read up to `mark`.
///
/// # Errors
/// The file could not be read.
pub fn proves(
    file: &File,
    status: &FileStatus,
    identity: &Identity,
    mark: &Mark,
) -> io::Result<bool> {
    if !is_inode_of(status, identity) {
        return Ok(false);
    }
    holds(file, status, identity, mark)
}

/// Whether a file lies in the inode of the one that was known as `identity`, whatever it holds.
#[must_use]
pub fn is_inode_of(status: &FileStatus, identity: &Identity) -> bool {
    let same_birth = match (status.born, identity.born) {
        (Some(now), Some(then)) => now == then,
        _ => true,
    };
    (status.dev, status.ino) == (identity.dev, identity.ino) && same_birth
}

/// Whether an open file, whatever its inode, begins as `identity` does and holds what was read of
/// it up to `mark`.
///
/// # Errors
/// The file could not be read.
pub fn holds(
    file: &File,
    status: &FileStatus,
    identity: &Identity,
    mark: &Mark,
) -> io::Result<bool> {
    Ok(status.size >= mark.offset
        && begins_like(file, identity)?
        && end_before(file, mark.offset)?.1 == mark.proof)
}

/// Whether an open file begins as `identity` does.
///
/// # Errors
/// The file could not be read.
pub fn begins_like(file: &File, identity: &Identity) -> io::Result<bool> {
    Ok(head(file, identity.head.len as usize)? == identity.head)
}

/// The identity with a longer head, once the file has grown; nothing if there is nothing to gain.
/// The old head is verified first: if it does not hold, the file is another one by now.
///
/// # Errors
/// The file could not be read.
pub fn grow(file: &File, identity: &Identity) -> io::Result<Growth> {
    let known = identity.head.len as usize;
    if known >= HEAD_LEN {
        return Ok(Growth::None);
    }
    let mut bytes = [0; HEAD_LEN];
    let len = sys::read_full_at(file, &mut bytes, 0)?;
    if len < known || Proof::of(&bytes[..known]) != identity.head {
        return Ok(Growth::Changed);
    }
    // Each growth is a row in state.db: only a doubling, or the whole, is worth one.
    if len < HEAD_LEN && len < known * 2 {
        return Ok(Growth::None);
    }
    let head = Proof::of(&bytes[..len]);
    Ok(Growth::To(Identity { head, ..*identity }))
}

/// What became of a head proof.
#[derive(Debug, PartialEq, Eq)]
pub enum Growth {
    /// As it was.
    None,
    /// Longer.
    To(Identity),
    /// The bytes that it proves are others now.
    Changed,
}

/// The bytes right before `offset` (up to [`PROOF_LEN`]) and their proof.
///
/// # Errors
/// The file could not be read.
pub fn end_before(file: &File, offset: u64) -> io::Result<(Vec<u8>, Proof)> {
    end_before_by(|bytes, at| sys::read_full_at(file, bytes, at), offset)
}

/// The same of what `read` reads.
///
/// # Errors
/// As `read`.
pub fn end_before_by(
    read: impl FnOnce(&mut [u8], u64) -> io::Result<usize>,
    offset: u64,
) -> io::Result<(Vec<u8>, Proof)> {
    let len = offset.min(PROOF_LEN as u64);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(PROOF_LEN)];
    let read = read(&mut bytes, offset - len)?;
    bytes.truncate(read);
    let proof = Proof::of(&bytes);
    Ok((bytes, proof))
}

/// The first bytes of a file, as many as a head proof may cover.
///
/// # Errors
/// The file could not be read.
pub fn first_bytes(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; HEAD_LEN];
    let read = sys::read_full_at(file, &mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

fn head(file: &File, len: usize) -> io::Result<Proof> {
    let mut bytes = [0; HEAD_LEN];
    let wanted = &mut bytes[..len.min(HEAD_LEN)];
    let read = sys::read_full_at(file, wanted, 0)?;
    Ok(Proof::of(&wanted[..read]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn file(bytes: &[u8]) -> (tempfile::NamedTempFile, FileStatus) {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(bytes).expect("written");
        let status = sys::status(file.as_file()).expect("statx");
        (file, status)
    }

    fn mark(bytes: &[u8]) -> Mark {
        Mark {
            offset: bytes.len() as u64,
            proof: Proof::of_end(bytes),
        }
    }

    #[test]
    fn a_file_proves_itself_while_it_only_grows() {
        let (mut file, status) = file(b"one\n");
        let known = identify(file.as_file(), &status)
            .expect("read")
            .expect("bytes");
        file.write_all(b"two\n").expect("written");
        let status = sys::status(file.as_file()).expect("statx");
        assert!(proves(file.as_file(), &status, &known, &mark(b"one\n")).expect("read"));
        assert!(matches!(
            grow(file.as_file(), &known).expect("read"),
            Growth::To(_)
        ));
    }

    #[test]
    fn the_same_inode_with_another_head_or_another_end_is_another_file() {
        let (file, status) = file(b"one\ntwo\n");
        let known = identify(file.as_file(), &status)
            .expect("read")
            .expect("bytes");
        let path = file.path();
        for (content, wanted) in [
            (&b"ONE\ntwo\n"[..], false),
            (b"one\nTWO\n", false),
            (b"one\n", false),
        ] {
            std::fs::write(path, content).expect("written");
            let status = sys::status(file.as_file()).expect("statx");
            let held = proves(file.as_file(), &status, &known, &mark(b"one\ntwo\n")).expect("read");
            assert_eq!(held, wanted, "{content:?}");
        }
    }

    #[test]
    fn an_empty_file_proves_nothing() {
        let (file, status) = file(b"");
        assert_eq!(identify(file.as_file(), &status).expect("read"), None);
    }
}
