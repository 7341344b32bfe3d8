//! Generations that somebody compresses: they go on where they were, in the uncompressed bytes.

use std::io::Write as _;
use std::process::Command;

use super::*;

/// What logrotate does: packs a file, keeps its time, and deletes it when that is done.
fn pack(rig: &Rig, name: &str) {
    let path = rig.path(name);
    let status = Command::new("gzip").arg("-1").arg(&path).status();
    assert!(status.expect("gzip runs").success());
}

fn pack_zstd(rig: &Rig, name: &str) {
    let path = rig.path(name);
    let packed = zstd::encode_all(&fs::read(&path).expect("read")[..], 1).expect("packed");
    let modified = fs::metadata(&path).and_then(|found| found.modified());
    let mut file = fs::File::create(rig.path(&format!("{name}.zst"))).expect("made");
    file.write_all(&packed).expect("written");
    file.set_modified(modified.expect("a time")).expect("set");
    fs::remove_file(path).expect("deleted");
}

fn rename(rig: &Rig, from: &str, to: &str) {
    fs::rename(rig.path(from), rig.path(to)).expect("renamed");
}

fn cut(rig: &Rig, name: &str) {
    let file = fs::File::options().write(true).open(rig.path(name));
    file.and_then(|file| file.set_len(0)).expect("truncated");
}

/// Lines that say where they are from.
fn lines(name: &str, count: usize) -> String {
    (0..count)
        .map(|number| format!("{name} {number} {}\n", "x".repeat(number % 100)))
        .collect()
}

/// All that came, of whichever generation.
fn all(rig: &Rig) -> String {
    let texts = rig.delivered.values();
    texts
        .map(|generation| String::from_utf8_lossy(&generation.text).into_owned())
        .collect()
}

#[test]
fn a_generation_that_was_read_is_not_read_again_when_it_is_compressed() {
    let packers: [fn(&Rig, &str); 2] = [pack, pack_zstd];
    for packer in packers {
        let mut rig = Rig::new("*.log");
        for generation in 0..4 {
            rig.append("a.log", &lines(&format!("{generation}"), 1000));
            rig.pass(2);
            for older in (1..4).rev() {
                for suffix in ["gz", "zst"] {
                    let from = rig.path(&format!("a.log.{older}.{suffix}"));
                    let _ = fs::rename(from, rig.path(&format!("a.log.{}.{suffix}", older + 1)));
                }
            }
            rename(&rig, "a.log", "a.log.1");
            rig.append("a.log", "");
            rig.pass(1);
            packer(&rig, "a.log.1");
            rig.pass(90);
        }
        assert_eq!(rig.texts("a.log").len(), 4);
        assert_eq!(rig.delivered.len(), 4, "nothing came twice");
        assert!(rig.delivered.values().all(|generation| generation.ended));
        assert_eq!(rig.records.len(), 4, "each is known where it lies");
        rig.start();
        rig.pass(30);
        assert_eq!(rig.delivered.len(), 4, "nor after a restart");
        for name in ["a.log.1", "a.log.2", "a.log.3", "a.log.4"] {
            for suffix in ["gz", "zst"] {
                let _ = fs::remove_file(rig.path(&format!("{name}.{suffix}")));
            }
        }
        rig.pass(30);
        assert!(rig.records.is_empty() && rig.lost.is_empty());
    }
}

#[test]
fn what_was_compressed_while_the_agent_was_down_goes_on_at_its_place() {
    let packers: [fn(&Rig, &str); 2] = [pack, pack_zstd];
    for packer in packers {
        let mut rig = Rig::new("*.log");
        let (before, after) = (lines("before", 3000), lines("after", 3000));
        rig.append("a.log", &before);
        rig.round();
        rig.append("a.log", &after);
        rename(&rig, "a.log", "a.log.1");
        rig.append("a.log", "missed 1\nmissed 2\n");
        packer(&rig, "a.log.1");
        // One more, which the agent never saw.
        let suffix = fs::metadata(rig.path("a.log.1.gz")).map_or("zst", |_| "gz");
        rename(
            &rig,
            &format!("a.log.1.{suffix}"),
            &format!("a.log.2.{suffix}"),
        );
        rename(&rig, "a.log", "a.log.1");
        packer(&rig, "a.log.1");
        rig.append("a.log", "live\n");
        rig.start();
        rig.pass(10);
        assert_eq!(
            rig.texts("a.log"),
            [
                before + &after,
                "missed 1\nmissed 2\n".to_owned(),
                "live\n".to_owned()
            ]
        );
        assert!(rig.lost.is_empty());
        let ended = rig.delivered.values().filter(|generation| generation.ended);
        assert_eq!(ended.count(), 2);
    }
}

