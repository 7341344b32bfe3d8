//! `fantail check` tells what is, here and on the broker, and changes nothing.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::thread::{self, JoinHandle};

use lapin::ExchangeKind;

use crate::support::agent::{Agent, Config};
use crate::support::amqp::Argument;
use crate::support::broker::Broker;
use crate::support::ports::free_port;

/// An exit code with everything that was said.
#[derive(Debug)]
struct Told {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Told {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn assert(&self, code: i32, texts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        for text in texts {
            assert!(self.out.contains(text), "no {text:?} in {self:#?}");
        }
        assert!(!self.out.contains('\x1b'), "colour without a terminal");
        assert!(!self.out.contains("s3cret") && !self.err.contains("s3cret"));
    }

    /// What was said of an object, in one line.
    fn of_object(&self, name: &str) -> String {
        let words = |line: &str| {
            line.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let mut lines = self.out.lines().map(words);
        let mut said = lines
            .find(|words| words.get(1).is_some_and(|word| word == name))
            .unwrap_or_else(|| panic!("no {name} in {self:#?}"));
        let next = |words: &Vec<String>| {
            !["exchange", "queue", "bindings"].contains(&words.first().map_or("", String::as_str))
        };
        said.extend(lines.take_while(next).flatten());
        said.join(" ")
    }
}

fn checked(config: Config, arguments: &[&str]) -> Told {
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::new(directory.path(), config);
    Told::of(agent.cli(&[&["check"], arguments].concat()))
}

/// Everything that anybody could have made on the broker.
fn everything(broker: &Broker) -> String {
    broker.ctl(&[
        "eval",
        "{lists:sort([amqqueue:get_name(Q) || Q <- rabbit_amqqueue:list()]), \
          lists:sort([element(2, X) || X <- rabbit_exchange:list()]), \
          lists:sort(rabbit_binding:list(<<\"/\">>))}.",
    ])
}

/// Checks with `--connect`, and that the broker is as it was.
fn checked_on(broker: &Broker, config: Config) -> Told {
    let before = everything(broker);
    let told = checked(config, &["--connect"]);
    assert_eq!(everything(broker), before);
    told
}

#[test]
fn files_are_told_apart_by_whether_this_user_can_read_them_and_the_exit_code_is_0() {
    let directory = tempfile::tempdir().unwrap();
    let logs = directory.path().join("logs");
    let root = rustix::process::geteuid().is_root();
    fs::create_dir_all(logs.join("closed")).unwrap();
    for number in 0..30 {
        fs::write(logs.join(format!("{number:02}.log")), "x\n").unwrap();
    }
    fs::write(logs.join("a\n\x1b[2J.log"), "x\n").unwrap();
    fs::write(logs.join("group.log"), "x\n").unwrap();
    fs::write(logs.join("closed/c.log"), "x\n").unwrap();
    symlink("00.log", logs.join("link.log")).unwrap();
    let set = |name: &str, mode: u32| {
        fs::set_permissions(logs.join(name), Permissions::from_mode(mode)).unwrap();
    };
    if root {
        // adm, on every Debian; the check itself runs as nobody.
        chown(logs.join("group.log"), Some(0), Some(4)).unwrap();
    }
    set("group.log", if root { 0o640 } else { 0o040 });
    set("closed", 0o000);
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let config = Config::default()
        .source("app", &logs.join("*.log"))
        .source("closed", &logs.join("closed/*.log"))
        .source("missing", &logs.join("nowhere/*.log"));
    fs::write(directory.path().join("fantail.toml"), config.to_string()).unwrap();
    // Where nobody can reach it.
    let program = directory.path().join("fantail");
    fs::copy(env!("CARGO_BIN_EXE_fantail"), &program).unwrap();

    let check = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command
            .args(["check", "--config", "fantail.toml"])
            .args(arguments)
            .current_dir(directory.path())
            .env_remove("FANTAIL_LOG")
            .stdin(Stdio::null());
        if root {
            command.uid(65534).gid(65534);
        }
        Told::of(command.output().unwrap())
    };
    let told = check(&[]);
    let why = if root {
        "-rw-r----- root adm: readable by group adm: add the user to it (usermod -aG adm nobody)"
    } else {
        "its owner may not: chmod u+r"
    };
    told.assert(
        0,
        &[
            "source app\n  31 files can be read",
            "00.log",
            "and 21 more (--all shows them)",
            "1 file user",
            why,
            "link.log",
            "symbolic link, not followed (to 00.log; include that path itself)",
            "source closed\n  no file matches now",
            "directory cannot be read: d---------",
            "source missing\n  no file matches now",
            "there is no",
        ],
    );
    let all = check(&["--all"]);
    all.assert(0, &["29.log", "/a\\n\\u{1b}[2J.log"]);
    assert!(!all.out.contains("more (--all"), "{all:?}");
    set("closed", 0o700);
}

#[test]
fn what_costs_confirmed_lines_is_a_warning_with_its_place() {
    let config = Config::default().append(
        "[[broker.queue]]\nname = \"archive\"\n\
         [[broker.queue]]\nname = \"alerting\"\narguments = { x-max-length = 5 }\n\
         [[broker.queue]]\nname = \"search\"\ntype = \"stream\"",
    );
    let told = checked(config, &[]);
    told.assert(0, &["0 sources, 3 queues", "fantail would run idle"]);
    for text in [
        "fantail.toml:8:15: when this queue is full, the oldest lines vanish",
        "add x-overflow = \"reject-publish\"",
        "fantail.toml:10:8: a stream without retention",
        "RabbitMQ 4 drops a message of a quorum queue (archive, alerting)",
    ] {
        assert!(told.err.contains(text), "no {text:?} in {}", told.err);
    }
}

#[test]
fn a_broker_that_is_not_reached_is_69_with_what_probably_is_there() {
    let url = |port: u16| format!("amqp://guest:s3cret@127.0.0.1:{port}/%2f");
    checked(Config::new(&url(free_port())), &["--connect"])
        .assert(69, &["cannot be used: nothing listens there"]);
    for (answer, text) in [
        // As RabbitMQ 3.10.8 answers on its TLS port.
        (Some(&b"\x15\x03\x01\x00\x02\x02\x0a"[..]), "answers in TLS"),
        (Some(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "no AMQP broker"),
        (Some(b"AMQP\x00\x01\x00\x00"), "another version of AMQP"),
        (Some(b"SSH-2.0-OpenSSH_9.2\r\n"), "answers, but not in AMQP"),
        (Some(b""), "probably a TLS port"),
        (None, "says nothing"),
    ] {
        let (port, server) = stranger(answer);
        let config = Config::new(&url(port)).set("broker", "connect_timeout = \"500ms\"");
        let told = checked(config, &["--connect"]);
        told.assert(69, &[text]);
        assert!(told.err.contains("no broker can be reached"), "{told:?}");
        server.join().unwrap();
    }
}

/// Somebody who is no broker: gives one answer and closes, or waits for the other side to.
fn stranger(answer: Option<&'static [u8]>) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut header = [0; 8];
        stream.read_exact(&mut header).unwrap();
        assert_eq!(&header, b"AMQP\x00\x00\x09\x01");
        match answer {
            Some(answer) => stream.write_all(answer).unwrap(),
            None => drop(stream.read(&mut header)),
        }
    });
    (port, server)
}

