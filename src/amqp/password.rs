//! The password that stands in a file: read anew for every login, since whoever rotates it writes it
//! there.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::{Failure, FailureKind};
use crate::secret::Secret;
use crate::sys;

/// Longest password in a file; a longer file is another one than was meant.
const PASSWORD_MAX: usize = 4096;

/// Reads the password at `path`, within `limit`: the file may lie on a network mount.
pub(super) async fn read(path: &Path, limit: Duration) -> Result<Secret, Failure> {
    let reading = {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || read_now(&path))
    };
    let text = match tokio::time::timeout(limit, reading).await {
        Ok(Ok(Ok(password))) => return Ok(password),
        Ok(Ok(Err(error))) => error.to_string(),
        Ok(Err(_)) => "reading it failed".to_owned(),
        Err(_) => format!("not read within {limit:?}"),
    };
    let text = format!("password_file {path:?}: {text}");
    Err(Failure::new(FailureKind::Password, text))
}

fn read_now(path: &Path) -> io::Result<Secret> {
    let mut bytes = sys::read_small(path, PASSWORD_MAX)?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    if bytes.is_empty() {
        return Err(io::Error::other("empty"));
    }
    // Between user and password a NUL stands in SASL PLAIN (RFC 4616).
    if bytes.contains(&0) {
        return Err(io::Error::other("no password: it holds a NUL"));
    }
    // The error of the conversion would hold the bytes.
    let text = String::from_utf8(bytes).map_err(|_| io::Error::other("not UTF-8"))?;
    Ok(Secret::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(content: &[u8]) -> Result<String, String> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("password");
        std::fs::write(&path, content).expect("written");
        read_now(&path)
            .map(|password| password.expose().to_owned())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn one_line_end_is_cut_and_nothing_else() {
        for (content, password) in [
            (&b"s3cret"[..], "s3cret"),
            (b"s3cret\n", "s3cret"),
            (b"s3cret\r\n", "s3cret"),
            (b" s3 cret \n\n", " s3 cret \n"),
            (b"s3cret\r", "s3cret\r"),
            ("pässword\n".as_bytes(), "pässword"),
        ] {
            assert_eq!(told(content).as_deref(), Ok(password));
        }
        assert!(told(&[b'x'; PASSWORD_MAX]).is_ok());
    }

    #[test]
    fn what_is_no_password_is_refused_without_being_told() {
        let long = [b'x'; PASSWORD_MAX + 1];
        let wrong = [&b""[..], b"\n", b"\r\n", b"s3cret\xff", b"s3\0cret", &long];
        for content in wrong {
            let told = told(content).expect_err("refused");
            assert!(!told.contains("s3") && !told.contains("xxx"), "{told}");
        }
    }

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let fifo = directory.path().join("fifo");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, mode).expect("made");
        for path in [&*fifo, directory.path(), Path::new("/dev/zero")] {
            let told = read_now(path).expect_err("refused").to_string();
            assert_eq!(told, "not a regular file");
        }
        assert!(read_now(&directory.path().join("none")).is_err());
    }
}
