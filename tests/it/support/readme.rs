//! Owns the way to what README.md prints, so that tests can run it as it stands there.

use std::fs;
use std::path::Path;

/// The code block that has `name` last in its first line.
pub fn printed(name: &str) -> String {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let block = readme
        .split("\n```")
        .find_map(|block| {
            let (first_line, code) = block.split_once('\n')?;
            first_line.ends_with(&format!(" {name}")).then_some(code)
        })
        .unwrap_or_else(|| panic!("README.md has no code block {name}"));
    format!("{block}\n")
}

/// The commands of a code block, each as its words; the shell's single quotes are understood.
pub fn printed_commands(name: &str) -> Vec<Vec<String>> {
    printed(name).lines().map(words).collect()
}

fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (place, part) in command.split('\'').enumerate() {
        if place % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}
