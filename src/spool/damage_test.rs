//! What is read back after bytes or files were damaged: everything else, and the damage is said.

use std::path::PathBuf;
use std::sync::Arc;

use super::disk::Kind;
use super::fake_disk_test::{FakeDisk, ID, Random};
use super::segment::{HEAD_LEN, HEADER_LEN, Key};
use super::*;
use crate::model::{Identity, Proof};

/// File `which` of ours.
pub(super) fn file(which: u8) -> Arc<FileRecord> {
    Arc::new(FileRecord {
        id: FileId([which; 16]),
        source: "app".into(),
        path: LogPath::from_bytes(&[b"/l/\xff", &[b'a' + which % 26][..]].concat()),
        found: 1_700_000_000_000_000_000,
        identity: Identity {
            dev: 7,
            ino: 1000 + u64::from(which),
            born: Some(-5),
            head: Proof::of(b"head"),
        },
        begins: Mark::default(),
        confirmed: Mark::default(),
        ended: false,
    })
}

/// Entry `number`: ten bytes of file `number % 2`, behind those of the entry before.
pub(super) fn entry(number: u64) -> Entry {
    let record = file(u8::try_from(number % 2).expect("small"));
    let start = number / 2 * 10;
    let body = format!("entry {number}\n");
    Entry {
        source: "app".into(),
        ranges: vec![Range {
            file: record.id,
            path: record.path.clone(),
            start,
            end: start + 10,
            skipped: None,
            eof: false,
            epoch: 0,
            proof: Proof::of(body.as_bytes()),
        }],
        lines: 1,
        priority: 0,
        bytes: body.len() as u64,
        format: Format::Ndjson,
        coding: None,
        body: body.into(),
        closed_at: 1_700_000_000 + number,
        files: vec![record],
    }
}

pub(super) fn number(entry: &Entry) -> u64 {
    let body = std::str::from_utf8(&entry.body).expect("text");
    let digits = body.trim_start_matches("entry ").trim_end();
    digits.parse().expect("a number")
}

pub(super) fn options() -> Options {
    Options {
        directory: PathBuf::from("/spool"),
        bytes_max: 1 << 30,
        segment_bytes: 1 << 20,
        free_min: FreeMin::Bytes(0),
    }
}

pub(super) fn open(disk: &FakeDisk) -> (Spool<FakeDisk>, Recovered) {
    disk.exit();
    Spool::open(disk.clone(), options(), None).expect("opened")
}

/// Everything: numbers of entries, and damage.
pub(super) fn read_all<D: Disk>(spool: &mut Spool<D>) -> (Vec<u64>, Vec<Damage>) {
    let begin = spool.begin();
    read_from(spool, begin)
}

pub(super) fn read_from<D: Disk>(spool: &mut Spool<D>, from: Place) -> (Vec<u64>, Vec<Damage>) {
    let (mut numbers, mut damages) = (Vec::new(), Vec::new());
    let mut place = from;
    loop {
        let behind = match spool.read(place).expect("read") {
            Next::End => return (numbers, damages),
            Next::Entry {
                place: at,
                behind,
                entry,
            } => {
                assert!(at >= place, "{at} before {place}");
                numbers.push(number(&entry));
                behind
            }
            Next::Damaged(damage) => {
                let behind = damage.behind;
                damages.push(damage);
                behind
            }
        };
        assert!(behind > place, "{behind} is no progress from {place}");
        place = behind;
    }
}

/// Entries 0 to 17 in three segments of three groups; the last one is open.
fn three_segments() -> (FakeDisk, Vec<Place>) {
    let disk = FakeDisk::default();
    let (mut spool, _) = open(&disk);
    let mut places = Vec::new();
    for group in 0..9 {
        if group % 3 == 0 {
            spool.seal();
        }
        let group = [entry(2 * group), entry(2 * group + 1)];
        places.extend(spool.append(&group).expect("appended"));
    }
    (disk, places)
}

fn name(number: u64) -> String {
    file_name(number)
}

const LAST: u64 = 3;