#[test]
fn a_truncated_generation_goes_on_in_a_copy_that_was_compressed() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", &lines("one", 100));
    rig.round();
    rig.append("a.log", &lines("two", 100));
    fs::copy(rig.path("a.log"), rig.path("a.log.1")).expect("copied");
    fs::write(rig.path("a.log"), "three\n").expect("written anew");
    pack(&rig, "a.log.1");
    rig.start();
    rig.pass(10);
    let expected = lines("one", 100) + &lines("two", 100);
    assert_eq!(rig.texts("a.log"), [expected, "three\n".to_owned()]);
    assert!(rig.lost.is_empty());
}

#[test]
fn generations_with_one_header_are_told_apart() {
    let header = "# the same header in every file\n".repeat(64);
    let mut rig = Rig::new("*.log");
    let mut expected = String::new();
    for generation in 0..5 {
        let text = format!("{header}{}", lines(&format!("{generation}"), 50));
        rig.append("a.log", &text);
        expected += &text;
        rig.pass(1);
        for older in (1..5).rev() {
            let from = rig.path(&format!("a.log.{older}.gz"));
            let _ = fs::rename(from, rig.path(&format!("a.log.{}.gz", older + 1)));
        }
        rename(&rig, "a.log", "a.log.1");
        // Half of them while the agent is down.
        if generation % 2 == 1 {
            rig.append("a.log.1", "late\n");
            expected += "late\n";
            pack(&rig, "a.log.1");
            rig.start();
        } else {
            rig.pass(1);
            pack(&rig, "a.log.1");
        }
        rig.pass(3);
    }
    rig.pass(90);
    assert_eq!(all(&rig), expected);
    assert!(rig.lost.is_empty());
}

#[test]
fn what_lay_there_compressed_is_left_alone_unless_a_pattern_matches_it() {
    for (glob, count) in [("*.log", 1), ("*.log*", 3)] {
        let mut rig = Rig::new(glob);
        rig.append("a.log.1", "old 1\n");
        rig.append("a.log.2", "old 2\n");
        let an_hour_ago = SystemTime::now() - Duration::from_hours(1);
        for name in ["a.log.1", "a.log.2"] {
            let file = fs::File::options().append(true).open(rig.path(name));
            let file = file.expect("opened");
            file.set_modified(an_hour_ago).expect("set");
        }
        pack(&rig, "a.log.1");
        pack(&rig, "a.log.2");
        rig.pass(1);
        rig.append("a.log", "live\n");
        rig.pass(10);
        assert_eq!(rig.delivered.len(), count, "{glob}");
        if count == 3 {
            assert_eq!(rig.texts("a.log.1"), ["old 1\n"]);
            assert_eq!(rig.texts("a.log.2"), ["old 2\n"]);
        }
        // An archive moves on in the cascade under its own id.
        rename(&rig, "a.log.2.gz", "a.log.3.gz");
        rename(&rig, "a.log.1.gz", "a.log.2.gz");
        rig.pass(10);
        assert_eq!(rig.delivered.len(), count, "{glob}");
        rig.start();
        rig.pass(10);
        assert_eq!(rig.delivered.len(), count, "{glob}");
    }
}

#[test]
fn a_file_that_is_compressed_under_a_matching_name_keeps_its_id() {
    let mut rig = Rig::new("*.log*");
    rig.append("a.log", "one\n");
    rig.append("a.log.1", "older\n");
    rig.pass(1);
    rename(&rig, "a.log.1", "a.log.2");
    rename(&rig, "a.log", "a.log.1");
    rig.append("a.log", "two\n");
    pack(&rig, "a.log.2");
    rig.pass(90);
    pack(&rig, "a.log.1");
    rig.pass(90);
    assert_eq!(rig.texts("a.log"), ["one\n", "two\n"]);
    assert_eq!(rig.texts("a.log.1"), ["older\n"]);
    assert_eq!(rig.delivered.len(), 3);
}

