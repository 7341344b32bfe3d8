//! `fantail check`: what the configuration means here and now, which files match and can be read;
//! with `--connect`, also what is on the broker. Changes nothing anywhere.

use std::io;
use std::path::Path;

use super::Failure;
use super::access::{self, User};
use super::page::{Page, Row, Tone, bytes, counted, escaped, say, shown};
use crate::amqp::arguments::limited_by_default;
use crate::amqp::examine::{Asked, Examination, Found, RefusalKind, State, examine};
use crate::amqp::{Queue, QueueKind, Topology};
use crate::config::{self, Config};
use crate::tail::discover::{self, Memory, Notices, Scan};

pub(super) const EXAMPLES: &str = "\
Examples:
  fantail check
  fantail check --config ./fantail.toml --all
  sudo -u fantail fantail check      as the daemon's user, who may read less than root
  fantail check --connect            also looks at the broker, and makes nothing there

Exit codes: 0 good, also when files are missing or cannot be read; 78 bad configuration.
With --connect also: 1 something on the broker differs, or is absent and would not be made;
77 login or a right refused; 69 no broker can be reached.";

/// Paths shown for one source.
const SHOWN_MAX: usize = 10;

pub(super) fn run(path: &Path, connect: bool, all: bool) -> Result<(), Failure> {
    let config = config::load(path)?;
    for warning in &config.warnings {
        say(&warning.to_string());
    }
    let mut page = Page::new();
    page.line(
        Tone::Good,
        &format!(
            "{}: good, {}, {}",
            shown(path),
            counted(config.sources.len(), "source"),
            counted(config.broker.topology.queues.len(), "queue")
        ),
    );
    files(&config, if all { usize::MAX } else { SHOWN_MAX }, &mut page);
    if !connect {
        warn_of_delivery_limit(&config.broker.topology, None);
        return print(page);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failure(70, &format!("the runtime could not be started: {error}")))?;
    let examination = runtime.block_on(examine(&config.broker));
    // A task that hangs in the library must not keep the process.
    runtime.shutdown_background();
    let topology = &config.broker.topology;
    brokers(&examination.brokers, &mut page);
    let answered = |asked: &&Asked| asked.refusal.is_none();
    if let (Some(found), Some(asked)) = (
        &examination.found,
        examination.brokers.iter().find(answered),
    ) {
        objects(asked, found, topology, &mut page);
        warn_of_delivery_limit(topology, asked.product.as_deref());
    }
    print(page)?;
    judge(&examination, topology)
}

fn print(page: Page) -> Result<(), Failure> {
    page.print()
        .map_err(|error| failure(74, &format!("cannot write: {error}")))
}

fn failure(code: u8, text: &str) -> Failure {
    Failure {
        text: format!("error: {text}"),
        code,
    }
}

/// Which files match, and which of them can be read.
fn files(config: &Config, most: usize, page: &mut Page) {
    let selections: Vec<_> = config
        .sources
        .iter()
        .map(|source| source.selection.clone())
        .collect();
    let mut memory = Memory::silent();
    let scan = discover::scan(&selections, &mut memory);
    let user = User::current();
    if config.sources.is_empty() {
        page.line(Tone::Doubtful, "no [[source]]: fantail would run idle");
    }
    for index in 0..config.sources.len() {
        source(config, index, &scan, &user, most, page);
    }
    passed_over(memory.notices(), &user, most, page);
    if user.is_root() && !scan.found.is_empty() {
        let hint = "checked as root, who may read everything; for the daemon's user: \
                    sudo -u USER fantail check";
        page.line(Tone::Plain, "");
        page.line(Tone::Plain, hint);
    }
}

fn source(config: &Config, index: usize, scan: &Scan, user: &User, most: usize, page: &mut Page) {
    let source = &config.sources[index];
    page.line(Tone::Heading, &format!("source {}", escaped(&source.name)));
    let mut readable = Vec::new();
    let mut unreadable = Vec::new();
    let mut total = 0;
    for found in scan.found.iter().filter(|found| found.source == index) {
        match access::size(found) {
            Ok(size) => {
                total += size;
                readable.push(Row::new(vec![shown(&found.path)], Tone::Plain, bytes(size)));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let why = access::why_not(&found.path, &error, user);
                unreadable.push(Row::new(vec![shown(&found.path)], Tone::Bad, why));
            }
        }
    }
    if readable.is_empty() && unreadable.is_empty() {
        nothing_matches(&source.selection, page);
        return;
    }
    let files = counted(readable.len(), "file");
    page.line(
        Tone::Plain,
        &format!("  {files} can be read, {}", bytes(total)),
    );
    some_rows(readable, most, page);
    if !unreadable.is_empty() {
        let files = counted(unreadable.len(), "file");
        let who = escaped(&user.name);
        page.line(Tone::Bad, &format!("  {files} user {who} cannot read"));
        some_rows(unreadable, most, page);
    }
}

