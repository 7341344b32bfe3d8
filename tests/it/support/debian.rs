//! Owns root file systems of other Debian releases, made once for a user and kept, and the way into
//! them. No program that runs in one can write to it.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::leash::Leash;
use super::process::Process;

/// Half a minute on two idle cores with a near mirror.
const MAKING: Duration = Duration::from_secs(600);

/// Runs in a mount namespace of its own, which ends with its last process, and becomes the program.
/// `$1` is the root file system, `$2` the directory that stands at `INSIDE` in it.
const ENTER: &str = r#"
set -e
mount --bind "$1" "$1"
mount --rbind /proc "$1/proc"
mount --rbind /dev "$1/dev"
mount --bind "$2" "$1/srv"
mount -o remount,bind,ro "$1"
root=$1
shift 2
exec chroot "$root" "$@"
"#;

/// Where a program in the root file system finds the directory it was given.
pub const INSIDE: &str = "/srv";

/// A Debian release with some packages and what those need.
pub struct Root {
    directory: PathBuf,
}

impl Root {
    /// The one in the user's cache, made there first where it is missing or not whole. Whoever comes
    /// meanwhile, from this process or another, waits.
    pub fn with(suite: &str, package: &str) -> Self {
        Self::of(suite, package, package)
    }

    /// One that boots, with what packages of services expect.
    pub fn booting(suite: &str) -> Self {
        Self::of(suite, "systemd", "systemd-sysv,dbus,adduser,procps")
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// `packages` are separated by commas.
    fn of(suite: &str, name: &str, packages: &str) -> Self {
        let cache = cache().join(format!("{suite}-{name}"));
        fs::create_dir_all(&cache).unwrap();
        let lock = OpenOptions::new()
            .create(true)
            .append(true)
            .open(cache.join("lock"))
            .unwrap();
        lock.lock().unwrap();
        let root = Self {
            directory: cache.join("root"),
        };
        let recipe = recipe(suite, packages);
        if !root.is_made_by(&recipe) {
            root.make(&cache, &recipe);
        }
        root
    }

    /// `program` in this root file system, with `directory` at `INSIDE`. The process that is spawned
    /// becomes the program.
    pub fn command(&self, program: &str, directory: &Path) -> Command {
        let mut command = Command::new("unshare");
        command.arg("--mount");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command
            .args(["/bin/sh", "-c", ENTER, "enter"])
            .args([&self.directory, directory])
            .arg(program);
        command
    }

    /// The recipe is put there last.
    fn is_made_by(&self, recipe: &[String]) -> bool {
        fs::read_to_string(self.recipe_path()).is_ok_and(|found| found == recipe.join("\n"))
    }

    fn make(&self, cache: &Path, recipe: &[String]) {
        for leftover in [&self.directory, &cache.join("temporary")] {
            if leftover.exists() {
                fs::remove_dir_all(leftover).unwrap();
            }
            fs::create_dir(leftover).unwrap();
        }
        let (temporary, archive) = (cache.join("temporary"), cache.join("temporary/root.tar"));
        // By way of an archive: whoever is not root owns then what they unpack.
        let mut bootstrap = Command::new("mmdebstrap");
        bootstrap
            .args(recipe)
            .arg(&archive)
            .env("TMPDIR", &temporary);
        run("mmdebstrap", &mut bootstrap, cache);
        let mut unpack = Command::new("tar");
        unpack
            .arg("--extract")
            .arg("--file")
            .arg(&archive)
            .arg("--directory")
            .arg(&self.directory)
            .arg("--exclude=./dev/*");
        run("tar", &mut unpack, cache);
        fs::remove_dir_all(temporary).unwrap();
        fs::write(self.recipe_path(), recipe.join("\n")).unwrap();
    }

    fn recipe_path(&self) -> PathBuf {
        self.directory.join("recipe")
    }
}

/// Arguments of mmdebstrap, but for the archive to make.
fn recipe(suite: &str, packages: &str) -> Vec<String> {
    vec![
        "--variant=minbase".to_owned(),
        format!("--include={packages}"),
        "--customize-hook=echo 127.0.0.1 localhost >\"$1/etc/hosts\"".to_owned(),
        suite.to_owned(),
    ]
}

fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(std::env::home_dir()?.join(".cache")));
    base.expect("the user has a home").join("fantail-tests")
}

/// Runs it to its end; it does not outlive the test.
fn run(name: &'static str, command: &mut Command, cache: &Path) {
    let said = cache.join("log");
    let log = File::create(&said).unwrap();
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    let mut leash = Leash::on_processes();
    let mut process = Process::spawn(name, command);
    leash.hold(&[process.id()]);
    let status = process.wait(MAKING);
    // Its group is gone, and its number may be another's soon.
    leash.hold(&[]);
    assert!(
        status.success(),
        "{name}: {status}\n{}",
        fs::read_to_string(said).unwrap_or_default()
    );
}