#[test]
fn what_was_appended_is_read_in_order_and_every_field_of_it() {
    let disk = FakeDisk::default();
    let (mut spool, recovered) = open(&disk);
    assert!(recovered.files.is_empty());
    let mut odd = entry(0);
    odd.ranges[0].skipped = Some(Skipped::Hole);
    odd.ranges[0].eof = true;
    (odd.priority, odd.format) = (9, Format::Lines);
    odd.coding = Some(Coding::Zstd);
    let places = spool.append(&[odd.clone(), entry(1)]).expect("appended");
    for _ in 0..2 {
        let at_begin = spool.begin();
        let Next::Entry { place, entry, .. } = spool.read(at_begin).expect("read") else {
            unreachable!("no entry");
        };
        assert_eq!(place, places[0]);
        assert_eq!(format!("{entry:?}"), format!("{odd:?}"));
        spool = open(&disk).0;
    }
    let credit = crate::model::credit::Credit::new(100, || {});
    let at = Place {
        segment: 1,
        offset: 64,
    };
    let stored = Stored { at, behind: at };
    let batch = odd
        .clone()
        .into_batch(stored, credit.take(1).expect("room"));
    let again = Entry::of(&batch, odd.files.clone());
    assert_eq!(format!("{again:?}"), format!("{odd:?}"));
}

#[test]
fn an_entry_takes_as_many_bytes_as_it_says() {
    let disk = FakeDisk::default();
    let (mut spool, _) = open(&disk);
    let mut of_two = entry(0);
    of_two.files.push(file(1));
    of_two.ranges.extend(entry(1).ranges);
    let group = [of_two, entry(1), entry(2)];
    let places = spool.append(&group).expect("appended");
    assert_eq!(places[1].offset - places[0].offset, group[0].stored_len());
    let stored: u64 = group.iter().map(Entry::stored_len).sum();
    assert_eq!(spool.bytes(), HEADER_LEN + stored + MARK_LEN);
    let before = spool.bytes();
    let footer = spool.active.as_ref().expect("open").summary.footer_len();
    spool.seal();
    assert_eq!(spool.bytes(), before + footer);
}

#[test]
fn a_tail_cut_at_any_byte_leaves_the_whole_groups_and_the_spool_goes_on() {
    let (disk, places) = three_segments();
    for sealed in [false, true] {
        if sealed {
            let (mut spool, _) = open(&disk);
            spool.append(&[entry(18)]).expect("appended");
            spool.seal();
        }
        let last = disk.names().pop().expect("a segment");
        let whole = disk.bytes(&last);
        for len in 0..whole.len() {
            let copy = disk.copy();
            copy.put(&last, &whole[..len]);
            let (mut spool, recovered) = open(&copy);
            let (numbers, damages) = read_all(&mut spool);
            assert_eq!(damages, [], "cut at {len}");
            if !sealed {
                let cut = |group: usize| places[group].offset <= len as u64;
                // A group counts when all of it is there: where the next one begins.
                let groups = (0..3).filter(|group| match group {
                    2 => false,
                    group => cut(12 + 2 * (group + 1)),
                });
                assert_eq!(numbers.len(), 12 + 2 * groups.count(), "cut at {len}");
                let counted = recovered.cut_bytes > 0;
                assert_eq!(counted, spool.end().offset < len as u64, "cut at {len}");
            }
            let kept = numbers.len();
            assert_eq!(numbers, (0..kept as u64).collect::<Vec<_>>());
            spool.append(&[entry(90)]).expect("goes on");
            let (again, _) = read_all(&mut spool);
            let (mut reopened, _) = open(&copy);
            let (reread, damages) = read_all(&mut reopened);
            assert_eq!((&reread, damages.len()), (&again, 0), "cut at {len}");
            assert_eq!(reread.len(), kept + 1);
        }
    }
}

/// What damage must cost.
#[derive(Default)]
struct Cost {
    /// The entries that have bytes in what was touched.
    hit: Vec<u64>,
    /// All from this one on: a group without its mark is nothing, and of the last one, which may
    /// never have been whole, what follows may be gone too.
    cut: Option<u64>,
}

impl Cost {
    fn of(hit: &[u64]) -> Self {
        Self {
            hit: hit.to_vec(),
            cut: None,
        }
    }