#[test]
fn an_archive_that_is_not_whole_is_waited_for_and_a_damaged_one_is_said_when_it_goes() {
    let mut rig = Rig::new("*.log");
    let text = lines("one", 20_000);
    rig.append("a.log", &text[..text.len() / 2]);
    rig.round();
    rig.append("a.log", &text[text.len() / 2..]);
    rename(&rig, "a.log", "a.log.1");
    rig.append("a.log", "live\n");
    pack(&rig, "a.log.1");
    let whole = fs::read(rig.path("a.log.1.gz")).expect("read");
    let archive = rig.path("a.log.1.gz");
    // In place, as a slow gzip writes.
    fs::write(&archive, &whole[..100]).expect("cut");
    rig.start();
    rig.pass(5);
    for cut in [whole.len() / 3, whole.len() * 3 / 4, whole.len() - 3] {
        fs::write(&archive, &whole[..cut]).expect("cut");
        rig.pass(5);
        assert!(rig.lost.is_empty(), "it may become whole");
    }
    assert_eq!(
        rig.texts("a.log")[1],
        "live\n",
        "who is live waits for nobody"
    );
    fs::write(&archive, &whole).expect("whole");
    rig.pass(70);
    assert_eq!(rig.texts("a.log")[0], text);

    // The same, but it stays damaged and is deleted.
    rig.append("a.log", &text);
    rig.pass(1);
    rig.append("a.log", &text);
    rename(&rig, "a.log", "a.log.1");
    fs::remove_file(&archive).expect("deleted");
    pack(&rig, "a.log.1");
    let mut damaged = fs::read(&archive).expect("read");
    let end = damaged.len() - 20;
    damaged[end] ^= 0x55;
    fs::write(&archive, &damaged).expect("damaged");
    rig.start();
    rig.pass(10);
    fs::remove_file(&archive).expect("deleted");
    rig.pass(100);
    let damaged = &rig.delivered[&1];
    assert!(damaged.ended, "it will never be whole");
    let came = String::from_utf8_lossy(&damaged.text).into_owned();
    assert!(came.len() > text.len() && came.len() < 2 * text.len() + 5);
}

#[test]
fn a_copy_that_was_made_before_the_last_lines_were_written_is_not_read_again() {
    let mut rig = Rig::new("*.log");
    let (first, late) = (lines("first", 500), lines("late", 5));
    rig.append("a.log", &first);
    rig.pass(1);
    fs::copy(rig.path("a.log"), rig.path("a.log.1")).expect("copied");
    rig.append("a.log", &late);
    rig.pass(1);
    let live = fs::File::options().write(true).open(rig.path("a.log"));
    live.and_then(|live| live.set_len(0)).expect("truncated");
    rig.append("a.log", "next\n");
    rig.pass(90);
    let expected = [first + &late, "next\n".to_owned()];
    assert_eq!(rig.texts("a.log"), expected);
    rig.start();
    rig.pass(30);
    assert_eq!(rig.texts("a.log"), expected);
    rename(&rig, "a.log.1", "a.log.2");
    rig.pass(2);
    pack(&rig, "a.log.2");
    rig.pass(30);
    assert_eq!(rig.texts("a.log"), expected);
    rig.start();
    rig.pass(30);
    assert_eq!(rig.texts("a.log"), expected);
    assert!(rig.lost.is_empty());
    assert_eq!(rig.records.len(), 2, "one in the archive, and the live one");
}

#[test]
fn a_short_copy_is_known_also_when_all_was_read_at_once() {
    for len in [20_000, 100_000, 900_000] {
        let mut rig = Rig::new("*.log");
        let text = lines("line", 20_000);
        rig.append("a.log", &text[..len]);
        fs::copy(rig.path("a.log"), rig.path("copy")).expect("copied");
        rig.append("a.log", &text[len..]);
        rig.pass(1);
        rename(&rig, "copy", "a.log.1");
        cut(&rig, "a.log");
        rig.append("a.log", "next\n");
        rig.pass(90);
        assert_eq!(rig.texts("a.log"), [text, "next\n".to_owned()], "{len}");
    }
}