fn nothing_matches(selection: &discover::Selection, page: &mut Page) {
    page.line(Tone::Doubtful, "  no file matches now");
    let why = |pattern: &discover::Pattern| {
        let directory = pattern.directory();
        match std::fs::metadata(directory) {
            Ok(_) => String::new(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                format!("there is no {}", shown(directory))
            }
            Err(error) => format!("{}: {error}", shown(directory)),
        }
    };
    let row = |pattern: &discover::Pattern| {
        Row::new(vec![escaped(pattern.glob())], Tone::Doubtful, why(pattern))
    };
    let rows: Vec<_> = selection.include.iter().map(row).collect();
    page.rows(4, &rows);
}

fn some_rows(mut rows: Vec<Row>, most: usize, page: &mut Page) {
    let more = rows.len().saturating_sub(most);
    rows.truncate(most);
    page.rows(4, &rows);
    if more > 0 {
        page.line(
            Tone::Plain,
            &format!("    and {more} more (--all shows them)"),
        );
    }
}

fn passed_over(notices: &Notices, user: &User, most: usize, page: &mut Page) {
    let told = |(path, reason): &(&Path, &str)| {
        let advice = match (std::fs::read_link(path), *reason) {
            (Ok(target), _) => format!(" (to {}; include that path itself)", shown(&target)),
            (Err(_), "directory cannot be read") => {
                format!(": {}", access::of_directory(path, user))
            }
            (Err(_), "cannot be reached") => format!(": {}", access::of_file(path, user)),
            _ => String::new(),
        };
        let told = format!("{reason}{advice}");
        Row::new(vec![shown(path)], Tone::Doubtful, told)
    };
    let rows: Vec<_> = notices.passed_over().iter().map(told).collect();
    if !rows.is_empty() {
        page.line(Tone::Heading, "passed over");
        some_rows(rows, most, page);
    }
}

/// Who answers.
fn brokers(asked: &[Asked], page: &mut Page) {
    page.line(Tone::Heading, "broker");
    let row = |asked: &Asked| {
        let product = escaped(asked.product.as_deref().unwrap_or("an AMQP broker"));
        let cells = vec![escaped(&asked.address)];
        let Some(refusal) = &asked.refusal else {
            return Row::new(cells, Tone::Good, format!("{product} answers"));
        };
        let text = escaped(&refusal.text);
        let told = match refusal.kind {
            RefusalKind::Unreachable => format!("cannot be used: {text}"),
            RefusalKind::Password => format!("no password to log in with: {text}"),
            RefusalKind::Files => format!("TLS cannot begin: {text}"),
            RefusalKind::Login => format!("{product} refuses the login: {text}"),
            RefusalKind::NoVirtualHost => format!("{product} has no such virtual host: {text}"),
        };
        let mut row = Row::new(cells, Tone::Bad, told);
        row.notes.extend(refusal.advice.map(str::to_owned));
        row
    };
    let rows: Vec<_> = asked.iter().map(row).collect();
    page.rows(2, &rows);
}

/// What is there.
fn objects(asked: &Asked, found: &Found, topology: &Topology, page: &mut Page) {
    page.line(Tone::Heading, &format!("on {}", escaped(&asked.address)));
    let row = |what: &str, name: &str, kind: &str, found: &State| {
        let (tone, told, advice) = state(found, what, topology.declare);
        let cells = vec![what.to_owned(), escaped(name), kind.to_owned()];
        let mut row = Row::new(cells, tone, told);
        row.notes.extend(advice);
        row
    };
    let mut exchange = row("exchange", &topology.exchange, "fanout", &found.exchange);
    if let Some(text) = &found.publish_refused {
        exchange.tone = Tone::Bad;
        exchange.notes.push(format!(
            "this user may not publish to it: {}",
            escaped(text)
        ));
    }
    let mut rows = vec![exchange];
    for (queue, there) in topology.queues.iter().zip(&found.queues) {
        let mut row = row("queue", &queue.name, queue.kind.as_str(), &there.state);
        if let Some((messages, consumers)) = there.counts {
            let messages = counted(messages.try_into().unwrap_or(usize::MAX), "message");
            let consumers = counted(consumers.try_into().unwrap_or(usize::MAX), "consumer");
            row.notes.push(format!("{messages}, {consumers}"));
        }
        row.notes.push(confirm_means(there.kind).to_owned());
        if !queue.required {
            row.notes
                .push("not required: it is not waited for".to_owned());
        }
        rows.push(row);
    }
    page.rows(2, &rows);
    page.line(
        Tone::Plain,
        "  bindings not checked (AMQP cannot list them)",
    );
}