    /// What it costs to touch these bytes of a segment.
    fn of_bytes(places: &[Place], segment: u64, touched: &[usize]) -> Self {
        let touches = |from: u64, to: u64| {
            let touched = touched.iter().map(|at| *at as u64);
            let mut inside = touched.filter(|at| (from..to).contains(at));
            inside.next().is_some()
        };
        let is_hit = |number: u64| {
            let place = places[usize::try_from(number).expect("small")];
            let end = place.offset + entry(number).stored_len();
            place.segment == segment && touches(place.offset, end)
        };
        let mut cost = Self::of(&(0..18).filter(|number| is_hit(*number)).collect::<Vec<_>>());
        for group in [8, 7, 6] {
            let last = 2 * group + 1;
            let mark = places[usize::try_from(last).expect("small")].offset;
            let mark = mark + entry(last).stored_len();
            if segment != LAST || !touches(mark, mark + MARK_LEN) {
                let mut hit = cost.hit.iter().copied();
                let hit = hit.find(|number| segment == LAST && number / 2 == group);
                cost.cut = hit.or(cost.cut);
                break;
            }
            cost.cut = Some(2 * group);
        }
        cost
    }
}

/// Opens, reads all, and checks against what must be there.
fn check_damaged(disk: &FakeDisk, cost: &Cost, told: &str) {
    let (mut spool, recovered) = open(disk);
    let (numbers, damages) = read_all(&mut spool);
    let is_gone =
        |number: &u64| cost.hit.contains(number) || cost.cut.is_some_and(|cut| *number >= cut);
    let wanted: Vec<u64> = (0..18).filter(|number| !is_gone(number)).collect();
    assert_eq!(numbers, wanted, "{told}");
    if wanted.len() < 18 {
        let said = !damages.is_empty() || recovered.cut_bytes > 0;
        assert!(said, "{told}: nothing was said");
    }
    let said: u64 = damages.iter().map(|damage| damage.bytes).sum();
    assert!(said < 4000, "{told}: {damages:?}");
}

#[test]
fn a_flipped_bit_costs_the_entry_that_it_hits_and_no_other() {
    let all = std::env::var_os("FANTAIL_TEST_ALL").is_some();
    let (disk, places) = three_segments();
    for segment in 1..=LAST {
        let bytes = disk.bytes(&name(segment));
        for at in 0..bytes.len() {
            let bits = if all { 0..8 } else { at % 8..at % 8 + 1 };
            for bit in bits {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                let copy = disk.copy();
                copy.put(&name(segment), &flipped);
                let cost = Cost::of_bytes(&places, segment, &[at]);
                check_damaged(&copy, &cost, &format!("bit {bit} of {at} in {segment}"));
            }
        }
    }
}

#[test]
fn stretches_of_zeros_of_garbage_and_of_old_records_cost_what_they_cover() {
    let (disk, places) = three_segments();
    let mut random = Random(7);
    for segment in 1..=LAST {
        let bytes = disk.bytes(&name(segment));
        for _ in 0..3000 {
            let from = random.index(bytes.len());
            let to = (from + 1 + random.index(600)).min(bytes.len());
            let other = disk.bytes(&name(1 + random.below(LAST)));
            let shift = random.index(other.len() - (to - from));
            let kind = random.below(3);
            let mut damaged = bytes.clone();
            for at in from..to {
                damaged[at] = match kind {
                    0 => 0,
                    1 => u8::try_from(random.below(256)).expect("a byte"),
                    // What the block held before: a piece of a segment, elsewhere.
                    _ => other[shift + at - from],
                };
            }
            let touched: Vec<usize> = (from..to).filter(|at| damaged[*at] != bytes[*at]).collect();
            let cost = Cost::of_bytes(&places, segment, &touched);
            let copy = disk.copy();
            copy.put(&name(segment), &damaged);
            check_damaged(
                &copy,
                &cost,
                &format!("{from}..{to} of {segment}, kind {kind}"),
            );
        }
    }
}