#[test]
fn a_short_copy_that_is_found_after_its_generation_was_let_go_is_not_read_again() {
    for packed in [false, true] {
        let mut rig = Rig::new("*.log");
        let text = lines("line", 20_000);
        rig.append("a.log", &text[..500_000]);
        fs::copy(rig.path("a.log"), rig.path("copy")).expect("copied");
        rig.append("a.log", &text[500_000..]);
        rig.pass(1);
        cut(&rig, "a.log");
        rig.append("a.log", "next\n");
        rig.pass(18);
        assert!(rig.delivered[&0].ended, "{packed}");
        if packed {
            pack(&rig, "copy");
            rename(&rig, "copy.gz", "a.log.1.gz");
        } else {
            rename(&rig, "copy", "a.log.1");
        }
        rig.pass(30);
        if !packed {
            pack(&rig, "a.log.1");
        }
        rig.pass(30);
        assert_eq!(rig.texts("a.log"), [text, "next\n".to_owned()], "{packed}");
        rig.start();
        rig.pass(30);
        assert_eq!(rig.texts("a.log").len(), 2, "{packed}");
    }
}

#[test]
fn an_archive_that_is_written_to_while_it_is_looked_into_is_looked_into_again() {
    let mut rig = Rig::new("*.log");
    let text = lines("line", 20_000);
    rig.append("a.log", &text[..1000]);
    rig.pass(1);
    rig.append("a.log", &text[1000..500_000]);
    fs::copy(rig.path("a.log"), rig.path("copy")).expect("copied");
    pack(&rig, "copy");
    let archive = fs::read(rig.path("copy.gz")).expect("read");
    let modified = fs::metadata(rig.path("copy.gz")).and_then(|found| found.modified());
    rig.append("a.log", &text[500_000..]);
    rig.pass(1);
    cut(&rig, "a.log");
    rig.append("a.log", "next\n");
    rig.pass(1);
    // Opened when half of it was written; the rest comes before it is unpacked, and its time last.
    fs::write(rig.path("a.log.1.gz"), &archive[..archive.len() / 2]).expect("written");
    rig.scan();
    fs::write(rig.path("a.log.1.gz"), &archive).expect("written");
    let file = fs::File::options().write(true).open(rig.path("a.log.1.gz"));
    let set = file.and_then(|file| file.set_modified(modified.expect("a time")));
    set.expect("set");
    rig.scan();
    rig.work();
    rig.pass(30);
    rename(&rig, "a.log.1.gz", "a.log.2.gz");
    rig.pass(60);
    assert_eq!(rig.texts("a.log"), [text, "next\n".to_owned()]);
}

#[test]
fn an_archive_that_was_made_before_the_last_lines_were_written_is_not_read_again() {
    let mut rig = Rig::new("*.log");
    let (first, late) = (lines("first", 500), lines("late", 5));
    rig.append("a.log", &first);
    rig.pass(1);
    rename(&rig, "a.log", "a.log.1");
    // gzip is done before the writer has heard of the rotation.
    fs::copy(rig.path("a.log.1"), rig.path("copy")).expect("copied");
    pack(&rig, "copy");
    rig.append("a.log", "next\n");
    rig.pass(1);
    rig.append("a.log.1", &late);
    rig.pass(1);
    rename(&rig, "copy.gz", "a.log.1.gz");
    fs::remove_file(rig.path("a.log.1")).expect("deleted");
    rig.pass(90);
    let expected = [first + &late, "next\n".to_owned()];
    assert_eq!(rig.texts("a.log"), expected);
    rig.start();
    rig.pass(30);
    assert_eq!(rig.texts("a.log"), expected);
    assert!(rig.lost.is_empty());
}

#[test]
fn a_generation_ends_also_when_its_successor_was_seen_late() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", "one\n");
    rig.pass(1);
    rename(&rig, "a.log", "a.log.1");
    rig.pass(1);
    rig.append("a.log", "two\n");
    rig.pass(70);
    assert_eq!(rig.texts("a.log"), ["one\n", "two\n"]);
    assert!(rig.delivered[&0].ended && !rig.delivered[&1].ended);
    assert_eq!(rig.open_files(), 1);
}

#[test]
fn what_was_not_read_of_a_generation_comes_before_the_next_one() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", "one\n");
    rig.scan();
    rig.append("a.log", &lines("late", 50_000));
    rename(&rig, "a.log", "a.log.1");
    rig.scan();
    rig.append("a.log", "two\n");
    rig.scan();
    let expected = "one\n".to_owned() + &lines("late", 50_000);
    while rig.delivered.len() < 2 {
        assert!(rig.turn(), "the next one comes");
        rig.receive();
    }
    assert_eq!(
        rig.texts("a.log")[0],
        expected,
        "all of it, before the next"
    );
}
