//! The configurations of `config/` are what their comments say they are.

use super::{load_with, raw};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

fn loaded(path: &Path) -> Result<super::Config, String> {
    let environment = |name: &str| (name == "RABBITMQ_PASSWORD").then(|| "s3cret".to_owned());
    load_with(path, &environment).map_err(|error| error.to_string())
}

fn load_text(text: &str) -> Result<super::Config, String> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("fantail.toml");
    std::fs::write(&path, text).expect("written");
    loaded(&path)
}

#[test]
fn the_full_file_holds_the_defaults() {
    let full = loaded(&directory().join("fantail.toml")).expect("valid");
    let mut bare = load_text("[[source]]\ninclude = [\"/var/log/app/*.log\"]\n").expect("valid");
    (bare.path, bare.loaded_at) = (full.path.clone(), full.loaded_at);
    assert_eq!(format!("{full:#?}"), format!("{bare:#?}"));
}

/// The keys of a text as `table.key`, of commented lines and others.
fn keys(text: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let mut table = "";
    for line in text.lines() {
        let line = line.trim_start_matches("# ").trim_start_matches('#');
        if let Some(name) = line.strip_prefix('[') {
            table = name.trim_matches(|c| c == '[' || c == ']');
            keys.insert(table.to_owned());
        } else if let Some((key, _)) = line.split_once(" = ")
            && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        {
            keys.insert(format!("{table}.{key}"));
        }
    }
    keys
}

#[test]
fn the_full_file_names_every_key() {
    let text = std::fs::read_to_string(directory().join("fantail.toml")).expect("read");
    let named = keys(&text);
    let tables = [
        ("agent", raw::AGENT),
        ("source", raw::SOURCE),
        ("source.multiline", raw::MULTILINE),
        ("batch", raw::BATCH),
        ("broker", raw::BROKER),
        ("broker.tls", raw::TLS),
        ("broker.queue", raw::QUEUE),
        ("spool", raw::SPOOL),
        ("http", raw::HTTP),
    ];
    for (table, contract) in tables {
        for key in contract {
            let key = format!("{table}.{key}");
            let table = format!("{key}.");
            let there = named.contains(&key) || named.iter().any(|key| key.starts_with(&table));
            assert!(there, "{key} is not in config/fantail.toml");
        }
    }
}

#[test]
fn the_examples_are_valid_and_warn_of_nothing() {
    let mut seen = 0;
    for entry in std::fs::read_dir(directory().join("examples")).expect("listed") {
        let path = entry.expect("an entry").path();
        let config = loaded(&path).expect("valid");
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        assert!(!config.sources.is_empty());
        seen += 1;
    }
    assert_eq!(seen, 4);
}