#[test]
fn what_stands_behind_the_last_mark_is_cut_whatever_it_is() {
    let (disk, _) = three_segments();
    let whole = disk.bytes(&name(LAST));
    let first = disk.bytes(&name(1));
    let tails: [&[u8]; 5] = [
        &[0; 1],
        &vec![0; 4 << 20],
        &[0xa5; 5000],
        // Old records: of another segment, and of this one.
        &first[64..],
        &whole[64..],
    ];
    for tail in tails {
        let copy = disk.copy();
        copy.put(&name(LAST), &[&whole, tail].concat());
        let (mut spool, recovered) = open(&copy);
        assert_eq!(recovered.cut_bytes, tail.len() as u64);
        assert_eq!(read_all(&mut spool).0.len(), 18);
        assert!(recovered.damaged.is_empty());
        // The next segment says where this one ends.
        spool.append(&[entry(18)]).expect("appended");
        let (mut spool, recovered) = open(&copy);
        assert_eq!((recovered.cut_bytes, recovered.damaged.len()), (0, 0));
        assert_eq!(read_all(&mut spool).0.len(), 19);
    }
}

#[test]
fn a_length_is_not_believed_for_its_checksum_alone() {
    let (disk, places) = three_segments();
    let victim = places[8];
    let at = usize::try_from(victim.offset).expect("small");
    let key = Key::new(ID, victim.segment);
    for field in [12, 16] {
        for length in [0, 1, 1 << 31, u32::MAX] {
            let mut bytes = disk.bytes(&name(victim.segment));
            bytes[at + field..at + field + 4].copy_from_slice(&length.to_le_bytes());
            key.sign(victim.offset, &mut bytes[at..at + HEAD_LEN]);
            let copy = disk.copy();
            copy.put(&name(victim.segment), &bytes);
            check_damaged(
                &copy,
                &Cost::of(&[8]),
                &format!("length {length} at {field}"),
            );
        }
    }
}

#[test]
fn a_description_that_makes_no_sense_is_damage_and_not_tried_for_ever() {
    let (disk, places) = three_segments();
    let key = Key::new(ID, places[8].segment);
    let at = usize::try_from(places[8].offset).expect("small");
    let meta = at + HEAD_LEN;
    // The format's code, behind source, lines, priority and bytes.
    let format = meta + 4 + 3 + 8 + 1 + 8;
    let mut bytes = disk.bytes(&name(places[8].segment));
    assert_eq!(bytes[format], 1);
    bytes[format] = 77;
    let meta_len =
        usize::try_from(entry(8).stored_len()).expect("small") - HEAD_LEN - entry(8).body.len();
    let crc = key.meta_crc(places[8].offset, &bytes[meta..meta + meta_len]);
    bytes[at + 20..at + 24].copy_from_slice(&crc.to_le_bytes());
    key.sign(places[8].offset, &mut bytes[at..at + HEAD_LEN]);
    disk.put(&name(places[8].segment), &bytes);
    check_damaged(&disk, &Cost::of(&[8]), "an unknown format");
    let (mut spool, _) = open(&disk);
    let (_, damages) = read_all(&mut spool);
    assert_eq!(damages[0].what, What::Unknown);
}

#[test]
fn a_stretch_of_damage_is_one_and_its_segment_is_kept_aside() {
    let (disk, places) = three_segments();
    let mut bytes = disk.bytes(&name(2));
    let (from, to) = (places[7].offset + 40, places[10].offset + 40);
    for at in from..to {
        bytes[usize::try_from(at).expect("small")] ^= 0x55;
    }
    disk.put(&name(2), &bytes);
    let (mut spool, _) = open(&disk);
    let (numbers, damages) = read_all(&mut spool);
    assert_eq!(damages.len(), 1, "{damages:?}");
    assert_eq!(damages[0].at, places[7]);
    assert_eq!(damages[0].behind, places[11]);
    assert_eq!(numbers.len(), 14);
    assert!(disk.aside().is_empty());
    spool.release(places[12]).expect("released");
    assert_eq!(disk.names(), [name(3)]);
    assert_eq!(disk.aside(), [name(2)]);
}

