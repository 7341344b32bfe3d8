//! `[broker]` and `[[broker.queue]]`: how to connect, and what must be there.

use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroU64;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::raw::{self, Problem, Spot, Table, nearest};
use super::{at_least, check_name, within};
use crate::amqp::arguments::{self, grows_without_end, judge};
use crate::amqp::tls::{self, Identity, Tls};
use crate::amqp::{self, Address, Argument, Login, QueueKind};

pub(super) fn broker(
    table: &mut Table<'_>,
    problems: &mut Vec<Problem>,
) -> Option<(amqp::Settings, Duration, usize)> {
    let password_file = password_file(table, problems);
    let addresses = addresses(table, password_file.is_some(), problems);
    let tls = tls(table, &addresses, problems);
    let exchange = match table.string("exchange", problems) {
        Some(spot) => {
            check_name(&spot, problems);
            spot.value
        }
        None => "logs".to_owned(),
    };
    let declare = table
        .choice("declare", &[("missing", true), ("never", false)], problems)
        .unwrap_or(true);
    let mut duration = |key: &str, least: u64, default: u64| {
        let least = Duration::from_millis(least);
        match table.duration(key, problems) {
            Some(spot) => at_least(&spot, least, problems),
            None => Duration::from_millis(default),
        }
    };
    let check_interval = duration("check_interval", 100, 5_000);
    let heartbeat = duration("heartbeat", 1_000, 10_000);
    let connect_timeout = duration("connect_timeout", 100, 10_000);
    let confirm_timeout = duration("confirm_timeout", 1_000, 300_000);
    let max_in_flight = within(
        table.size("max_in_flight", problems),
        1,
        1 << 40,
        16 * 1024 * 1024,
        problems,
    );
    let bytes_per_s_max = rate(table, problems);
    let queues = queues(table, problems);
    if !queues.is_empty() && queues.iter().all(|queue| !queue.required) {
        let problem = table.problem("no queue is required: nothing would be waited for".to_owned());
        let advice = "leave `required` out for at least one of them";
        problems.push(problem.advise(advice.to_owned()));
    }
    let settings = amqp::Settings {
        addresses,
        password_file,
        tls,
        connection_name: String::new(),
        connect_timeout,
        heartbeat,
        confirm_timeout,
        bytes_per_s_max,
        topology: amqp::Topology {
            exchange,
            queues,
            declare,
        },
    };
    if settings.password_file.is_some() && settings.logs_in_by_certificates_alone() {
        let text = "with a client certificate and no user in `urls`, no password is needed";
        let problem = table.problem_of("password_file", text.to_owned());
        let advice = "leave it out, or write amqps://USER@HOST:PORT/VHOST";
        problems.push(problem.advise(advice.to_owned()).as_warning());
    }
    Some((
        settings,
        check_interval,
        usize::try_from(max_in_flight).unwrap_or(usize::MAX),
    ))
}

/// `max_rate`: a size with `/s` behind it.
fn rate(table: &mut Table<'_>, problems: &mut Vec<Problem>) -> Option<NonZeroU64> {
    let spot = table.string("max_rate", problems)?;
    if spot.value.is_empty() {
        return None;
    }
    let size = spot.value.strip_suffix("/s").map(str::trim_end);
    let rate = size.and_then(raw::parse_size).and_then(NonZeroU64::new);
    if rate.is_none() {
        let problem = spot.problem(format!("not a rate above zero: {:?}", spot.value));
        problems.push(problem.advise("write \"10MB/s\" or \"512KiB/s\"".to_owned()));
    }
    rate
}

/// The path; what is at it now is only looked at for a warning, since it is read at every connect.
fn password_file(table: &mut Table<'_>, problems: &mut Vec<Problem>) -> Option<PathBuf> {
    let spot = table.string("password_file", problems)?;
    if spot.value.is_empty() {
        return None;
    }
    let path = PathBuf::from(&spot.value);
    let doubt = match std::fs::metadata(&path) {
        Ok(_) => open_to_all(&path),
        Err(error) => Some((format!("not there to be read now: {error}"), None)),
    };
    if let Some((text, advice)) = doubt {
        problems.push(spot.problem(text).advise(advice).as_warning());
    }
    Some(path)
}

/// What to say of a file with a secret in it that every user can reach, and what to do.
fn open_to_all(path: &Path) -> Option<(String, Option<String>)> {
    let mode = std::fs::metadata(path).ok()?.mode() & 0o777;
    if mode & 0o006 == 0 {
        return None;
    }
    let text = format!("every user of this host can read or change it (mode {mode:04o})");
    let advice = format!("chmod o= {}", path.display());
    Some((text, Some(advice)))
}