#[test]
fn what_is_absent_is_said_and_not_made_and_what_is_there_is_compared() {
    let broker = Broker::start();
    let config = Config::new(&broker.url());
    let told = checked_on(&broker, config.clone());
    told.assert(0, &["RabbitMQ 3.1", "answers", "bindings not checked"]);
    assert!(
        told.of_object("logs")
            .contains("absent; fantail run makes it")
    );
    for queue in ["archive", "alerting", "search"] {
        assert!(
            told.of_object(queue)
                .contains("absent; fantail run makes it")
        );
    }
    let never = config.clone().set("broker", "declare = \"never\"");
    let told = checked_on(&broker, never.clone());
    told.assert(1, &["absent, and not made with declare = \"never\""]);
    assert!(told.err.contains("4 objects"), "{told:?}");

    let amqp = broker.amqp();
    amqp.declare_exchange("logs", ExchangeKind::Fanout);
    for queue in ["archive", "alerting", "search"] {
        amqp.declare_queue(queue, "quorum", &[]);
    }
    amqp.publish("", "archive", b"one");
    for config in [config.clone(), never] {
        let told = checked_on(&broker, config);
        told.assert(0, &[]);
        assert!(told.of_object("logs").contains("as configured"), "{told:?}");
        let archive = told.of_object("archive");
        assert!(
            archive.contains("as configured 1 message, 0 consumers"),
            "{archive}"
        );
        assert!(archive.contains("fsynced by a majority"), "{archive}");
    }

    // The second address is another door to the same, the first is shut.
    let shut = format!("amqp://guest:guest@127.0.0.1:{}/%2f", free_port());
    let urls = format!("urls = [\"{shut}\", \"{0}\", \"{0}\"]", broker.url());
    let told = checked_on(&broker, Config::default().set("broker", &urls));
    told.assert(0, &["nothing listens there"]);
    assert_eq!(told.out.matches("RabbitMQ 3.10.8 answers").count(), 2);

    broker.pause();
    let config = config.set("broker", "connect_timeout = \"500ms\"");
    let told = checked(config, &["--connect"]);
    broker.resume();
    told.assert(69, &["accepts the connection and says nothing"]);
}

