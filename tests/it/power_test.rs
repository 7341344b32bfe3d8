//! The power fails: the file system of the state directory and the spool stops at some moment and
//! loses all that was not made durable. What was said to be spooled is there afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::broker::Broker;
use crate::support::is_all;
use crate::support::random::Random;
use crate::support::trial::{Trial, is_confirmed, is_spooled};
use crate::support::wait::wait_for;

const MINUTE: Duration = Duration::from_secs(60);
/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH` (fs/ext4/ext4.h): the journal is not written
/// either.
const SHUTDOWN: &str = "import fcntl, os, struct, sys\n\
    fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";

/// An ext4 file system in a file, mounted.
struct Disk {
    image: PathBuf,
    mounted: PathBuf,
}

impl Disk {
    fn new(image: &Path, mounted: &Path) -> Self {
        fs::create_dir(mounted).unwrap();
        let disk = Self {
            image: image.to_owned(),
            mounted: mounted.to_owned(),
        };
        run(Command::new("truncate").args(["-s", "64M"]).arg(image));
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image));
        disk.mount();
        run(Command::new("chmod").arg("700").arg(mounted));
        disk
    }

    fn mount(&self) {
        let mut mount = Command::new("mount");
        run(mount
            .args(["-o", "loop"])
            .arg(&self.image)
            .arg(&self.mounted));
    }

    /// From now on every call fails, and what was not durable is gone.
    fn cut_power(&self) {
        let mut python = Command::new("python3");
        run(python.args(["-c", SHUTDOWN]).arg(&self.mounted));
    }

    /// Its journal is replayed.
    fn restore_power(&self) {
        run(Command::new("umount").arg(&self.mounted));
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.mounted).status();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// Bytes of all segments.
fn spooled_bytes(state: &Path) -> u64 {
    let entries = fs::read_dir(state.join("spool")).into_iter().flatten();
    let lengths = entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()));
    lengths.sum()
}

/// The power fails while one file goes to the spool, after the one before was safe there and was
/// deleted, and again while the spool is sent.
fn power_fails(broker: &Broker, seed: u64) {
    let mut random = Random::new(seed);
    let mut trial = Trial::new(broker);
    let state = trial.agent.state_dir();
    let disk = Disk::new(&trial.path("disk.img"), &state);
    trial.start();
    let first = trial.write();
    trial.advance("all is in the spool", |status| is_spooled(status, &first));
    fs::remove_file(&first).unwrap();
    let before = spooled_bytes(&state);

    let second = trial.write();
    let moment = before + random.below(before as usize) as u64;
    wait_for(MINUTE, "some of the next is spooled", || {
        spooled_bytes(&state) >= moment
    });
    fail(&mut trial, &disk);
    trial.advance("all is in the spool", |status| is_spooled(status, &second));
    fs::remove_file(&second).unwrap();
    // What is safe is so at once.
    fail(&mut trial, &disk);

    trial.gate.open();
    let third = trial.write();
    let moment = random.below(40) as u32;
    wait_for(MINUTE, "some of the spool is sent", || {
        let sent = broker.amqp().message_count(&trial.queues[0]);
        sent.is_some_and(|sent| sent >= moment)
    });
    fail(&mut trial, &disk);
    trial.advance("all is confirmed", |status| is_confirmed(status, &third));
    assert!(trial.agent.term().status.success());
    trial.assert_queues_hold_all(broker);
    let names = fs::read_dir(&state).unwrap();
    let mut names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(
        !names.any(|name| name.contains("damaged")),
        "state.db was set aside"
    );
}

fn fail(trial: &mut Trial, disk: &Disk) {
    disk.cut_power();
    trial.agent.kill9();
    disk.restore_power();
    trial.start();
}

#[test]
fn after_a_power_cut_everything_that_was_said_to_be_spooled_is_there() {
    let broker = Broker::shared();
    let mut random = Random::from_environment();
    for _ in 0..if is_all() { 60 } else { 3 } {
        power_fails(broker, random.next());
    }
}