/// What a state is called, and what to do about it.
fn state(state: &State, what: &str, declare: bool) -> (Tone, String, Option<String>) {
    let (tone, told, advice) = match state {
        State::Same => (Tone::Good, "there, as configured".to_owned(), None),
        State::NotCompared => {
            let text = "there; not compared: this user has no right to configure it";
            (Tone::Plain, text.to_owned(), None)
        }
        State::Differs(text) => {
            let advice = format!(
                "it cannot be changed: change the configuration, or delete the {what} on the broker"
            );
            let text = format!("there, differs: {}", escaped(text));
            (Tone::Bad, text, Some(advice))
        }
        State::Unusable(text) => {
            let text = format!("there, cannot be used: {}", escaped(text));
            (Tone::Bad, text, None)
        }
        State::Absent(None) if declare => {
            (Tone::Plain, "absent; fantail run makes it".to_owned(), None)
        }
        State::Absent(None) => {
            let text = "absent, and not made with declare = \"never\": make it first";
            (Tone::Bad, text.to_owned(), None)
        }
        State::Absent(Some(text)) => {
            let advice = "give the user the right, or make and bind it yourself";
            let text = format!("absent, and may not be made: {}", escaped(text));
            (Tone::Bad, text, Some(advice.to_owned()))
        }
    };
    (tone, told, advice)
}

fn confirm_means(kind: QueueKind) -> &'static str {
    match kind {
        QueueKind::Quorum => "confirmed means: fsynced by a majority of its nodes",
        QueueKind::Classic => "confirmed means: written, not fsynced; a power cut may lose it",
        QueueKind::Stream => "confirmed means: replicated, not fsynced; a power cut may lose it",
    }
}

/// `product` is the broker that answered, if one was asked.
fn warn_of_delivery_limit(topology: &Topology, product: Option<&str>) {
    let before_4 = product
        .and_then(|product| {
            product
                .strip_prefix("RabbitMQ ")?
                .split('.')
                .next()?
                .parse()
                .ok()
        })
        .is_some_and(|major: u32| major < 4);
    let limited = topology
        .queues
        .iter()
        .filter(|queue| limited_by_default(queue));
    let names: Vec<&str> = limited.map(|queue: &Queue| &*queue.name).collect();
    if names.is_empty() || before_4 {
        return;
    }
    let (names, pattern) = (escaped(&names.join(", ")), escaped(&names.join("|")));
    say(&format!(
        "warning: RabbitMQ 4 drops a message of a quorum queue ({names}) that consumers returned 20 \
         times, unless a policy says otherwise:\n  rabbitmqctl set_policy --apply-to quorum_queues \
         fantail '^({pattern})$' '{{\"delivery-limit\": -1}}'"
    ));
}

/// What it all means to a script. A refusal weighs more than a difference: it hides others.
fn judge(examination: &Examination, topology: &Topology) -> Result<(), Failure> {
    let refused = |kind| {
        let kinds = examination
            .brokers
            .iter()
            .filter_map(|asked| asked.refusal.as_ref());
        kinds.map(|refusal| refusal.kind).any(|found| found == kind)
    };
    if refused(RefusalKind::Login) {
        return Err(failure(77, "a login was refused"));
    }
    if refused(RefusalKind::Password) {
        return Err(failure(77, "the password file cannot be used"));
    }
    if refused(RefusalKind::Files) {
        return Err(failure(77, "a file of [broker.tls] cannot be used"));
    }
    let Some(found) = &examination.found else {
        return Err(if refused(RefusalKind::NoVirtualHost) {
            failure(1, "the virtual host is absent, and fantail makes none")
        } else {
            failure(69, "no broker can be reached")
        });
    };
    let queues = found.queues.iter().map(|queue| &queue.state);
    let states: Vec<&State> = std::iter::once(&found.exchange).chain(queues).collect();
    if found.publish_refused.is_some()
        || states
            .iter()
            .any(|state| matches!(state, State::Absent(Some(_))))
    {
        return Err(failure(
            77,
            "the broker refuses this user a right that is needed",
        ));
    }
    let wrong = |state: &&&State| match state {
        State::Differs(_) | State::Unusable(_) => true,
        State::Absent(_) => !topology.declare,
        State::Same | State::NotCompared => false,
    };
    match states.iter().filter(wrong).count() {
        0 => Ok(()),
        count => {
            let objects = counted(count, "object");
            Err(failure(
                1,
                &format!("{objects} on the broker not as configured"),
            ))
        }
    }
}
