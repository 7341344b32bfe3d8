//! Deleted files over the end of the process: their descriptors are handed to the service manager,
//! which these tests play, and come back with the next start.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

use crate::support::agent::{Agent, Config};
use crate::support::amqp::Consumer;
use crate::support::broker::Broker;
use crate::support::oracle::Ledger;
use crate::support::wait::wait_for;
use crate::support::writers::{append, numbered_lines};

const MINUTE: Duration = Duration::from_secs(60);

/// A service manager's socket, and its store of descriptors.
struct Manager {
    socket: UnixDatagram,
    store: Vec<(String, OwnedFd)>,
    /// How often each name was let go.
    removed: HashMap<String, u32>,
}

impl Manager {
    fn hear(&mut self) {
        while let Some((text, files)) = self.next() {
            let lines: HashMap<&str, &str> = text
                .lines()
                .filter_map(|line| line.split_once('='))
                .collect();
            let name = || lines["FDNAME"].to_owned();
            if lines.contains_key("FDSTORE") {
                assert_eq!(lines.get("FDPOLL"), Some(&"0"), "{text}");
                assert_eq!(files.len(), 1, "{text}");
                self.store
                    .extend(files.into_iter().map(|file| (name(), file)));
            } else if lines.contains_key("FDSTOREREMOVE") {
                *self.removed.entry(name()).or_default() += 1;
                self.store.retain(|(stored, _)| *stored != name());
            }
        }
    }

    fn next(&self) -> Option<(String, Vec<OwnedFd>)> {
        let mut buffer = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut buffer)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
        );
        let received = received.ok()?;
        assert!(!received.flags.contains(ReturnFlags::CTRUNC));
        let text = String::from_utf8(buffer[..received.bytes].to_vec()).unwrap();
        let files = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        });
        Some((text, files.flatten().collect()))
    }

    fn wait_until_stored(&mut self, count: usize) {
        wait_for(MINUTE, "descriptors are stored", || {
            self.hear();
            self.store.len() == count
        });
    }

    fn wait_until_removed(&mut self, name: &str) {
        wait_for(MINUTE, &format!("{name} is let go"), || {
            self.hear();
            self.removed.contains_key(name)
        });
    }
}

/// An agent under such a manager, and its one log.
struct Kept {
    agent: Agent,
    manager: Manager,
    log: PathBuf,
    content: Vec<u8>,
    directory: tempfile::TempDir,
}

impl Kept {
    fn new(broker: &Broker, change: impl FnOnce(Config) -> Config) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("logs")).unwrap();
        let config = Config::new(&broker.url())
            .set("broker", "max_in_flight = \"256KiB\"")
            .set("broker", "check_interval = \"500ms\"")
            .set("batch", "max_bytes = \"32KiB\"")
            .source_with(
                "app",
                &directory.path().join("logs/*.log"),
                "poll_interval = \"100ms\"",
            );
        let mut agent = Agent::new(directory.path(), change(config));
        let path = directory.path().join("notify");
        let manager = Manager {
            socket: UnixDatagram::bind(&path).unwrap(),
            store: Vec::new(),
            removed: HashMap::new(),
        };
        agent.set_environment("NOTIFY_SOCKET", path.to_str().unwrap());
        Self {
            agent,
            manager,
            log: directory.path().join("logs/app.log"),
            content: numbered_lines("line", 40_000),
            directory,
        }
    }

    /// Far more than window and spool take.
    fn with_full_spool(broker: &Broker) -> Self {
        let mut kept = Self::new(broker, |config| {
            config
                .set("spool", "max_bytes = \"2MiB\"")
                .set("spool", "segment_bytes = \"512KiB\"")
        });
        kept.agent.start();
        kept.write_and_delete();
        kept.agent.wait_for_log("the spool is full", MINUTE);
        kept.manager.wait_until_stored(1);
        kept
    }

    fn write_and_delete(&mut self) {
        append(&self.log, &self.content);
        wait_for(MINUTE, "the agent has the file open", || {
            self.agent.open_paths().contains(&self.log)
        });
        fs::remove_file(&self.log).unwrap();
    }

    /// A start with these descriptors, from number 3 on.
    fn start_with(&mut self, files: &[(&str, &OwnedFd)]) {
        let own = process::id();
        let mut before = String::from("export LISTEN_PID=$$");
        for (index, (_, file)) in files.iter().enumerate() {
            let (number, file) = (index + 3, file.as_raw_fd());
            before = format!("exec {number}<>/proc/{own}/fd/{file}; {before}");
        }
        let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
        let (count, names) = (files.len(), names.join(":"));
        self.agent.set_before(&format!(
            "{before} LISTEN_FDS={count} LISTEN_FDNAMES='{names}'"
        ));
        self.agent.start();
        // Other commands of the agent's get none.
        self.agent.set_before("true");
    }

    fn deleted_and_open(&self) -> usize {
        let paths = self.agent.open_paths();
        let deleted = |path: &&PathBuf| path.to_string_lossy().ends_with(".log (deleted)");
        paths.iter().filter(deleted).count()
    }

    fn assert_all_arrives(&self, broker: &Broker) {
        let path = self.log.to_str().unwrap();
        for queue in ["archive", "alerting", "search"] {
            wait_for(MINUTE, "the queue is there", || {
                broker.amqp().queue_exists(queue)
            });
            let mut consumer = Consumer::open(&broker.url(), queue);
            let mut ledger = Ledger::new();
            ledger.take_until(&mut consumer, 2 * MINUTE, "every byte", |ledger| {
                ledger.has_covered(path, self.content.len())
            });
            ledger.assert_clean();
            ledger.assert_no_repeats();
            ledger.assert_holds_file(path, &self.content);
        }
        assert_eq!(self.agent.lost_bytes(), 0);
    }
}

