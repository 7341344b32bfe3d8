//! Each configuration of `tests/data/broken` is refused in the words that stand beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn broken() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/broken")
}

/// `fantail check` in a directory of its own, so that the messages have short paths.
fn check(directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fantail"))
        .args(["check", "--config", "fantail.toml"])
        .current_dir(directory)
        .env_remove("FANTAIL_LOG")
        .env_remove("FANTAIL_TEST_UNSET")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// The configuration called `name`, and what belongs to it in `conf.d`.
fn copied(name: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let from = broken();
    fs::copy(
        from.join(format!("{name}.toml")),
        directory.path().join("fantail.toml"),
    )
    .unwrap();
    if let Ok(added) = fs::read_dir(from.join(format!("{name}.conf.d"))) {
        fs::create_dir(directory.path().join("conf.d")).unwrap();
        for entry in added {
            let entry = entry.unwrap();
            let to = directory.path().join("conf.d").join(entry.file_name());
            fs::copy(entry.path(), to).unwrap();
        }
    }
    directory
}

fn names() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(broken())
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            Some(name.strip_suffix(".toml")?.to_owned())
        })
        .collect();
    names.sort();
    names
}

/// With `FANTAIL_BLESS=1` the expectations are written anew; read what changed.
#[test]
fn every_broken_configuration_is_refused_in_the_words_beside_it() {
    let bless = std::env::var_os("FANTAIL_BLESS").is_some();
    let mut different = Vec::new();
    let names = names();
    assert!(names.len() >= 20);
    for name in names {
        let output = check(copied(&name).path());
        assert_eq!(output.status.code(), Some(78), "{name}");
        assert!(output.stdout.is_empty(), "{name} has results");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!told.contains("s3cret"), "{name} shows a password:\n{told}");
        let beside = broken().join(format!("{name}.expected"));
        if bless {
            fs::write(&beside, &told).unwrap();
        } else if fs::read_to_string(&beside).ok().as_deref() != Some(&told) {
            different.push(format!("{name}:\n{told}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn five_mistakes_in_one_file_are_told_with_five_places() {
    let output = check(copied("five-mistakes").path());
    let told = String::from_utf8(output.stderr).unwrap();
    let places: Vec<&str> = told
        .lines()
        .filter_map(|line| line.strip_prefix("error: fantail.toml:"))
        .collect();
    assert_eq!(places.len(), 5, "{told}");
    assert!(told.contains("5 problems"), "{told}");
}

#[test]
fn a_configuration_that_is_not_there_is_a_bad_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let output = check(directory.path());
    assert_eq!(output.status.code(), Some(78));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.starts_with("error: fantail.toml: cannot be read: No such file"),
        "{told}"
    );
}