#[test]
fn what_differs_is_named_and_is_1() {
    let broker = Broker::start();
    let amqp = broker.amqp();
    amqp.declare_exchange("logs", ExchangeKind::Direct);
    amqp.declare_queue("archive", "quorum", &[("x-max-length", Argument::Int(5))]);
    amqp.declare_queue("alerting", "classic", &[]);
    amqp.declare_queue("search", "stream", &[("x-max-age", Argument::Text("7D"))]);
    let config = Config::new(&broker.url()).append(
        "[[broker.queue]]\nname = \"archive\"\n\
         [[broker.queue]]\nname = \"alerting\"\n\
         [[broker.queue]]\nname = \"search\"\ntype = \"stream\"\narguments = { x-max-age = \"7D\" }",
    );
    let told = checked_on(&broker, config);
    told.assert(1, &["it cannot be changed"]);
    for (object, text) in [
        (
            "logs",
            "differs: type: fanout configured, direct on the broker",
        ),
        (
            "archive",
            "differs: x-max-length: none configured, 5 on the broker",
        ),
        (
            "alerting",
            "differs: x-queue-type: quorum configured, classic on the broker",
        ),
        ("alerting", "confirmed means: written, not fsynced"),
        ("search", "there, as configured"),
        ("search", "replicated, not fsynced"),
    ] {
        let said = told.of_object(object);
        assert!(said.contains(text), "{said}");
    }
    assert!(told.err.contains("3 objects"), "{told:?}");
}

#[test]
fn a_refused_login_or_right_is_77_and_a_missing_virtual_host_is_1() {
    let broker = Broker::start();
    broker.ctl(&["add_user", "shipper", "s3cret"]);
    broker.ctl(&["set_permissions", "shipper", "^$", ".*", "^$"]);
    broker.ctl(&["add_user", "reader", "s3cret"]);
    broker.ctl(&["set_permissions", "reader", "^$", "^$", ".*"]);
    broker.ctl(&["add_user", "nobody", "s3cret"]);
    let as_user = |user: &str| Config::new(&broker.url_with(user, "s3cret", "/"));

    let told = checked_on(&broker, as_user("guest"));
    told.assert(77, &["refuses the login: 403 ACCESS_REFUSED"]);
    let told = checked_on(&broker, as_user("nobody"));
    told.assert(
        77,
        &["refuses the login: 530", "access to vhost '/' refused"],
    );
    let elsewhere = Config::new(&broker.url_with("shipper", "s3cret", "elsewhere"));
    let told = checked_on(&broker, elsewhere);
    told.assert(1, &["no such virtual host", "vhost elsewhere not found"]);

    // Nothing is there: what would have to be made may not be made.
    let told = checked_on(&broker, as_user("shipper"));
    told.assert(77, &["absent, and may not be made: 403"]);
    let never = as_user("shipper").set("broker", "declare = \"never\"");
    checked_on(&broker, never.clone()).assert(1, &[]);

    // Everything is there: who may write needs no other right, and cannot compare.
    let amqp = broker.amqp();
    amqp.declare_exchange("logs", ExchangeKind::Fanout);
    for queue in ["archive", "alerting", "search"] {
        amqp.declare_queue(queue, "classic", &[]);
    }
    for config in [as_user("shipper"), never] {
        let told = checked_on(&broker, config);
        told.assert(0, &["RabbitMQ"]);
        for object in ["logs", "archive", "alerting", "search"] {
            let said = told.of_object(object);
            assert!(said.contains("there; not compared"), "{said}");
        }
    }
    let told = checked_on(&broker, as_user("reader"));
    told.assert(77, &["this user may not publish to it: 403"]);
}

