//! `fantail spool` looks into a spool, whether somebody uses it or not, and changes nothing.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use fantail::model::{Coding, FileId, FileRecord, Format, Identity, LogPath, Mark, Proof, Range};
use fantail::spool::{Entry, FreeMin, Options, RealDisk, Spool};

struct Rig {
    directory: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        fs::create_dir(&state).unwrap();
        let config = format!("[agent]\nstate_dir = \"{}\"\n", state.display());
        fs::write(directory.path().join("fantail.toml"), config).unwrap();
        Self { directory }
    }

    fn spool(&self) -> PathBuf {
        self.directory.path().join("state/spool")
    }

    fn segment(&self, number: u64) -> PathBuf {
        self.spool().join(format!("{number:020}.seg"))
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_fantail"))
            .arg("spool")
            .args(arguments)
            .arg("--config")
            .arg(self.directory.path().join("fantail.toml"))
            .env_remove("FANTAIL_LOG")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Two segments, one of them packed; the spool is still held.
    fn filled(&self) -> Spool<RealDisk> {
        let options = Options {
            directory: self.spool(),
            bytes_max: 1 << 30,
            segment_bytes: 1 << 20,
            free_min: FreeMin::Bytes(0),
        };
        let (mut spool, _) = Spool::open(RealDisk::new(), options, None).unwrap();
        let plain = [entry(0, None), entry(1, None)];
        spool.append(&plain).unwrap();
        spool.seal();
        let packed = [entry(2, Some(Coding::Gzip)), entry(3, Some(Coding::Zstd))];
        spool.append(&packed).unwrap();
        spool
    }
}

fn entry(number: u64, coding: Option<Coding>) -> Entry {
    let id = FileId([7; 16]);
    let path = LogPath::from(Path::new("/var/log/app/a.log"));
    let body = format!("{{\"message\":\"line {number}\"}}\n").into_bytes();
    let packed = match coding {
        None => body.clone(),
        Some(Coding::Gzip) => {
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packer.write_all(&body).unwrap();
            packer.finish().unwrap()
        }
        Some(Coding::Zstd) => zstd::encode_all(&body[..], 1).unwrap(),
    };
    Entry {
        source: "app".into(),
        ranges: vec![Range {
            file: id,
            path: path.clone(),
            start: number * 10,
            end: number * 10 + 10,
            skipped: None,
            eof: false,
            epoch: 0,
            proof: Proof::default(),
        }],
        lines: 1,
        priority: 0,
        bytes: body.len() as u64,
        format: Format::Ndjson,
        coding,
        body: packed.into(),
        closed_at: 1_700_000_000,
        files: vec![Arc::new(FileRecord {
            id,
            source: "app".into(),
            path,
            found: 0,
            identity: Identity {
                dev: 1,
                ino: 2,
                born: None,
                head: Proof::default(),
            },
            begins: Mark::default(),
            confirmed: Mark::default(),
            ended: false,
        })],
    }
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_spool_is_listed_verified_and_printed_while_it_is_held_and_afterwards() {
    let rig = Rig::new();
    let mut held = Some(rig.filled());
    let before: Vec<Vec<u8>> = [1, 2].map(|n| fs::read(rig.segment(n)).unwrap()).into();
    for _ in 0..2 {
        let listed = rig.run(&["list"]);
        assert_eq!(listed.status.code(), Some(0), "{listed:?}");
        let text = out(&listed);
        let states: Vec<&str> = text
            .lines()
            .skip(1)
            .take(2)
            .filter_map(|line| line.split_whitespace().last())
            .collect();
        assert_eq!(states, ["sealed", "open"], "{text}");
        assert!(text.contains("2 segments: "), "{text}");

        let json: serde_json::Value =
            serde_json::from_str(&out(&rig.run(&["list", "--json"]))).unwrap();
        assert_eq!(json["totals"]["messages"], 4);
        assert_eq!(json["segments"][0]["lines"], 2);
        assert_eq!(json["segments"][1]["state"], "open");
        assert_eq!(json["segments"][0]["bytes"], before[0].len());

        let verified = rig.run(&["verify"]);
        assert_eq!(verified.status.code(), Some(0), "{verified:?}");
        assert!(
            out(&verified).contains("4 messages, 4 lines, "),
            "{verified:?}"
        );
        assert_eq!(err(&verified), "", "no progress bar but on a terminal");

        let printed = out(&rig.run(&["cat"]));
        let wanted: String = (0..4)
            .map(|n| format!("{{\"message\":\"line {n}\"}}\n"))
            .collect();
        assert_eq!(printed, wanted);
        let second = out(&rig.run(&["cat", "--segment", "2"]));
        assert_eq!(second, wanted[wanted.len() / 2..]);
        drop(held.take());
    }
    let after: Vec<Vec<u8>> = [1, 2].map(|n| fs::read(rig.segment(n)).unwrap()).into();
    assert_eq!(before, after);
}

#[test]
fn damage_has_its_place_and_an_exit_code() {
    let rig = Rig::new();
    drop(rig.filled());
    let mut bytes = fs::read(rig.segment(1)).unwrap();
    // In the body of the second message: in front of its mark and the footer's three checksums.
    let body = b"line 1";
    let at = bytes
        .windows(body.len())
        .position(|window| window == body)
        .unwrap();
    bytes[at] ^= 0x20;
    fs::write(rig.segment(1), &bytes).unwrap();

    let verified = rig.run(&["verify"]);
    assert_eq!(verified.status.code(), Some(1), "{verified:?}");
    assert!(
        out(&verified).contains("segment 1 at byte "),
        "{verified:?}"
    );
    assert!(out(&verified).contains("3 messages"), "{verified:?}");
    assert!(
        err(&verified).contains("error: 1 damage in the spool"),
        "{verified:?}"
    );
    let printed = rig.run(&["cat"]);
    assert_eq!(printed.status.code(), Some(1), "{printed:?}");
    assert_eq!(out(&printed).lines().count(), 3);

    fs::remove_file(rig.segment(1)).unwrap();
    let made = Command::new("mkfifo").arg(rig.segment(1)).status().unwrap();
    assert!(made.success());
    let refused = rig.run(&["verify"]);
    assert_eq!(refused.status.code(), Some(77), "{refused:?}");
    assert!(err(&refused).contains("move it away"), "{refused:?}");
}

#[test]
fn where_nothing_was_spooled_nothing_is_wrong() {
    let rig = Rig::new();
    for arguments in [&["list"][..], &["list", "--json"], &["verify"], &["cat"]] {
        let output = rig.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(
            err(&output).contains("nothing was ever spooled"),
            "{output:?}"
        );
    }
    assert!(!rig.spool().exists());
    drop(rig.filled());
    let output = rig.run(&["cat", "--segment", "9"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(err(&output).contains("there are 1 to 2"), "{output:?}");
}
