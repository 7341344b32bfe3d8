//! The bytes of the format, kept for ever: what was written once is read, and today's code writes
//! the same. `FANTAIL_BLESS=1` writes them anew; then the format has another number.

use std::fs;
use std::path::PathBuf;

use super::damage_test::{entry, file, options};
use super::fake_disk_test::FakeDisk;
use super::*;

fn directory() -> PathBuf {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/data/spool").join(format!("v{FORMAT}"))
}

/// Every kind of entry.
fn entries() -> Vec<Entry> {
    let mut all: Vec<Entry> = (0..4).map(entry).collect();
    all[1].format = Format::Json;
    all[1].coding = Some(Coding::Gzip);
    all[2].format = Format::Lines;
    all[2].coding = Some(Coding::Zstd);
    all[2].priority = 9;
    all[3].ranges[0].eof = true;
    let two = &mut all[0];
    two.files.push(file(1));
    two.ranges.extend(entry(1).ranges);
    let reasons = [
        Skipped::ReadFrom,
        Skipped::Ignored,
        Skipped::Truncated,
        Skipped::Hole,
        Skipped::Deleted,
        Skipped::Damaged,
        Skipped::DropOldest,
    ];
    for (number, reason) in (4..).zip(reasons) {
        let mut skipped = entry(number);
        skipped.ranges[0].skipped = Some(reason);
        (skipped.lines, skipped.bytes, skipped.body) = (0, 0, Bytes::new());
        all.push(skipped);
    }
    all
}

/// A segment that was given up, one that is closed, and one that is not.
fn written() -> FakeDisk {
    let disk = FakeDisk::default();
    let (mut spool, _) = Spool::open(disk.clone(), options(), None).expect("opened");
    spool.append(&[entry(20), entry(22)]).expect("appended");
    spool.seal();
    let begin = spool.begin();
    spool.drop_oldest(begin).expect("dropped").expect("one");
    let all = entries();
    spool.append(&all[..3]).expect("appended");
    spool.append(&all[3..]).expect("appended");
    spool.seal();
    spool.append(&[entry(30)]).expect("appended");
    disk
}

#[test]
fn today_the_format_is_written_as_it_always_was() {
    let disk = written();
    let names = disk.names();
    assert_eq!(names.len(), 3);
    if std::env::var_os("FANTAIL_BLESS").is_some() {
        fs::create_dir_all(directory()).expect("made");
        for name in &names {
            fs::write(directory().join(name), disk.bytes(name)).expect("written");
        }
    }
    for name in names {
        let golden = fs::read(directory().join(&name)).expect("golden file");
        assert_eq!(disk.bytes(&name), golden, "{name}");
    }
}

#[test]
fn what_was_written_once_is_read_for_ever() {
    let mut look = look(&directory()).expect("a spool");
    assert!(look.damaged.is_empty() && look.cut_bytes == 0);
    let states: Vec<SegmentState> = look.segments().iter().map(|one| one.state).collect();
    let wanted = [
        SegmentState::Dropped,
        SegmentState::Sealed,
        SegmentState::Open,
    ];
    assert_eq!(states, wanted);
    let mut read = Vec::new();
    let mut place = look.begin();
    loop {
        match look.read(place).expect("read") {
            Next::Entry { behind, entry, .. } => {
                read.push(entry);
                place = behind;
            }
            Next::Damaged(damage) => unreachable!("{damage:?}"),
            Next::End => break,
        }
    }
    let dropped = read.remove(0);
    assert_eq!((dropped.lines, dropped.ranges[0].start), (0, 100));
    assert_eq!(dropped.ranges[0].end, 120);
    assert_eq!(dropped.ranges[0].skipped, Some(Skipped::DropOldest));
    let mut wanted = entries();
    wanted.push(entry(30));
    assert_eq!(format!("{read:#?}"), format!("{wanted:#?}"));
}