/// Arguments with a value for the declare and the same for the configuration.
const ARGUMENTS: &[(&str, Argument<'_>)] = &[
    ("x-expires", Argument::Int(60_000)),
    ("x-expires", Argument::Int(0)),
    ("x-message-ttl", Argument::Int(60_000)),
    ("x-message-ttl", Argument::Int(-1)),
    ("x-message-ttl", Argument::Int(315_360_000_001)),
    ("x-dead-letter-exchange", Argument::Text("dead")),
    ("x-dead-letter-exchange", Argument::Int(1)),
    ("x-dead-letter-routing-key", Argument::Text("dead")),
    ("x-dead-letter-strategy", Argument::Text("at-most-once")),
    ("x-dead-letter-strategy", Argument::Text("never")),
    ("x-max-length", Argument::Int(5)),
    ("x-max-length", Argument::Int(-1)),
    ("x-max-length", Argument::Text("5")),
    ("x-max-length-bytes", Argument::Int(1_000_000)),
    ("x-max-length-bytes", Argument::Text("1MB")),
    ("x-max-priority", Argument::Int(5)),
    ("x-max-priority", Argument::Int(256)),
    ("x-overflow", Argument::Text("drop-head")),
    ("x-overflow", Argument::Text("reject-publish")),
    ("x-overflow", Argument::Text("reject-publish-dlx")),
    ("x-overflow", Argument::Text("reject")),
    ("x-queue-mode", Argument::Text("lazy")),
    ("x-queue-mode", Argument::Text("eager")),
    ("x-queue-version", Argument::Int(2)),
    ("x-queue-version", Argument::Int(3)),
    ("x-single-active-consumer", Argument::Text("true")),
    ("x-queue-master-locator", Argument::Text("client-local")),
    ("x-quorum-initial-group-size", Argument::Int(1)),
    ("x-quorum-initial-group-size", Argument::Int(0)),
    ("x-delivery-limit", Argument::Int(5)),
    ("x-queue-leader-locator", Argument::Text("client-local")),
    ("x-max-age", Argument::Text("7D")),
    ("x-max-age", Argument::Text("7d")),
    ("x-max-age", Argument::Int(7)),
    (
        "x-stream-max-segment-size-bytes",
        Argument::Int(3_000_000_000),
    ),
    (
        "x-stream-max-segment-size-bytes",
        Argument::Int(3_000_000_001),
    ),
    ("x-initial-cluster-size", Argument::Int(1)),
    ("x-initial-cluster-size", Argument::Int(0)),
    ("x-quorum-target-group-size", Argument::Int(3)),
    ("x-stream-filter-size-bytes", Argument::Int(20)),
    ("x-unheard-of", Argument::Int(1)),
];

/// What other supported versions do not refuse, or will not: a warning.
const NOT_IN_ALL_VERSIONS: &[(&str, &str)] = &[("x-queue-leader-locator", "classic")];

#[test]
fn check_refuses_the_arguments_that_the_broker_refuses_and_no_others() {
    let broker = Broker::start();
    let amqp = broker.amqp();
    let directory = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for kind in ["quorum", "classic", "stream"] {
        for (number, (name, value)) in ARGUMENTS.iter().enumerate() {
            let queue = format!("{kind}-{number}");
            let broker_refuses = amqp
                .try_declare_queue(&queue, kind, &[(name, *value)])
                .err();
            let value = match value {
                Argument::Text(text) => format!("{text:?}"),
                Argument::Int(number) => number.to_string(),
            };
            let config = Config::default().append(&format!(
                "[[broker.queue]]\nname = \"q\"\ntype = {kind:?}\narguments = {{ {name} = {value} }}"
            ));
            let told = Told::of(Agent::new(directory.path(), config).cli(&["check"]));
            let refuses = told.code == Some(78);
            if broker_refuses.is_some() != refuses && !NOT_IN_ALL_VERSIONS.contains(&(name, kind)) {
                wrong.push(format!(
                    "{kind} {name} = {value}: {broker_refuses:?}, {told:?}"
                ));
            }
            assert_eq!(refuses, told.err.contains("error: "), "{told:?}");
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
