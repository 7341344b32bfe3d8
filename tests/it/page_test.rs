//! The page, in headless Chromium: what it shows of a running daemon, that nothing in paths or log text
//! acts, and that it says when it is cut off.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::agent::{Agent, Config};
use crate::support::broker::Broker;
use crate::support::http;
use crate::support::ports::free_port;
use crate::support::wait::{wait_for, wait_for_some};
use crate::support::writers::{append, numbered_lines};

const MINUTE: Duration = Duration::from_secs(60);

/// The document as it stands after so much of the page's own time, and what went wrong in it.
fn browsed(address: &str, milliseconds: u64) -> (String, Vec<String>) {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new("timeout")
        .args([
            "60",
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
        ])
        .args(["--disable-quic", "--no-first-run", "--disable-sync"])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
        ])
        .args(["--enable-logging=stderr", "--dump-dom"])
        .arg(format!("--virtual-time-budget={milliseconds}"))
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://{address}/"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let wrong = said.lines().filter(|line| line.contains("CONSOLE"));
    let wrong = wrong.map(str::to_owned).collect();
    let document = String::from_utf8_lossy(&output.stdout);
    // What the script could say is not what the page says.
    let shown = document.split("<script>").next().unwrap_or_default();
    (shown.to_owned(), wrong)
}

/// An agent whose page is at the address that is returned, with a hostile path and a hostile line in
/// its log.
fn agent(directory: &tempfile::TempDir, broker: &Broker) -> (Agent, String) {
    let logs = directory.path().join("logs");
    fs::create_dir(&logs).unwrap();
    let hostile = logs.join("<img src=x onerror=alert(1)>\u{202e}gol\u{1b}[31m.log");
    append(&hostile, &numbered_lines("line", 1000));
    let address = format!("127.0.0.1:{}", free_port());
    let config = Config::new(&broker.url())
        .set("broker", "exchange = \"page\"")
        .set("broker", "check_interval = \"200ms\"")
        .set("http", &format!("listen = \"{address}\""))
        .append("[[broker.queue]]\nname = \"<b>page</b>\"\n")
        .source("app", &logs.join("*.log"));
    let mut agent = Agent::new(directory.path(), config);
    agent.start();
    agent.wait_for_status("everything is confirmed", |status| {
        status["files"][0]["lag"] == 0 && status["queues"][0]["present"] == true
    });
    (agent, address)
}

#[test]
fn it_shows_what_is_so_and_nothing_in_a_path_or_a_name_acts() {
    let directory = tempfile::tempdir().unwrap();
    let (_agent, address) = agent(&directory, Broker::shared());
    let page = wait_for_some(MINUTE, "the page has looked", || {
        let (page, wrong) = browsed(&address, 5000);
        assert_eq!(wrong, Vec::<String>::new());
        page.contains("connected").then_some(page)
    });
    for part in [
        "&lt;img src=x onerror=alert(1)&gt;\\u{202e}gol\\u{1b}[31m.log",
        "&lt;b&gt;page&lt;/b&gt;",
        ">1,000<",
        ">present<",
        "direct: ",
        "<path d=\"",
    ] {
        assert!(page.contains(part), "{part:?} is not in\n{page}");
    }
    assert!(
        !page.contains("<img") && !page.contains("\u{202e}"),
        "{page}"
    );
    assert!(!page.contains("Cut off"), "{page}");
}

/// What stands between browser and daemon lets the run go on before the second look.
#[test]
fn its_values_are_right_while_the_run_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let (_agent, address) = agent(&directory, Broker::shared());
    let log = directory.path().join("logs/more.log");
    let between = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = between.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let mut looks = 0;
        for client in between.incoming() {
            let client = client.unwrap();
            let Some(path) = asked(&client) else {
                continue;
            };
            looks += usize::from(path.starts_with("/status"));
            if looks == 2 && path.starts_with("/status") {
                append(&log, &numbered_lines("more", 500));
                wait_for_lines(&address, 1500);
            }
            answer(client, &address, &path);
        }
    });
    let (page, wrong) = browsed(&at, 7000);
    assert_eq!(wrong, Vec::<String>::new());
    for part in [
        "<th scope=\"row\">app</th><td class=\"n\">2</td><td class=\"n\">1,500</td>",
        "logs/more.log</th><td>app</td><td>active</td>",
    ] {
        assert!(page.contains(part), "{part:?} is not in\n{page}");
    }
    assert!(!page.contains(">1,000<"), "{page}");
    assert!(!page.contains("Cut off"), "{page}");
}

/// Until so many were read, and all of them are confirmed.
fn wait_for_lines(address: &str, lines: u64) {
    let address = address.parse().unwrap();
    wait_for(MINUTE, "everything is confirmed", || {
        let status = http::get(address, "/status").unwrap().json();
        let source = &status["sources"][0];
        source["lines"] == lines && source["lag"] == 0
    });
}

/// What stands between browser and daemon answers the first look, and then nothing any more.
#[test]
fn it_says_when_it_is_cut_off_and_keeps_what_it_knew() {
    let directory = tempfile::tempdir().unwrap();
    let (_agent, address) = agent(&directory, Broker::shared());
    let between = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = between.local_addr().unwrap().to_string();
    let looks = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&looks);
    std::thread::spawn(move || {
        for client in between.incoming() {
            pass_on(client.unwrap(), &address, &seen);
        }
    });
    let (page, _) = browsed(&at, 20_000);
    assert!(looks.load(Ordering::Relaxed) > 2, "it looks again");
    assert!(page.contains("Cut off from the daemon since"), "{page}");
    assert!(
        page.contains(">present<"),
        "what was heard is still there: {page}"
    );
}

/// The path of a request.
fn asked(client: &TcpStream) -> Option<String> {
    let mut request = String::new();
    let mut reader = BufReader::new(client.try_clone().unwrap());
    reader.read_line(&mut request).ok()?;
    let path = request.split(' ').nth(1).unwrap_or("/").to_owned();
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
        line.clear();
    }
    Some(path)
}

fn pass_on(client: TcpStream, address: &str, looks: &AtomicUsize) {
    let Some(path) = asked(&client) else {
        return;
    };
    // One look asks for two things.
    if path != "/" && looks.fetch_add(1, Ordering::Relaxed) >= 2 {
        return;
    }
    answer(client, address, &path);
}

fn answer(mut client: TcpStream, address: &str, path: &str) {
    let mut daemon = TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    daemon.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    daemon.read_to_end(&mut answer).unwrap();
    // A browser that has left needs no answer.
    let _ = client.write_all(&answer);
}