/// `[broker.tls]`. What is in its files now is only looked at for a warning: they are read at every
/// connect.
fn tls(broker: &mut Table<'_>, addresses: &[Address], problems: &mut Vec<Problem>) -> Tls {
    let mut table = broker.table("tls", problems);
    let mut text = |key: &str| {
        let spot = table.string(key, problems);
        spot.filter(|spot| !spot.value.is_empty())
    };
    let (ca, cert, key) = (text("ca"), text("cert"), text("key"));
    let server_name = text("server_name");
    table.finish(raw::TLS, problems);

    let encrypted = addresses.iter().any(Address::is_encrypted);
    let given = [&ca, &cert, &key, &server_name];
    if let Some(spot) = given.into_iter().flatten().next()
        && !addresses.is_empty()
        && !encrypted
    {
        let problem = spot.problem("no address in `urls` begins with amqps://".to_owned());
        let advice = "write amqps:// there (port 5671 by default), or leave [broker.tls] out";
        problems.push(problem.advise(advice.to_owned()));
    }
    match (&cert, &key) {
        (Some(spot), None) => {
            let problem = spot.problem("`cert` without `key`".to_owned());
            problems.push(problem.advise("add `key`, its private key".to_owned()));
        }
        (None, Some(spot)) => {
            let problem = spot.problem("`key` without `cert`".to_owned());
            problems.push(problem.advise("add `cert`, the certificate of this key".to_owned()));
        }
        (Some(_), Some(_)) | (None, None) => {}
    }
    if let Some(spot) = &server_name
        && !tls::is_server_name(&spot.value)
    {
        let problem = spot.problem("neither a host name nor an IP address".to_owned());
        problems.push(problem.advise("without scheme and port".to_owned()));
    }

    let path = |spot: &Spot<String>| PathBuf::from(&spot.value);
    let identity = cert.as_ref().zip(key.as_ref());
    let tls = Tls {
        ca: ca.as_ref().map(path),
        identity: identity.map(|(cert, key)| Identity {
            cert: path(cert),
            key: path(key),
        }),
        server_name: server_name.map(|spot| spot.value),
    };
    if !encrypted {
        return tls;
    }
    if let Some(spot) = &key
        && let Some((text, advice)) = open_to_all(&path(spot))
    {
        problems.push(spot.problem(text).advise(advice).as_warning());
    }
    if let Some(fault) = tls::fault(&tls) {
        let spot = match fault.key {
            "cert" => cert.map(|spot| spot.with(())),
            "key" => key.map(|spot| spot.with(())),
            _ => ca.map(|spot| spot.with(())),
        };
        let spot = spot.unwrap_or_else(|| broker.spot_of("tls"));
        let problem = spot
            .problem(fault.text)
            .advise(fault.advice.map(str::to_owned));
        problems.push(problem.as_warning());
    }
    tls
}

fn addresses(
    table: &mut Table<'_>,
    password_file: bool,
    problems: &mut Vec<Problem>,
) -> Vec<Address> {
    let default = "amqp://guest:guest@localhost:5672/%2f";
    let Some(urls) = table.strings("urls", problems) else {
        return default.parse().into_iter().collect();
    };
    if table.is_empty_list("urls") {
        let text = "`urls` is empty: no broker to publish to";
        let problem = table.problem_of("urls", text.to_owned());
        problems.push(problem.advise(format!("for example urls = [\"{default}\"]")));
    }
    let parse = |spot: &Spot<String>| match spot.value.parse::<Address>() {
        Ok(address) => {
            problems.extend(wrong_login(spot, address.login(), password_file));
            Some(address)
        }
        Err(error) => {
            // Its line is not shown: it may hold a password.
            let problem = spot.secret_problem(format!("not a broker's address: {error}"));
            problems.push(problem.advise(
                "in user, password and virtual host, special characters are written %XX: @ is %40, / is %2f, # is %23, ? is %3f"
                    .to_owned(),
            ));
            None
        }
    };
    urls.iter().filter_map(parse).collect()
}

/// One password for each user, from one place.
fn wrong_login(spot: &Spot<String>, login: Login, password_file: bool) -> Option<Problem> {
    let (text, advice) = match (login, password_file) {
        (Login::UserAndPassword, true) => (
            "a password beside `password_file`",
            "leave it out here: amqp://USER@HOST:PORT/VHOST",
        ),
        (Login::User, false) => (
            "a user without a password",
            "write amqp://USER:PASSWORD@HOST:PORT/VHOST, or set `password_file`",
        ),
        (Login::Default | Login::User, true) | (Login::Default | Login::UserAndPassword, false) => {
            return None;
        }
    };
    Some(
        spot.secret_problem(text.to_owned())
            .advise(advice.to_owned()),
    )
}

