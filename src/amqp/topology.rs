//! Exchange and queues: looked for on channels of their own, because the broker answers what it
//! does not like by closing the channel.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection, Error, ErrorKind, ExchangeKind};

use super::connect::text;
use super::{Argument, Checked, Queue, QueueKind, Topology};

pub(super) const ACCESS_REFUSED: u16 = 403;
pub(super) const NOT_FOUND: u16 = 404;
pub(super) const PRECONDITION_FAILED: u16 = 406;

/// Queues by name, and whether each is there.
pub(super) type Seen = Vec<(Arc<str>, bool)>;

/// Queues that are known to have no binding, because they or the exchange were made a moment ago,
/// and binding them failed. AMQP does not tell, so that this must be remembered: a queue that is
/// there, but not bound, gets nothing and nobody says so. Kept over connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Unbound(Arc<Mutex<BTreeSet<Arc<str>>>>);

impl Unbound {
    fn names(&self) -> BTreeSet<Arc<str>> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.clone()
    }

    fn set(&self, name: &Arc<str>, unbound: bool) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if unbound {
            names.insert(Arc::clone(name));
        } else {
            names.remove(name);
        }
    }
}

/// What could not be found out, told when it arises and not again with each connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Doubts(Arc<Mutex<BTreeSet<String>>>);

impl Doubts {
    /// These are there now, and no others.
    pub(super) fn are(&self, doubts: Vec<String>) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let doubts = BTreeSet::from_iter(doubts);
        for doubt in doubts.difference(&told) {
            tracing::warn!(reason = doubt, "whether a queue is bound is not known");
        }
        *told = doubts;
    }
}

/// Looks for the exchange and every queue by passive declares, which need no rights, and binds
/// what is known to be unbound.
pub(super) async fn check(
    connection: &Connection,
    topology: &Topology,
    unbound: &Unbound,
) -> Result<(Checked, Seen), Error> {
    let (mut missing, mut seen) = (Vec::new(), Seen::new());
    match on_channel(connection, async |channel| {
        declare_exchange(&channel, topology, true).await
    })
    .await?
    {
        Answer::Yes => {}
        Answer::No(NOT_FOUND, _) => missing.push(format!("exchange {}", topology.exchange)),
        Answer::No(_, text) => return Ok((Checked::Wrong(text), seen)),
    }
    for queue in &topology.queues {
        let answer = on_channel(connection, async |channel| {
            declare_queue(&channel, queue, true).await
        });
        match answer.await? {
            Answer::Yes => seen.push((Arc::clone(&queue.name), true)),
            Answer::No(NOT_FOUND, _) => {
                seen.push((Arc::clone(&queue.name), false));
                if queue.required {
                    missing.push(format!("queue {}", queue.name));
                }
            }
            Answer::No(_, text) if queue.required => return Ok((Checked::Wrong(text), seen)),
            Answer::No(..) => {}
        }
    }
    let known = unbound.names();
    let queues = topology.queues.iter();
    for queue in queues.filter(|queue| queue.required && known.contains(&queue.name)) {
        if missing.is_empty()
            && try_bind(connection, queue, topology, unbound)
                .await?
                .is_err()
        {
            missing.push(format!("binding of queue {}", queue.name));
        }
    }
    let checked = if missing.is_empty() {
        Checked::Good
    } else {
        Checked::Missing(missing)
    };
    Ok((checked, seen))
}

/// What an active declare says about objects that exist: that they are as configured, that they
/// are not, or nothing, where this user may not declare. Also binds, since nothing in AMQP tells
/// whether a binding is there. `seen` is what a check has just found; what it did not find is a
/// queue that is not required, and is made where that is wanted.
pub(super) async fn compare_and_bind(
    connection: &Connection,
    topology: &Topology,
    unbound: &Unbound,
    seen: &mut Seen,
) -> Result<Comparison, Error> {
    let mut comparison = Comparison::default();
    let exchange = on_channel(connection, async |channel| {
        declare_exchange(&channel, topology, false).await
    });
    if let Answer::No(PRECONDITION_FAILED, text) = exchange.await? {
        comparison.wrong = Some(text);
        return Ok(comparison);
    }
    for queue in &topology.queues {
        let found = seen.iter_mut().find(|(name, _)| *name == queue.name);
        if let Some((_, present @ false)) = found {
            if topology.declare {
                *present = make_optional(connection, queue, topology, unbound).await?;
            }
            continue;
        }
        let declared = on_channel(connection, async |channel| {
            declare_queue(&channel, queue, false).await
        });
        if let Answer::No(PRECONDITION_FAILED, text) = declared.await? {
            comparison.drift.push((Arc::clone(&queue.name), text));
        }
        if !topology.declare {
            continue;
        }
        // Refused: whoever set up the broker may have bound it.
        if let Err(error) = try_bind(connection, queue, topology, unbound).await? {
            comparison.doubtful.push(error);
        }
    }
    Ok(comparison)
}

/// How what exists differs from the configuration.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// The exchange is of another type: nothing can be published.
    pub(super) wrong: Option<String>,
    /// Bindings that could not be made, and may or may not be there.
    pub(super) doubtful: Vec<String>,
    /// Queues with another type or other arguments.
    pub(super) drift: Vec<(Arc<str>, String)>,
}

