//! Reloads: what was handed over stays, what was only read is read again, and what no source wants is
//! seen through.

use super::*;

#[test]
fn what_is_only_read_is_read_again_under_the_new_settings_and_nothing_comes_twice() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", "one\ntwo and a ");
    rig.scan();
    rig.work();
    rig.treatment.labels = "{\"v\":2}".to_owned();
    rig.reload(true, true);
    rig.receive();
    rig.append("a.log", "half\n");
    rig.pass(2);
    assert_eq!(rig.texts("a.log"), ["one\ntwo and a half\n"]);
    let record = rig.records.values().next().expect("known");
    assert_eq!(record.confirmed.offset, 19);
}

#[test]
fn what_is_open_is_not_touched_where_nothing_changed() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", "one\ntwo and a ");
    rig.round();
    let id = *rig.records.keys().next().expect("known");
    let now = rig.now;
    rig.reload(true, false);
    rig.receive();
    assert_eq!(rig.lane().tail.get_mut(id).map(|file| file.source), Some(0));
    assert_eq!(
        rig.lane().tail.read_to(id),
        Some(14),
        "what is held is held"
    );
    rig.lane().step(now);
    rig.append("a.log", "half\n");
    rig.pass(1);
    assert_eq!(rig.texts("a.log"), ["one\ntwo and a half\n"]);
}

#[test]
fn a_source_that_goes_is_seen_through_and_goes_on_where_it_was_when_it_comes_back() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", "one\n");
    rig.scan();
    rig.work();
    rig.reload(false, false);
    rig.receive();
    rig.append("a.log", "two\n");
    rig.scan();
    rig.work();
    assert_eq!(rig.texts("a.log"), ["one\n"]);
    assert_eq!(rig.open_files(), 1, "something is out of it");
    rig.confirm();
    assert_eq!(rig.open_files(), 0);
    // For an hour nobody looks for it, and it is remembered.
    rig.pass(3600);
    assert_eq!(rig.records.len(), 1);
    rig.reload(true, false);
    rig.receive();
    rig.pass(2);
    assert_eq!(rig.texts("a.log"), ["one\ntwo\n"]);
    assert!(rig.lost.is_empty());
}

#[test]
fn a_source_that_comes_back_at_once_goes_on_although_nothing_is_confirmed() {
    let mut rig = Rig::new("*.log");
    for round in 0..50 {
        rig.append("a.log", &format!("{round}\nand "));
        rig.scan();
        rig.work();
        rig.reload(false, false);
        rig.receive();
        rig.work();
        if round % 7 == 0 {
            rig.confirm();
        }
        rig.reload(true, round % 3 == 0);
        rig.receive();
    }
    rig.append("a.log", "the last\n");
    rig.pass(3);
    let rounds: String = (0..50).map(|round| format!("{round}\nand ")).collect();
    assert_eq!(rig.texts("a.log"), [rounds + "the last\n"]);
    assert_eq!(rig.records.len(), 1);
}

#[test]
fn what_a_queue_lost_is_sent_again_also_when_its_source_is_gone() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", "one\n");
    rig.scan();
    rig.work();
    rig.reload(false, false);
    rig.receive();
    rig.append("a.log", "two\n");
    // A topology check failed: back to what is confirmed.
    let file = *rig.records.keys().next().expect("known");
    rig.numbers.clear();
    rig.delivered.clear();
    let rewind = Rewind {
        file,
        epoch: 1,
        to: rig.records[&file].confirmed,
    };
    rig.tell(Input::Rewind(vec![rewind]));
    rig.work();
    let texts = rig.texts("a.log");
    assert!(texts[0].starts_with("one\n"), "{texts:?}");
    rig.confirm();
    assert_eq!(rig.open_files(), 0);
}

#[test]
fn a_deleted_file_of_a_source_that_is_gone_is_neither_kept_nor_mourned() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", "one\n");
    rig.round();
    rig.reload(false, false);
    rig.receive();
    fs::remove_file(rig.path("a.log")).expect("deleted");
    assert_eq!(rig.open_files(), 0);
    rig.now += Duration::from_secs(8 * 24 * 3600);
    rig.scan();
    assert!(rig.records.is_empty());
    assert!(rig.lost.is_empty());
}

#[test]
fn what_discovery_found_before_it_knew_of_a_reload_counts_for_nothing() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", "one\n");
    let scan = rig.look();
    rig.reload(false, false);
    rig.tell(Input::Scan(scan));
    rig.work();
    assert_eq!(rig.open_files(), 0);
}
