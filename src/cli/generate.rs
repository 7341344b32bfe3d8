//! `fantail completions` and `fantail man`: what the command line says of itself, in the forms that
//! shells and `man` read. For packages, and for whoever has none.

use std::io::{self, ErrorKind, Write as _};
use std::path::Path;

use clap::{Command, ValueEnum};

use super::Failure;

pub(super) const EXAMPLES: &str = "\
Examples:
  fantail completions bash > /usr/share/bash-completion/completions/fantail
  fantail completions zsh > ~/.zfunc/_fantail
  fantail completions fish > ~/.config/fish/completions/fantail.fish";

/// A shell that can be told what there is to complete.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Prints the completions of `command` for a shell.
pub(super) fn completions(mut command: Command, shell: Shell) -> Result<(), Failure> {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut text);
    match io::stdout().lock().write_all(&text) {
        // A reader who has left is no error.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| failure(&format!("cannot write: {error}"))),
    }
}

/// Writes a page for `command` and for each of its commands into `directory`, which exists.
pub(super) fn man(command: Command, directory: &Path) -> Result<(), Failure> {
    clap_mangen::generate_to(command, directory)
        .map_err(|error| failure(&format!("{}: {error}", super::page::shown(directory))))
}

fn failure(text: &str) -> Failure {
    Failure {
        text: format!("error: {text}"),
        code: 74,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn commands() -> Vec<String> {
        let arguments = super::super::Arguments::command();
        let shown = arguments
            .get_subcommands()
            .filter(|command| !command.is_hide_set());
        shown.map(|command| command.get_name().to_owned()).collect()
    }

    #[test]
    fn each_command_has_its_man_page_and_its_options_in_it() {
        let directory = tempfile::tempdir().expect("a directory");
        man(super::super::Arguments::command(), directory.path()).expect("written");
        let page = |name: &str| {
            std::fs::read_to_string(directory.path().join(name)).expect("the page is there")
        };
        let main = page("fantail.1");
        for command in commands() {
            assert!(
                main.contains(&format!("fantail\\-{command}(1)")),
                "{command}: {main}"
            );
            assert!(
                page(&format!("fantail-{command}.1")).contains("\\-\\-config"),
                "{command}"
            );
        }
        assert!(page("fantail-check.1").contains("\\-\\-connect"));
        assert!(!directory.path().join("fantail-man.1").exists());
        assert!(
            man(
                super::super::Arguments::command(),
                Path::new("/nonexistent")
            )
            .is_err()
        );
    }
}
