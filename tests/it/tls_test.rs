//! TLS: who is believed, who logs in by certificate, and that whatever is wrong is named. What
//! speaks TLS here is the real broker.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::agent::{Agent, Config};
use crate::support::broker::{Broker, Version};
use crate::support::certificates::{Authority, Issued, Valid};
use crate::support::wait::wait_for;
use crate::support::writers::append;

const MINUTE: Duration = Duration::from_secs(60);

/// An agent's configuration with an exchange and a queue called `name`, for the log `path`.
fn config(urls: &[String], tls: &str, name: &str, path: &Path) -> Config {
    Config::default()
        .set("broker", &format!("urls = {urls:?}"))
        .set("broker", &format!("exchange = {name:?}"))
        .set("broker", "check_interval = \"200ms\"")
        .set("broker.tls", tls)
        .source("app", path)
        .append(&format!("[[broker.queue]]\nname = {name:?}"))
}

fn tls(ca: &Path, client: Option<&Issued>) -> String {
    let ca = format!("ca = {ca:?}");
    match client {
        None => ca,
        Some(Issued { cert, key }) => format!("{ca}\ncert = {cert:?}\nkey = {key:?}"),
    }
}

fn add_user(broker: &Broker, name: &str) {
    broker.ctl(&["add_user", name, "s3cret"]);
    let rights = format!("^{name}");
    broker.ctl(&["set_permissions", name, &rights, &rights, &rights]);
}

fn wait_confirmed(agent: &Agent, bytes: u64) {
    agent.wait_for_status("everything is confirmed", |status| {
        status["files"][0]["confirmed"] == bytes
    });
}

fn check(agent: &Agent) -> (Option<i32>, String) {
    let output = agent.cli(&["check", "--connect"]);
    let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    // A table's cells are broken where they please.
    let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        !told.contains("PRIVATE KEY") && !told.contains("s3cret"),
        "{told}"
    );
    (output.status.code(), told)
}

fn no_part_of_a_key_is_in(text: &str, key: &Path) {
    let pem = fs::read_to_string(key).unwrap();
    for line in pem.lines() {
        assert!(!text.contains(line), "a key was shown");
    }
}

#[test]
fn a_client_certificate_is_the_login_and_renewed_files_are_read_at_the_next_connect() {
    a_client_certificate_is_the_login_at(Broker::shared());
}

#[test]
fn a_client_certificate_is_the_login_at_rabbitmq_4_too() {
    a_client_certificate_is_the_login_at(&Broker::start_version(Version::V4_0));
}

fn a_client_certificate_is_the_login_at(broker: &Broker) {
    let directory = tempfile::tempdir().unwrap();
    let made = directory.path();
    let (ours, strangers) = (
        Authority::new(made, "ours"),
        Authority::new(made, "strangers"),
    );
    let server = ours.server("server", "localhost", Valid::Now);
    let ports = broker.listen_for_tls(&[(&server, &ours, true)]);
    add_user(broker, "tls-agent");
    let client = ours.client("tls-agent", Valid::Now);
    let nobody = ours.client("tls-nobody", Valid::Now);
    let (ca, cert, key) = (made.join("ca"), made.join("cert"), made.join("key"));
    let lay = |from: &Issued| {
        fs::copy(&from.cert, &cert).unwrap();
        fs::copy(&from.key, &key).unwrap();
        fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    };

    let path = made.join("a.log");
    append(&path, b"one\n");
    let urls = [format!("amqps://localhost:{}/%2f", ports[0])];
    let used = Issued {
        cert: cert.clone(),
        key: key.clone(),
    };
    let config = config(&urls, &tls(&ca, Some(&used)), "tls-agent", &path);
    let mut agent = Agent::new(made, config);

    let (code, told) = check(&agent);
    assert_eq!(code, Some(77), "{told}");
    assert!(told.contains("TLS cannot begin: broker.tls.ca"), "{told}");
    assert!(told.contains("No such file"), "{told}");
    fs::copy(ours.pem_path(), &ca).unwrap();
    lay(&nobody);
    let (code, told) = check(&agent);
    assert_eq!(code, Some(77), "{told}");
    assert!(
        told.contains("refuses the login: 403 ACCESS_REFUSED"),
        "{told}"
    );
    assert!(
        told.contains("no such user as the client certificate names"),
        "{told}"
    );
    fs::set_permissions(&key, Permissions::from_mode(0o604)).unwrap();
    assert!(
        check(&agent)
            .1
            .contains("every user of this host can read or change it (mode 0604)")
    );
    fs::copy(&client.key, &key).unwrap();
    let (code, told) = check(&agent);
    assert_eq!(code, Some(77), "{told}");
    assert!(
        told.contains("not the key of the first certificate"),
        "{told}"
    );

    // Each of them mended while the agent tries.
    fs::remove_file(&key).unwrap();
    agent.start();
    agent.wait_for_log("broker.tls.key", MINUTE);
    lay(&client);
    fs::copy(strangers.pem_path(), &ca).unwrap();
    agent.wait_for_log("of no authority that is known here", MINUTE);
    let status = agent.wait_for_status("why there is no connection", |status| {
        let told = status["broker"]["last_error"].to_string();
        told.contains("of no authority") && told.contains("set broker.tls.ca")
    });
    assert_eq!(status["broker"]["state"], "down");
    fs::copy(ours.pem_path(), &ca).unwrap();
    wait_confirmed(&agent, 4);
    let status = agent.status().unwrap();
    let url = format!("amqps://localhost:{}/%2f", ports[0]);
    assert_eq!(status["broker"]["url"], url, "no user, no password");

    // A certificate that has run out is noticed at the next connect, and a new one as well.
    lay(&ours.client("tls-agent", Valid::UntilLongAgo));
    broker.ctl(&["close_all_user_connections", "tls-agent", "renew"]);
    append(&path, b"two\n");
    agent.wait_for_log(
        "the broker says that the client certificate has expired",
        MINUTE,
    );
    lay(&ours.client("tls-agent", Valid::Now));
    wait_confirmed(&agent, 8);
    let log = agent.stderr();
    assert_eq!(log.matches("of no authority that is known here").count(), 1);
    no_part_of_a_key_is_in(&log, &client.key);
    assert!(agent.term().status.success());
    assert_eq!(broker.amqp().message_count("tls-agent"), Some(2));
}