#[test]
fn a_missing_segment_is_said_and_the_others_are_read() {
    let (disk, places) = three_segments();
    let size = |number| disk.bytes(&name(number)).len() as u64;
    let confirmed = Some((ID, places[1]));
    for (missing, numbers) in [(1, 6..18), (2, 0..18), (3, 0..12)] {
        let copy = disk.copy();
        copy.remove(&name(missing));
        let opened = Spool::open(copy.clone(), options(), confirmed);
        let (mut spool, recovered) = opened.expect("opened");
        let from = recovered.from.expect("a place");
        let (read, damages) = read_from(&mut spool, from);
        let mut wanted: Vec<u64> = numbers.collect();
        wanted.retain(|number| places[usize::try_from(*number).expect("small")].segment != missing);
        wanted.retain(|number| *number > 0);
        assert_eq!(read, wanted, "{missing}");
        if missing == LAST {
            // Nothing is left that knows of it: state.db does, by what it holds to be spooled.
            assert!(damages.is_empty());
            continue;
        }
        assert_eq!(damages, recovered.damaged);
        assert_eq!(damages.len(), 1, "{damages:?}");
        assert_eq!(damages[0].what, What::Missing);
        assert!(damages[0].bytes > 0 && damages[0].bytes < size(missing));
        assert_eq!(damages[0].behind.segment, missing + 1);
    }
}

#[test]
fn segments_that_hold_nothing_are_no_damage() {
    let (disk, _) = three_segments();
    let header = |previous| {
        let header = Header {
            content: Content::Batches,
            id: ID,
            number: 4,
            previous,
        };
        header.encode()
    };
    let (spool, _) = open(&disk);
    let end = spool.end();
    drop(spool);
    for bytes in [Vec::new(), vec![0; 3], vec![0; 4096], header(Some(end))] {
        let copy = disk.copy();
        copy.put(&name(4), &bytes);
        let (mut spool, recovered) = open(&copy);
        assert!(recovered.damaged.is_empty(), "{recovered:?}");
        assert_eq!(read_all(&mut spool).0.len(), 18);
        let place = spool.append(&[entry(18)]).expect("appended")[0];
        assert_eq!(place.segment, 5);
        let (mut spool, recovered) = open(&copy);
        assert!(recovered.damaged.is_empty(), "{recovered:?}");
        assert_eq!(read_all(&mut spool).0.len(), 19);
        spool.release(place).expect("released");
        assert_eq!(copy.names(), [name(5)]);
    }
    // In the middle it held something once.
    disk.put(&name(2), &[]);
    let (mut spool, recovered) = open(&disk);
    assert_eq!(recovered.damaged.len(), 1);
    let (numbers, damages) = read_all(&mut spool);
    assert_eq!(damages[0].what, What::CutOff);
    assert_eq!(numbers.len(), 12);
}

#[test]
fn what_is_planted_under_a_segments_name_is_refused_and_other_names_are_left_alone() {
    for kind in [Kind::Other, Kind::Directory] {
        let (disk, _) = three_segments();
        disk.plant(&name(2), kind);
        disk.exit();
        let refused = Spool::open(disk, options(), None).expect_err("planted");
        assert!(matches!(refused, SpoolError::Planted { .. }), "{refused}");
    }
    let (disk, places) = three_segments();
    let others = [
        "notes.txt",
        "1.seg",
        "000000000000000000011.seg",
        "99999999999999999999.seg",
    ];
    for other in others {
        disk.put(other, b"mine");
    }
    disk.put("00000000000000000002.tmp", b"left over");
    let (mut spool, _) = open(&disk);
    assert_eq!(read_all(&mut spool).0.len(), 18);
    let end = spool.end();
    spool.release(end).expect("released");
    assert!(places.iter().all(|place| place.segment < 4));
    let mut left = disk.names();
    left.retain(|name| !others.contains(&name.as_str()));
    assert_eq!(left, [name(4)]);
    assert_eq!(disk.bytes("1.seg"), b"mine");
}

