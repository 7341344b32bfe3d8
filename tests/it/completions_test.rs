//! What shells are told is what the commands take.

use std::process::{Command, Stdio};

fn fantail(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_fantail"))
        .args(arguments)
        .env_remove("FANTAIL_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_command_and_option_that_the_help_names_is_completed() {
    let help = fantail(&["--help"]);
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let commands: Vec<&str> = commands
        .lines()
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next())
        .collect();
    assert!(
        commands.contains(&"preview") && commands.len() > 4,
        "{help}"
    );
    for shell in ["bash", "zsh", "fish"] {
        let script = fantail(&["completions", shell]);
        for command in &commands {
            assert!(script.contains(command), "{shell}: {command}");
        }
        for option in ["config", "log-level", "connect", "lines", "source"] {
            assert!(script.contains(option), "{shell}: --{option}");
        }
    }
}

#[test]
fn bash_takes_the_script_and_completes_a_command() {
    let mut bash = Command::new("bash");
    let script = format!(
        "{}\nCOMP_WORDS=(fantail prev); COMP_CWORD=1; _fantail fantail prev fantail; \
         echo \"${{COMPREPLY[*]}}\"",
        fantail(&["completions", "bash"])
    );
    let output = bash.args(["--norc", "-c", &script]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "preview",
        "{told}"
    );
}
