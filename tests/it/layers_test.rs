//! The layers of `src/ARCHITECTURE.md`, held by reading the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::Visit;

/// What each module may name beside itself. `model`, `wire`, `secret`, `sys` and
/// `telemetry` are everybody's, and know only each other.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("tail", &["batch", "lines"]),
    ("lines", &[]),
    ("treat", &[]),
    ("batch", &[]),
    ("lane", &["tail", "lines", "treat", "batch"]),
    ("relay", &["publish", "ledger"]),
    ("publish", &[]),
    ("ledger", &[]),
    ("amqp", &[]),
    ("spool", &[]),
    ("state", &[]),
    ("config", &["amqp", "lines", "spool", "tail", "treat"]),
    (
        "pipeline",
        &[
            "amqp", "batch", "config", "lane", "publish", "relay", "spool", "state", "status",
            "tail", "treat",
        ],
    ),
    (
        "daemon",
        &["config", "pipeline", "spool", "state", "status"],
    ),
    (
        "cli",
        &[
            "amqp", "config", "daemon", "pipeline", "spool", "state", "status", "tail",
        ],
    ),
    ("model", &[]),
    ("wire", &[]),
    ("secret", &[]),
    ("sys", &[]),
    ("status", &[]),
    ("telemetry", &[]),
];
const EVERYBODYS: &[&str] = &["model", "wire", "secret", "sys", "telemetry"];

/// Modules that decide without I/O, and the crates and modules that would be I/O.
const PURE: &[&str] = &[
    "lines", "treat", "batch", "relay", "publish", "ledger", "wire", "status",
];
const IO: &[&str] = &[
    "fs", "net", "thread", "process", "tokio", "lapin", "rustix", "rusqlite",
];

#[derive(Default)]
struct Names {
    /// Modules of this crate, by `crate::`.
    own: BTreeSet<String>,
    /// First two parts of every other path.
    other: BTreeSet<String>,
}

impl Names {
    fn add(&mut self, path: &[String]) {
        match path {
            [first, second, ..] if first == "crate" => {
                self.own.insert(second.clone());
            }
            [first, second, ..] => {
                self.other.insert(first.clone());
                self.other.insert(second.clone());
            }
            _ => {}
        }
    }

    fn add_use(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |ident: &syn::Ident| [before, &[ident.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.add_use(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.add(&with(&name.ident)),
            syn::UseTree::Rename(rename) => self.add(&with(&rename.ident)),
            syn::UseTree::Glob(_) => self.add(before),
            syn::UseTree::Group(group) => {
                group
                    .items
                    .iter()
                    .for_each(|tree| self.add_use(before, tree));
            }
        }
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_use(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path
            .segments
            .iter()
            .map(|part| part.ident.to_string())
            .collect();
        self.add(&parts);
        syn::visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        // Tests may name anything.
        if item.ident != "tests" {
            syn::visit::visit_item_mod(self, item);
        }
    }
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if is_source(&path) {
            found.push(path);
        }
    }
}

/// A test in a file of its own may name anything, as one among the code may.
fn is_source(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.ends_with(".rs") && !name.ends_with("_test.rs"))
}

/// What each room of `src/` names: `tail/reader.rs` belongs to the room `tail`.
fn rooms() -> BTreeMap<String, Names> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut rooms: BTreeMap<String, Names> = BTreeMap::new();
    for file in files {
        let below = file.strip_prefix(&root).unwrap().with_extension("");
        let room = below.iter().next().unwrap().to_str().unwrap().to_owned();
        if room == "lib" || room == "main" {
            continue;
        }
        let parsed = syn::parse_file(&fs::read_to_string(&file).unwrap()).unwrap();
        rooms.entry(room).or_default().visit_file(&parsed);
    }
    rooms
}

#[test]
fn every_room_names_only_the_rooms_below_it() {
    let mut wrong = Vec::new();
    for (room, names) in rooms() {
        let Some((_, allowed)) = MAY_NAME.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("{room} has no layer"));
            continue;
        };
        for named in &names.own {
            let known = MAY_NAME.iter().any(|(name, _)| name == named);
            let fine = *named == room
                || allowed.contains(&named.as_str())
                || EVERYBODYS.contains(&named.as_str());
            if known && !fine {
                wrong.push(format!("{room} names {named}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_decides_does_no_io_and_one_room_knows_the_amqp_library() {
    for (room, names) in rooms() {
        if PURE.contains(&room.as_str()) {
            let io: Vec<_> = IO.iter().filter(|io| names.other.contains(**io)).collect();
            assert!(io.is_empty(), "{room} names {io:?}");
        }
        assert_eq!(
            names.other.contains("lapin"),
            room == "amqp",
            "{room} and lapin"
        );
    }
}