#[test]
fn a_deleted_file_that_was_not_read_survives_a_kill() {
    let mut broker = Broker::absent();
    let mut kept = Kept::with_full_spool(&broker);
    kept.agent.kill9();
    kept.manager.hear();
    let (name, file) = kept.manager.store.remove(0);
    kept.start_with(&[(&name, &file)]);
    kept.agent.wait_for_log("deleted log file resumed", MINUTE);
    drop(file);
    broker.start_again();
    kept.assert_all_arrives(&broker);
    assert_eq!(kept.deleted_and_open(), 1);
    assert!(kept.agent.term().status.success());
    kept.manager.hear();
    assert!(kept.manager.store.is_empty(), "it was never stored twice");
}

#[test]
fn what_was_planted_in_the_store_is_let_go_and_what_belongs_there_is_read() {
    let mut broker = Broker::absent();
    let mut kept = Kept::with_full_spool(&broker);
    kept.agent.kill9();
    kept.manager.hear();
    let (name, file) = kept.manager.store.remove(0);
    let mut planted = tempfile::tempfile_in(kept.directory.path()).unwrap();
    planted.write_all(b"line 0\nnot for the queues\n").unwrap();
    let planted = OwnedFd::from(planted);
    let null = OwnedFd::from(
        File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .unwrap(),
    );
    let unknown = "0123456789abcdef0123456789abcdef";
    kept.start_with(&[
        ("garbage", &planted),
        (unknown, &null),
        (&name, &planted),
        (&name, &file),
    ]);
    for useless in ["garbage", unknown] {
        kept.manager.wait_until_removed(useless);
    }
    let log = kept.agent.stderr();
    for reason in [
        "is no log file's",
        "not a regular file",
        "it is not of a log file that is known",
    ] {
        assert!(log.contains(reason), "{reason} in\n{log}");
    }
    broker.start_again();
    kept.assert_all_arrives(&broker);
}

#[test]
fn a_stop_beside_a_broker_that_hangs_spools_the_rest_of_a_deleted_file() {
    let broker = Broker::start();
    let mut kept = Kept::new(&broker, |config| {
        config.set("agent", "shutdown_timeout = \"16s\"")
    });
    kept.agent.start();
    kept.agent
        .wait_for_log("exchange and queues are there", MINUTE);
    // It takes nothing, and nobody knows yet that it does not.
    broker.pause();
    kept.write_and_delete();
    kept.manager.wait_until_stored(1);
    assert!(kept.agent.term().status.success());
    kept.manager.hear();
    kept.manager.store.clear();
    broker.resume();
    kept.agent.start();
    let path = kept.log.to_str().unwrap();
    let mut ledger = Ledger::new();
    let mut consumer = Consumer::open(&broker.url(), "archive");
    ledger.take_until(&mut consumer, 2 * MINUTE, "every byte", |ledger| {
        ledger.has_covered(path, kept.content.len())
    });
    ledger.assert_clean();
    ledger.assert_holds_file(path, &kept.content);
    assert_eq!(kept.agent.lost_bytes(), 0);
}

#[test]
fn descriptors_that_were_handed_to_another_process_are_not_touched() {
    let mut kept = Kept::new(&Broker::absent(), |config| config);
    let path = kept.directory.path().join("another's");
    fs::write(&path, "").unwrap();
    kept.agent.set_before(&format!(
        "exec 3<\"{}\"; export LISTEN_PID=1 LISTEN_FDS=1 LISTEN_FDNAMES=garbage",
        path.display()
    ));
    kept.agent.start();
    kept.agent.wait_for_status("it runs", |_| true);
    assert!(kept.agent.open_paths().contains(&path));
    kept.manager.hear();
    assert!(kept.manager.removed.is_empty());
}