const KINDS: &[(&str, QueueKind)] = &[
    ("quorum", QueueKind::Quorum),
    ("classic", QueueKind::Classic),
    ("stream", QueueKind::Stream),
];

fn queues(broker: &mut Table<'_>, problems: &mut Vec<Problem>) -> Vec<amqp::Queue> {
    let mut names = HashSet::new();
    let tables = broker.tables("queue", problems);
    if tables.is_empty() {
        let queue = |name: &&str| amqp::Queue {
            name: (*name).into(),
            kind: QueueKind::Quorum,
            arguments: BTreeMap::new(),
            required: true,
        };
        return ["archive", "alerting", "search"]
            .iter()
            .map(queue)
            .collect();
    }
    let mut queues = Vec::new();
    for mut table in tables {
        let kind = table
            .choice("type", KINDS, problems)
            .unwrap_or(QueueKind::Quorum);
        let required = table.boolean("required", problems).unwrap_or(true);
        let arguments = table.scalars("arguments", problems);
        let name = table.string("name", problems);
        match name {
            None => {
                let problem = table.problem("a [[broker.queue]] without `name`".to_owned());
                problems.push(problem.advise("for example name = \"archive\"".to_owned()));
            }
            Some(spot) => {
                check_name(&spot, problems);
                if !names.insert(spot.value.clone()) {
                    problems.push(
                        spot.problem(format!("another queue is called {:?} too", spot.value)),
                    );
                }
                let mut queue = amqp::Queue {
                    name: spot.value.as_str().into(),
                    kind,
                    arguments: BTreeMap::new(),
                    required,
                };
                take_arguments(&mut queue, &arguments, problems);
                if grows_without_end(&queue) {
                    let problem = spot.problem(
                        "a stream without retention grows until the disk is full, unless a policy \
                         limits it"
                            .to_owned(),
                    );
                    let advice = "add arguments = { x-max-age = \"7D\" }, or x-max-length-bytes";
                    problems.push(problem.advise(advice.to_owned()).as_warning());
                }
                queues.push(queue);
            }
        }
        table.finish(raw::QUEUE, problems);
    }
    queues
}

/// Takes the arguments into the queue, and judges them as RabbitMQ would.
fn take_arguments(
    queue: &mut amqp::Queue,
    arguments: &[(Spot<String>, Spot<Argument>)],
    problems: &mut Vec<Problem>,
) {
    let of_type = |name: &Spot<String>| name.value == "x-queue-type";
    for (name, value) in arguments.iter().filter(|(name, _)| !of_type(name)) {
        let name = name.value.clone();
        queue.arguments.insert(name, value.value.clone());
    }
    // Judged as the type that was meant.
    let mut judged = queue.clone();
    if let Some((_, value)) = arguments.iter().find(|(name, _)| of_type(name))
        && let Argument::Text(text) = &value.value
        && let Some((_, kind)) = KINDS.iter().find(|(word, _)| word == text)
    {
        judged.kind = *kind;
    }
    for (name, value) in arguments {
        if of_type(name) {
            let problem = name.problem("a queue's type is not an argument here".to_owned());
            let kind = match &value.value {
                Argument::Text(kind) => kind,
                _ => "quorum",
            };
            problems.push(problem.advise(format!("write type = {kind:?} beside `name`")));
            continue;
        }
        check_name(name, problems);
        let Some(finding) = judge(&judged, &name.value) else {
            continue;
        };
        let known = arguments::names();
        let near = nearest(&name.value, known).filter(|near| *near != name.value);
        let advice = match near {
            Some(near) if !arguments::names().any(|known| known == name.value) => {
                format!("did you mean `{near}`?")
            }
            _ if finding.advice.is_empty() => in_digits(&value.value).unwrap_or_default(),
            _ => finding.advice,
        };
        let problem = if finding.of_value {
            value.problem(finding.text)
        } else {
            name.problem(finding.text)
        };
        let problem = problem.advise((!advice.is_empty()).then_some(advice));
        problems.push(if finding.refused {
            problem
        } else {
            problem.as_warning()
        });
    }
}

/// RabbitMQ takes numbers alone; fantail's own sizes may be written otherwise.
fn in_digits(value: &Argument) -> Option<String> {
    match value {
        Argument::Text(text) => {
            let bytes = raw::parse_size(text)?;
            Some(format!("write {bytes}, without quotes"))
        }
        Argument::Integer(_) | Argument::Boolean(_) => None,
    }
}