#[test]
fn a_newer_format_is_refused_and_nothing_is_touched() {
    let (disk, _) = three_segments();
    let mut newer = disk.bytes(&name(2));
    newer[8] = 2;
    let crc = crc32c::crc32c(&newer[..60]);
    newer[60..64].copy_from_slice(&crc.to_le_bytes());
    disk.put(&name(2), &newer);
    disk.put("00000000000000000002.tmp", b"left over");
    let before: Vec<_> = disk.names().iter().map(|name| disk.bytes(name)).collect();
    disk.exit();
    let refused = Spool::open(disk.clone(), options(), None).expect_err("newer");
    assert!(
        matches!(refused, SpoolError::Newer { found: 2, .. }),
        "{refused}"
    );
    let after: Vec<_> = disk.names().iter().map(|name| disk.bytes(name)).collect();
    assert_eq!(before, after);
}

#[test]
fn the_highest_number_is_no_panic() {
    let (disk, _) = three_segments();
    disk.put(&name(u64::MAX), b"what is this");
    let (mut spool, _) = open(&disk);
    assert_eq!(read_all(&mut spool).0.len(), 18);
    assert!(spool.append(&[entry(18)]).is_err());
}

#[test]
fn a_segment_without_header_is_read_by_the_id_that_others_or_its_marks_have() {
    let disk = FakeDisk::default();
    let (mut spool, _) = open(&disk);
    spool.append(&[entry(0), entry(1)]).expect("appended");
    spool.append(&[entry(2)]).expect("appended");
    let mut bytes = disk.bytes(&name(1));
    bytes[..64].fill(0);
    disk.put(&name(1), &bytes);
    let (mut spool, recovered) = open(&disk);
    assert_eq!(recovered.damaged.len(), 1);
    assert_eq!(read_all(&mut spool).0, [0, 1, 2]);
}

#[test]
fn only_a_place_that_exists_is_believed() {
    let (disk, places) = three_segments();
    let (spool, _) = open(&disk);
    let (begin, end) = (spool.begin(), spool.end());
    drop(spool);
    let place = |segment, offset| Place { segment, offset };
    for (given, from) in [
        ((ID, places[7]), places[7]),
        ((ID, places[13]), places[13]),
        ((ID, end), end),
        ((ID, begin), begin),
        ((SpoolId([1; 16]), places[7]), begin),
        ((ID, place(9, 64)), begin),
        ((ID, place(3, 1 << 40)), begin),
        ((ID, place(2, places[7].offset + 1)), begin),
    ] {
        disk.exit();
        let (mut spool, recovered) =
            Spool::open(disk.clone(), options(), Some(given)).expect("opened");
        assert_eq!(recovered.from, Some(from), "{given:?}");
        let (numbers, _) = read_from(&mut spool, from);
        let wanted = (0..18).filter(|number| places[*number] >= from);
        assert_eq!(numbers.len(), wanted.count(), "{given:?}");
        let mut files = recovered.files;
        files.sort_by_key(|file| file.record.id.0);
        let first = |which| {
            let entries = numbers.iter().map(|number| entry(*number));
            let ranges = entries.flat_map(|entry| entry.ranges);
            let mut ranges = ranges.filter(|range| range.file == file(which).id);
            ranges.next().map(|range| range.start)
        };
        let told: Vec<u64> = files.iter().map(|file| file.first).collect();
        let firsts: Vec<u64> = [0, 1].into_iter().filter_map(first).collect();
        assert_eq!(told, firsts, "{given:?}");
        for file in &files {
            assert_eq!((file.end.offset, file.holes), (90, false), "{given:?}");
        }
    }
}

#[test]
fn much_damage_takes_little_time_and_memory() {
    let disk = FakeDisk::default();
    let (mut spool, _) = open(&disk);
    let group: Vec<Entry> = (0..10_000).map(entry).collect();
    let places = spool.append(&group).expect("appended");
    spool.append(&[entry(10_000)]).expect("appended");
    let mut bytes = disk.bytes(&name(1));
    for place in &places {
        let at = usize::try_from(place.offset).expect("small");
        bytes[at + 20] ^= 1;
    }
    disk.put(&name(1), &bytes);
    let read = disk.bytes_read();
    let (mut spool, _) = open(&disk);
    let (numbers, damages) = read_all(&mut spool);
    assert_eq!((numbers, damages.len()), (vec![10_000], 1));
    let times = (disk.bytes_read() - read) / bytes.len() as u64;
    assert!(times < 40, "read {times} times over");
}
