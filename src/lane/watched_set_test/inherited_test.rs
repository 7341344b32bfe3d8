//! Deleted files over a crash: who keeps their descriptors keeps their lines.

use std::fs::File;
use std::io::Seek as _;

use super::*;

impl Rig {
    /// A lane whose descriptors of deleted files outlive it.
    fn kept(include: &str) -> Self {
        let mut rig = Self::new(include);
        rig.keeps = true;
        rig
    }

    /// A process that is killed, and another one.
    fn crash(&mut self) {
        self.driven.start();
        self.scan();
    }
}

#[test]
fn what_was_not_read_of_a_deleted_file_comes_after_a_crash_in_its_place() {
    let mut rig = Rig::kept("*.log");
    rig.append("a.log", "one\n");
    rig.round();
    rig.append("a.log", "two\nthree\n");
    fs::remove_file(rig.path("a.log")).expect("deleted");
    rig.append("a.log", "of the next generation\n");
    rig.scan();
    assert_eq!(rig.kept.len(), 1);
    rig.crash();
    rig.work();
    rig.pass(70);
    let texts = ["one\ntwo\nthree\n", "of the next generation\n"];
    assert_eq!(rig.texts("a.log"), texts);
    assert!(rig.lost.is_empty());
    assert!(rig.delivered[&0].ended);
    assert!(rig.kept.is_empty(), "nobody needs it any more");
    assert_eq!(rig.open_files(), 1);
}

#[test]
fn a_writer_that_goes_on_in_a_deleted_file_is_followed_over_any_number_of_crashes() {
    let mut rig = Rig::kept("*.log");
    rig.append("a.log", "one\n");
    rig.round();
    let file = fs::OpenOptions::new().append(true).open(rig.path("a.log"));
    let mut file = file.expect("open");
    fs::remove_file(rig.path("a.log")).expect("deleted");
    rig.scan();
    for _ in 0..3 {
        file.write_all(b"more\n").expect("written");
        rig.crash();
        rig.round();
    }
    assert_eq!(rig.texts("a.log"), ["one\nmore\nmore\nmore\n"]);
    drop(file);
    rig.pass(70);
    assert!(rig.kept.is_empty());
}

#[test]
fn what_is_confirmed_to_its_end_is_not_kept_any_longer() {
    let mut rig = Rig::kept("*.log");
    for name in ["a.log", "b.log"] {
        rig.append(name, &"a line\n".repeat(2000));
    }
    rig.round();
    for name in ["a.log", "b.log"] {
        rig.append(name, "the last\n");
        fs::remove_file(rig.path(name)).expect("deleted");
    }
    rig.scan();
    assert_eq!(rig.kept.len(), 2);
    rig.pass(70);
    assert!(rig.kept.is_empty());
    assert_eq!(rig.open_files(), 0);
}

#[test]
fn a_descriptor_that_is_not_of_the_file_that_is_known_is_let_go() {
    let mut rig = Rig::kept("*.log");
    rig.append("a.log", "one\n");
    rig.round();
    rig.append("a.log", "two\n");
    fs::remove_file(rig.path("a.log")).expect("deleted");
    rig.scan();
    let id = *rig.kept.keys().next().expect("kept");
    let other = rig.path("secret");
    fs::write(&other, "one\nof another file\n").expect("written");
    let named = File::open(&other).expect("open");
    let nameless = named.try_clone().expect("a descriptor");
    rig.kept.insert(id, named);
    rig.crash();
    assert!(rig.kept.is_empty(), "it has a name");

    fs::remove_file(&other).expect("deleted");
    let unknown = FileId([7; 16]);
    for id in [id, unknown] {
        let copy = nameless.try_clone().expect("a descriptor");
        rig.kept.insert(id, copy);
    }
    drop(nameless);
    rig.crash();
    assert!(rig.kept.is_empty(), "it is another file, or of nobody");
    let (read, write) = io::pipe().expect("a pipe");
    for end in [std::os::fd::OwnedFd::from(read), write.into()] {
        rig.kept.insert(id, File::from(end));
        rig.crash();
        assert!(rig.kept.is_empty(), "it is no file");
    }
    rig.pass(20);
    assert_eq!(rig.texts("a.log"), ["one\n"]);
    assert_eq!(rig.open_files(), 0);
}

#[test]
fn what_was_cut_and_written_anew_meanwhile_comes_as_another_generation() {
    let mut rig = Rig::kept("*.log");
    rig.append("a.log", "one\n");
    rig.round();
    let file = fs::OpenOptions::new().write(true).open(rig.path("a.log"));
    let mut file = file.expect("open");
    fs::remove_file(rig.path("a.log")).expect("deleted");
    rig.scan();
    assert_eq!(rig.kept.len(), 1);
    file.set_len(0).expect("cut");
    file.rewind().expect("at the beginning");
    file.write_all(b"other lines\n").expect("written");
    rig.crash();
    drop(file);
    rig.pass(70);
    assert!(rig.kept.is_empty());
    assert_eq!(rig.texts("a.log"), ["one\n", "other lines\n"]);
}
