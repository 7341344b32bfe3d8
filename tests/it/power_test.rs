//! The power fails: the file system of the state directory and the spool stops at some moment and
//! loses all that was not made durable. What was said to be spooled is there afterwards. And the kernel
//! makes that file system read-only, as it does when it finds an error in it.

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

    fn remount(&self, option: &str) {
        let option = format!("remount,{option}");
        run(Command::new("mount")
            .args(["-o", &option])
            .arg(&self.mounted));
    }

    /// From now on every call fails, and what was not durable is gone.
    fn cut_power(&self) {
        let mut python = Command::new("python3");
        run(python.args(["-c", SHUTDOWN]).arg(&self.mounted));
    }

    /// Its journal is replayed. In a copy: a mount namespace that another test made meanwhile may hold
    /// on to the file system that was shut down, and the same image would be that one still.
    fn restore_power(&self) {
        run(Command::new("umount").arg(&self.mounted));
        let copy = self.image.with_extension("copy");
        run(Command::new("cp")
            .arg("--sparse=always")
            .args([&self.image, &copy]));
        fs::rename(&copy, &self.image).unwrap();
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

/// Whether all that was said to be spooled is there after a power cut, of an agent for which one kind of
/// call does nothing and says that it has.
fn survives(broker: &Broker, idle: &str) -> bool {
    let mut trial = Trial::new(broker);
    let state = trial.agent.state_dir();
    let disk = Disk::new(&trial.path("disk.img"), &state);
    let (trace, inject) = (format!("trace={idle}"), format!("inject={idle}:retval=0"));
    let options = ["-o", "/dev/null", "-e", &trace, "-e", &inject];
    trial.tracers.push(options.map(str::to_owned).into());
    trial.start();
    let path = trial.write();
    trial.advance("all is in the spool", |status| is_spooled(status, &path));
    let before = spooled_bytes(&state);
    disk.cut_power();
    trial.agent.kill9();
    disk.restore_power();
    let verified = trial.agent.cli(&["spool", "verify"]);
    verified.status.success() && spooled_bytes(&state) == before
}

/// Else the test above would say nothing.
#[test]
fn a_power_cut_finds_out_an_agent_that_syncs_nothing() {
    let broker = Broker::shared();
    // Of the spool no call is taken away with this one.
    assert!(survives(broker, "setpriority"));
    assert!(!survives(broker, "fdatasync"));
}

/// A running agent has files open that keep others from making the file system read-only: the kernel
/// alone can. `abort` lets it find an error (ext4(5)), after which only a new mount can be written.
#[test]
fn on_a_file_system_that_turns_read_only_nothing_is_lost_and_a_start_says_why_it_ends() {
    let broker = Broker::shared();
    let mut trial = Trial::new(broker);
    let disk = Disk::new(&trial.path("disk.img"), &trial.agent.state_dir());
    trial.start();
    let first = trial.write();
    trial.advance("all is in the spool", |status| is_spooled(status, &first));
    fs::remove_file(&first).unwrap();
    // A file that is known: state.db takes no new ones then.
    let second = trial.write();
    trial.advance("all is in the spool", |status| is_spooled(status, &second));
    disk.remount("abort");
    trial.extend(&second);
    let refuses = "the spool cannot be written; files are not read until it can";
    trial.agent.wait_for_log(refuses, MINUTE);
    wait_for(MINUTE, "it was tried again and again", || {
        let errors = ["EROFS", "EIO"].iter().filter_map(|error| {
            trial.metric(&format!(
                "fantail_io_errors_total{{stage=\"spool\",error=\"{error}\"}}"
            ))
        });
        errors.sum::<u64>() > 3
    });
    // The file system that found the error is read-only from then on.
    let log = trial.agent.stderr();
    let told: Vec<&str> = log.lines().filter(|line| line.contains(refuses)).collect();
    let of = |error: &str| told.iter().filter(|line| line.contains(error)).count();
    let (first, then) = (of("Input/output error"), of("Read-only file system"));
    assert!(first <= 1 && then <= 1, "{told:?}");
    assert_eq!(told.len(), first + then, "{told:?}");
    trial.agent.kill9();
    disk.restore_power();

    disk.remount("ro");
    trial.agent.start();
    let status = trial.agent.wait(MINUTE);
    let log = trial.agent.stderr();
    assert_eq!(status.code(), Some(74), "{log}");
    assert_eq!(log.matches("Read-only file system").count(), 1, "{log}");
    disk.remount("rw");
    trial.gate.open();
    trial.start();
    let last = trial.write();
    trial.advance("all is confirmed", |status| is_confirmed(status, &last));
    assert!(trial.agent.term().status.success());
    trial.assert_queues_hold_all(broker);
}