/// Makes what is missing and binds everything. Objects that exist are left as they are.
pub(super) async fn make(
    connection: &Connection,
    topology: &Topology,
    unbound: &Unbound,
) -> Result<Result<(), String>, Error> {
    let passive = on_channel(connection, async |channel| {
        declare_exchange(&channel, topology, true).await
    });
    if passive.await? != Answer::Yes {
        // A new exchange has no bindings. Known before it is there, lest a lost connection hide it.
        for queue in &topology.queues {
            unbound.set(&queue.name, true);
        }
        let active = on_channel(connection, async |channel| {
            declare_exchange(&channel, topology, false).await
        });
        if let Answer::No(code, text) = active.await? {
            return Ok(Err(refused("exchange", &topology.exchange, code, &text)));
        }
        tracing::info!(exchange = topology.exchange, "exchange made");
    }
    for queue in &topology.queues {
        if !queue.required {
            make_optional(connection, queue, topology, unbound).await?;
        } else if let Err(error) = make_queue(connection, queue, topology, unbound).await? {
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
}

/// Makes a queue that nothing waits for. Whether it is there now.
async fn make_optional(
    connection: &Connection,
    queue: &Queue,
    topology: &Topology,
    unbound: &Unbound,
) -> Result<bool, Error> {
    let made = make_queue(connection, queue, topology, unbound).await?;
    if let Err(reason) = &made {
        tracing::warn!(reason, "a queue that is not required cannot be made");
    }
    Ok(made.is_ok())
}

async fn make_queue(
    connection: &Connection,
    queue: &Queue,
    topology: &Topology,
    unbound: &Unbound,
) -> Result<Result<(), String>, Error> {
    let passive = on_channel(connection, async |channel| {
        declare_queue(&channel, queue, true).await
    });
    if passive.await? != Answer::Yes {
        unbound.set(&queue.name, true);
        let active = on_channel(connection, async |channel| {
            declare_queue(&channel, queue, false).await
        });
        if let Answer::No(code, text) = active.await? {
            return Ok(Err(refused("queue", &queue.name, code, &text)));
        }
        tracing::info!(queue = %queue.name, kind = queue.kind.as_str(), "queue made");
    }
    let bound = try_bind(connection, queue, topology, unbound).await?;
    // Of a queue that was there, nobody knows that it is unbound.
    Ok(bound.or_else(|error| {
        if unbound.names().contains(&queue.name) {
            Err(error)
        } else {
            Ok(())
        }
    }))
}

async fn try_bind(
    connection: &Connection,
    queue: &Queue,
    topology: &Topology,
    unbound: &Unbound,
) -> Result<Result<(), String>, Error> {
    let bound = on_channel(connection, async |channel| {
        bind(&channel, queue, topology).await
    });
    Ok(match bound.await? {
        Answer::Yes => {
            unbound.set(&queue.name, false);
            Ok(())
        }
        Answer::No(code, text) => Err(refused("binding of queue", &queue.name, code, &text)),
    })
}

fn refused(what: &str, name: &str, code: u16, text: &str) -> String {
    let advice = if code == ACCESS_REFUSED {
        "; give the user the right, or make it yourself and set declare = \"never\""
    } else {
        ""
    };
    format!("{what} {name} cannot be made: {text}{advice}")
}

/// What the broker said to one request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Yes,
    /// It closed the channel with this code and text.
    No(u16, String),
}

/// Does one thing on a channel of its own. An error of the connection is an error.
pub(super) async fn on_channel(
    connection: &Connection,
    request: impl AsyncFnOnce(Channel) -> Result<(), Error>,
) -> Result<Answer, Error> {
    let channel = connection.create_channel().await?;
    match request(channel.clone()).await {
        Ok(()) => {
            channel.close(200, "done".into()).await?;
            Ok(Answer::Yes)
        }
        Err(error) => match error.kind() {
            ErrorKind::ProtocolError(protocol) if error.is_amqp_soft_error() => {
                Ok(Answer::No(protocol.get_id(), text(&error)))
            }
            _ => Err(error),
        },
    }
}

pub(super) async fn declare_exchange(
    channel: &Channel,
    topology: &Topology,
    passive: bool,
) -> Result<(), Error> {
    let options = ExchangeDeclareOptions {
        passive,
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let name = topology.exchange.as_str().into();
    let arguments = FieldTable::default();
    channel
        .exchange_declare(name, ExchangeKind::Fanout, options, arguments)
        .await
}

pub(super) async fn declare_queue(
    channel: &Channel,
    queue: &Queue,
    passive: bool,
) -> Result<(), Error> {
    let options = QueueDeclareOptions {
        passive,
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let name = ShortString::from(&*queue.name);
    channel
        .queue_declare(name, options, arguments(queue))
        .await
        .map(|_| ())
}

async fn bind(channel: &Channel, queue: &Queue, topology: &Topology) -> Result<(), Error> {
    channel
        .queue_bind(
            ShortString::from(&*queue.name),
            topology.exchange.as_str().into(),
            "".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
}

fn arguments(queue: &Queue) -> FieldTable {
    let mut table = FieldTable::default();
    // A classic queue is what a broker makes when nothing is said; one that others made without
    // saying so must not look different.
    if queue.kind != QueueKind::Classic {
        let kind = AMQPValue::LongString(queue.kind.as_str().into());
        table.insert("x-queue-type".into(), kind);
    }
    for (name, value) in &queue.arguments {
        let value = match value {
            Argument::Integer(number) => AMQPValue::LongLongInt(*number),
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
            Argument::Boolean(boolean) => AMQPValue::Boolean(*boolean),
        };
        table.insert(name.as_str().into(), value);
    }
    table
}