#[test]
fn whatever_is_wrong_with_tls_is_named_once_and_never_gone_around() {
    let broker = Broker::shared();
    let directory = tempfile::tempdir().unwrap();
    let made = directory.path();
    let (ours, strangers) = (
        Authority::new(made, "ours"),
        Authority::new(made, "strangers"),
    );
    let good = ours.server("good", "localhost", Valid::Now);
    let ports = broker.listen_for_tls(&[
        (&good, &ours, false),
        (&good, &ours, true),
        (&good, &strangers, true),
        (
            &ours.server("old", "localhost", Valid::UntilLongAgo),
            &ours,
            false,
        ),
        (
            &ours.server("new", "localhost", Valid::NotForLong),
            &ours,
            false,
        ),
        (
            &ours.server("other", "rabbit.example", Valid::Now),
            &ours,
            false,
        ),
        (
            &strangers.server("strange", "localhost", Valid::Now),
            &ours,
            false,
        ),
        (&ours.client("no-server", Valid::Now), &ours, false),
    ]);
    add_user(broker, "tls-plain");
    let url = |port: u16| format!("amqps://tls-plain:s3cret@localhost:{port}/%2f");
    let plain_port: u16 = {
        let url = broker.url();
        let (_, port) = url.rsplit_once(':').unwrap();
        port.split('/').next().unwrap().parse().unwrap()
    };
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let wrong = [
        (
            url(ports[3]),
            "has expired at 2020-01-01T00:00:00Z; here it is",
        ),
        (
            url(ports[4]),
            "is not valid before 2090-01-01T00:00:00Z; here it is",
        ),
        (url(ports[5]), "is for rabbit.example, not for localhost"),
        (url(ports[6]), "is of no authority that is known here"),
        (url(ports[1]), "the broker wants a client certificate"),
        (url(plain_port), "does not speak TLS"),
        (
            url(ports[0]).replace("amqps", "amqp"),
            "answers in TLS, and amqp:// speaks plain AMQP",
        ),
        (
            url(silent.local_addr().unwrap().port()),
            "no end of the TLS handshake within 2s",
        ),
        (
            url(ports[7]),
            "the broker's certificate is not one for servers",
        ),
    ];

    let path = made.join("a.log");
    append(&path, b"one\n");
    let only_ca = tls(ours.pem_path(), None);
    let with = |urls: &[String], tls: &str| {
        let config = config(urls, tls, "tls-plain", &path);
        config.set("broker", "connect_timeout = \"2s\"")
    };
    let (urls, texts): (Vec<_>, Vec<_>) = wrong.into_iter().unzip();
    let mut agent = Agent::new(made, with(&urls, &only_ca));
    let (code, told) = check(&agent);
    assert_eq!(code, Some(77), "{told}");
    for text in &texts {
        assert!(told.contains(text), "no {text:?} in {told}");
    }
    let client = ours.client("tls-client", Valid::Now);
    agent.configure(with(&[url(ports[2])], &tls(ours.pem_path(), Some(&client))));
    let (code, told) = check(&agent);
    assert_eq!(code, Some(77), "{told}");
    assert!(
        told.contains("does not know the authority of the client certificate"),
        "{told}"
    );
    // Another name where one is expected, and the name that it is for.
    let named = format!("{only_ca}\nserver_name = \"rabbit.example\"");
    agent.configure(with(&[url(ports[0]), url(ports[5])], &named));
    let (code, told) = check(&agent);
    assert_eq!(code, Some(0), "{told}");
    assert!(
        told.contains("is for localhost, not for rabbit.example"),
        "{told}"
    );

    // All of them in turn, while something is to be published; nothing is, until one is good.
    let urls: Vec<_> = urls[..7].to_vec();
    agent.configure(with(&urls, &only_ca));
    agent.start();
    for text in &texts[..7] {
        agent.wait_for_log(text, MINUTE);
    }
    assert_eq!(broker.amqp().message_count("tls-plain"), None);
    assert!(agent.term().status.success());
    // The authority of the system, and a password within TLS.
    agent.set_environment("SSL_CERT_FILE", ours.pem_path().to_str().unwrap());
    agent.configure(with(&[urls[6].clone(), url(ports[0])], ""));
    agent.start();
    wait_confirmed(&agent, 4);
    let log = agent.stderr();
    assert!(!log.contains("s3cret"), "{log}");
    assert!(agent.term().status.success());
}

#[test]
fn a_handshake_that_stalls_holds_no_stop_up() {
    let directory = tempfile::tempdir().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let path = directory.path().join("a.log");
    append(&path, b"one\n");
    let ca = Authority::new(directory.path(), "ours");
    let urls = [format!("amqps://u:p@localhost:{port}/%2f")];
    let config = config(&urls, &tls(ca.pem_path(), None), "stalled", &path);
    let mut agent = Agent::new(directory.path(), config);
    agent.start();
    let mut accepted = Vec::new();
    silent.set_nonblocking(true).unwrap();
    wait_for(MINUTE, "the agent connects", || {
        accepted.extend(silent.accept().ok());
        !accepted.is_empty()
    });
    let asked = Instant::now();
    let ended = agent.term();
    assert!(ended.status.success());
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", ended.took);
}
