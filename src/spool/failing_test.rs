//! Errors of the system at every call, crashes at every call, limits, and the real file system.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Instant;

use rustix::io::Errno;

use super::damage_test::{entry, options, read_all, read_from};
use super::fake_disk_test::{FakeDisk, Fault, ID, Random};
use super::segment::HEADER_LEN;
use super::*;

/// Segments of four entries.
fn small() -> Options {
    Options {
        segment_bytes: 1_300,
        ..options()
    }
}

fn open(disk: &FakeDisk) -> Spool<FakeDisk> {
    disk.exit();
    let opened = Spool::open(disk.clone(), small(), None);
    opened.expect("opened").0
}

/// What is appended and released, each step until it is done; an error ends it where `once` is said.
fn run(spool: &mut Spool<FakeDisk>, once: bool) -> (Vec<u64>, Option<Place>) {
    let (mut done, mut released) = (Vec::new(), None);
    for group in 0..8 {
        let numbers = [2 * group, 2 * group + 1];
        let entries = numbers.map(entry);
        let places = loop {
            match spool.append(&entries) {
                Ok(places) => break places,
                Err(_) if once => return (done, released),
                Err(_) => {}
            }
        };
        done.extend(numbers);
        if group == 4 {
            released = Some(places[0]);
            while spool.release(places[0]).is_err() {
                if once {
                    return (done, released);
                }
            }
        }
    }
    (done, released)
}

#[test]
fn an_error_at_any_call_is_met_by_writing_elsewhere() {
    for errno in [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::IO] {
        for times in [1, 2, 5] {
            for at in 0.. {
                let disk = FakeDisk::default();
                let mut spool = open(&disk);
                disk.fail(Fault { at, times, errno });
                let (done, released) = run(&mut spool, false);
                if !disk.heal() {
                    assert!(at > 20, "only {at} calls");
                    break;
                }
                let told = format!("{errno:?} at {at}, {times} times");
                let from = released.expect("released");
                let wanted: Vec<u64> = done.iter().copied().filter(|n| *n >= 8).collect();
                assert_eq!(
                    read_from(&mut spool, from),
                    (wanted.clone(), vec![]),
                    "{told}"
                );
                // And not only in the cache.
                disk.crash(&mut Random(at));
                let confirmed = Some((ID, from));
                let (mut spool, recovered) = Spool::open(disk, small(), confirmed).expect("opened");
                assert_eq!(recovered.from, Some(from), "{told}");
                let (numbers, damages) = read_from(&mut spool, from);
                assert_eq!((numbers, damages), (wanted, vec![]), "{told}");
            }
        }
    }
}

#[test]
fn a_crash_at_any_call_loses_nothing_that_was_durable() {
    for at in 0.. {
        let mut met = false;
        for seed in 0..50 {
            let disk = FakeDisk::default();
            let mut spool = open(&disk);
            disk.fail(Fault {
                at,
                times: u64::MAX - at,
                errno: Errno::IO,
            });
            let (done, released) = run(&mut spool, true);
            met = disk.heal();
            let mut random = Random(seed);
            // Twice more while it recovers.
            for _ in 0..3 {
                disk.crash(&mut random);
                let confirmed = released.map(|place| (ID, place));
                let opened = Spool::open(disk.clone(), small(), confirmed);
                let (mut spool, recovered) = opened.expect("opened");
                assert_eq!(recovered.damaged, [], "crash at {at}, seed {seed}");
                let (numbers, _) = read_from(&mut spool, recovered.from.expect("a place"));
                let first = if released.is_some() { 8 } else { 0 };
                let must = done.iter().copied().filter(|number| *number >= first);
                let missing: Vec<u64> = must.filter(|must| !numbers.contains(must)).collect();
                assert!(
                    missing.is_empty(),
                    "{missing:?}: crash at {at}, seed {seed}"
                );
                assert!(numbers.len() <= done.len() + 2 && numbers.is_sorted());
            }
        }
        if !met {
            assert!(at > 20, "only {at} calls");
            return;
        }
    }
}

#[test]
fn a_failed_fsync_is_never_believed_again() {
    let disk = FakeDisk::default();
    let mut spool = open(&disk);
    spool.append(&[entry(0)]).expect("appended");
    // Write, then sync.
    disk.fail(Fault {
        at: 1,
        times: 1,
        errno: Errno::IO,
    });
    let error = spool.append(&[entry(1)]).expect_err("not durable");
    assert!(
        matches!(
            error,
            AppendError::Io {
                stage: Stage::Sync,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(read_all(&mut spool).0, [0]);
    let place = spool.append(&[entry(1)]).expect("elsewhere")[0];
    assert_eq!(place.segment, 2);
    disk.crash(&mut Random(1));
    assert_eq!(read_all(&mut open(&disk)).0, [0, 1]);
}

#[test]
fn a_full_spool_says_so_and_takes_more_when_something_was_released() {
    let disk = FakeDisk::default();
    let limits = Options {
        bytes_max: 6_000,
        free_min: FreeMin::PartsPerMillion(50_000),
        ..small()
    };
    let (mut spool, _) = Spool::open(disk.clone(), limits.clone(), None).expect("opened");
    let mut count = 0;
    let error = loop {
        let fits = spool.has_room(entry(count).stored_len()).expect("asked");
        match spool.append(&[entry(count)]) {
            Ok(_) => count += 1,
            Err(error) => break (error, fits),
        }
        assert!(spool.bytes() <= limits.bytes_max);
    };
    let (error, fits) = error;
    assert!(
        error.is_full() && !fits && count > 10,
        "{error} after {count}"
    );
    let names = disk.names();
    assert!(spool.append(&[entry(count)]).is_err());
    assert_eq!(disk.names(), names, "nothing was touched");
    let second = Place {
        segment: 2,
        offset: 0,
    };
    spool.release(second).expect("released");
    spool.append(&[entry(count)]).expect("room again");

    // Five in a hundred of the file system must stay free.
    disk.set_space(1_000_000, 50_500);
    let error = spool
        .append(&[entry(count)])
        .expect_err("too little is free");
    assert!(matches!(
        error,
        AppendError::Full(Limit::Free { least: 50_000, .. })
    ));
    assert!(!spool.has_room(1).expect("asked"));
}

#[test]
fn what_is_larger_than_a_segment_goes_alone_and_beyond_the_limit_only_into_nothing() {
    let disk = FakeDisk::default();
    let limits = Options {
        bytes_max: 20_000,
        ..small()
    };
    let (mut spool, _) = Spool::open(disk, limits, None).expect("opened");
    let large = |len: usize| Entry {
        body: [b"entry 1".as_slice(), &vec![b' '; len]].concat().into(),
        ..entry(1)
    };
    spool.append(&[entry(0)]).expect("appended");
    let place = spool.append(&[large(5_000)]).expect("appended")[0];
    assert_eq!((place.segment, place.offset), (2, HEADER_LEN));
    assert_eq!(spool.append(&[entry(2)]).expect("appended")[0].segment, 3);
    assert!(
        spool
            .append(&[large(30_000)])
            .expect_err("too large")
            .is_full()
    );
    let end = spool.end();
    spool.release(end).expect("released");
    assert!(spool.bytes() <= HEADER_LEN);
    spool.append(&[large(30_000)]).expect("alone");
    let end = spool.end();
    spool.release(end).expect("released");
    assert!(spool.bytes() <= HEADER_LEN);
}

#[test]
fn giving_up_the_oldest_leaves_its_ranges_and_what_is_in_flight() {
    let disk = FakeDisk::default();
    let mut spool = open(&disk);
    let mut places = Vec::new();
    for number in 0..16 {
        let mut entry = entry(number);
        if number == 5 {
            entry.ranges[0].skipped = Some(Skipped::Hole);
        }
        places.extend(spool.append(&[entry]).expect("appended"));
    }
    let per_segment = places.iter().filter(|place| place.segment == 1).count();
    let in_flight = places[1];
    let before = spool.bytes();
    let mut dropped = Vec::new();
    // The first segment has messages in flight.
    while let Some(ranges) = spool.drop_oldest(in_flight).expect("dropped") {
        dropped.extend(ranges);
    }
    assert!(spool.bytes() < before);
    let dropped_bytes: u64 = dropped.iter().map(|range| range.end - range.start).sum();
    // What was no line before is not lost now.
    assert_eq!(dropped_bytes, (16 - per_segment as u64) * 10 - 10);
    assert!(
        dropped
            .iter()
            .all(|range| range.skipped == Some(Skipped::DropOldest))
    );
    let segments = spool.segments();
    assert_eq!(segments, 2, "one for all that was given up");
    for _ in 0..2 {
        let mut ends = [0; 2];
        let (mut lines, mut place) = (0, spool.begin());
        while let Next::Entry { behind, entry, .. } = spool.read(place).expect("read") {
            place = behind;
            lines += entry.lines;
            for range in &entry.ranges {
                let which = usize::from(range.file.0[0]);
                assert_eq!(range.start, ends[which], "tiled");
                ends[which] = range.end;
            }
        }
        assert_eq!((lines, ends), (per_segment as u64, [80, 80]));
        spool = open(&disk);
    }
    let place = spool.append(&[entry(16)]).expect("appended")[0];
    assert!(place > *places.last().expect("some"));
}

#[test]
fn id_and_numbers_survive_that_everything_is_released() {
    let disk = FakeDisk::default();
    let mut spool = open(&disk);
    spool.append(&[entry(0)]).expect("appended");
    let end = spool.end();
    spool.release(end).expect("released");
    assert_eq!(disk.names(), ["00000000000000000002.seg"]);
    disk.crash(&mut Random(3));
    let opened = Spool::open(disk, small(), Some((ID, end)));
    let (mut spool, recovered) = opened.expect("opened");
    assert_eq!(recovered.from, Some(end));
    assert!(recovered.damaged.is_empty() && recovered.files.is_empty());
    let place = spool.append(&[entry(1)]).expect("appended")[0];
    assert!(place >= end);
    assert_eq!(read_from(&mut spool, end).0, [1]);
}

#[test]
fn closed_segments_are_opened_by_their_footers() {
    let disk = FakeDisk::default();
    let mut spool = open(&disk);
    let large = |number| Entry {
        body: format!("entry {number}{:60000}", "").into(),
        ..entry(number)
    };
    for number in 0..200 {
        spool.append(&[large(number)]).expect("appended");
    }
    let stored = spool.bytes();
    let before = disk.bytes_read();
    let spool = open(&disk);
    assert_eq!(spool.segments(), 200);
    let read = disk.bytes_read() - before;
    // The last one is read whole, its body for its mark and once more.
    assert!(
        stored > 12_000_000 && read < 700_000,
        "{read} of {stored} bytes"
    );
}

fn real(directory: &std::path::Path) -> Result<(Spool<RealDisk>, Recovered), SpoolError> {
    let options = Options {
        directory: directory.to_path_buf(),
        ..small()
    };
    Spool::open(RealDisk::new(), options, None)
}

#[test]
fn on_a_real_file_system_it_is_locked_private_and_refuses_what_was_planted() {
    let base = tempfile::tempdir().expect("a directory");
    let path = base.path().join("spool");
    let (mut spool, _) = real(&path).expect("opened");
    for number in 0..6 {
        spool.append(&[entry(number)]).expect("appended");
    }
    let error = real(&path).expect_err("locked");
    assert!(matches!(error, SpoolError::Locked(_)), "{error}");
    assert_eq!(
        look(&path).expect("looks on").segments().len(),
        spool.segments()
    );
    let mode = |path: &std::path::Path| {
        let metadata = fs::metadata(path).expect("there");
        metadata.permissions().mode() & 0o777
    };
    let first = path.join("00000000000000000001.seg");
    assert_eq!((mode(&path), mode(&first)), (0o700, 0o600));
    drop(spool);

    // Damage, then release: it is kept aside.
    let mut bytes = fs::read(&first).expect("read");
    bytes[100] ^= 1;
    fs::write(&first, &bytes).expect("written");
    let (mut spool, _) = real(&path).expect("opened");
    let (numbers, damages) = read_all(&mut spool);
    assert_eq!((numbers.len(), damages.len()), (5, 1));
    spool.drop_oldest(spool.begin()).expect("dropped");
    let end = spool.end();
    spool.release(end).expect("released");
    let aside = path.join("damaged/00000000000000000001.seg");
    assert_eq!(fs::read(&aside).expect("kept"), bytes);
    assert!(!first.exists());
    drop(spool);

    let refused = |path: &std::path::Path| {
        let error = real(path).expect_err("planted");
        assert!(matches!(error, SpoolError::Planted { .. }), "{error}");
    };
    let link = base.path().join("link");
    symlink(&path, &link).expect("linked");
    refused(&link);
    symlink(&aside, &first).expect("linked");
    refused(&path);
    assert!(look(&path).is_err());
    fs::remove_file(&first).expect("removed");
    let fifo = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &first, fifo, mode, 0).expect("made");
    refused(&path);
    fs::remove_file(&first).expect("removed");
    fs::create_dir(&first).expect("made");
    refused(&path);
    fs::remove_dir(&first).expect("removed");
    real(&path).expect("opened");
    let planted = base.path().join("planted");
    fs::create_dir(&planted).expect("made");
    symlink("/etc/passwd", planted.join("lock")).expect("linked");
    refused(&planted);
}

/// With `FANTAIL_TEST_ALL` 160 segments of 64 MiB, which are nothing but holes in between.
#[test]
fn a_spool_of_ten_gibibytes_opens_at_once() {
    let all = std::env::var_os("FANTAIL_TEST_ALL").is_some();
    let segments = if all { 160 } else { 4 };
    let base = tempfile::tempdir().expect("a directory");
    let path = base.path().join("spool");
    let (mut spool, _) = real(&path).expect("opened");
    spool.options.bytes_max = u64::MAX;
    for number in 0..segments {
        spool.append(&[entry(number)]).expect("appended");
        spool.contents.segments.last_mut().expect("it").end = 64 << 20;
        spool.seal();
    }
    drop(spool);
    let begun = Instant::now();
    let (spool, _) = real(&path).expect("opened");
    let (bytes, took) = (spool.bytes(), begun.elapsed());
    println!("a spool of {bytes} bytes opened in {took:?}");
    assert!(bytes > segments * (64 << 20));
}
