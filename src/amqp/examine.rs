//! Looks at brokers without changing anything on them: who answers, what of exchange and queues is
//! there and how it differs, and which rights are missing.
//!
//! Nothing is made. What exists is found by passive declares, which need no rights. Only what exists
//! is then declared actively, because the broker's refusal names the first argument that differs.
//! (What somebody deletes between the two would be made; AMQP has no declare that cannot.)
//! Rights are asked for by requests that no RabbitMQ grants: it looks at the right first (403) and
//! then at an argument or property that is never valid (406); measured on 3.10.8; rabbit_channel.erl
//! has the same order in 4.x.

use std::time::Duration;

use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, Error, ExchangeKind};

use super::connect::{self, Address};
use super::greeting::{Greeting, greet};
use super::topology::{
    ACCESS_REFUSED, Answer, NOT_FOUND, PRECONDITION_FAILED, declare_exchange, declare_queue,
    on_channel,
};
use super::{Failure, FailureKind, Queue, QueueKind, Settings, Topology};

/// What was found.
#[derive(Debug)]
pub struct Examination {
    /// One answer for each address, in their order.
    pub brokers: Vec<Asked>,
    /// What is on the first broker that answered; nothing where none did.
    pub found: Option<Found>,
}

/// What became of one address.
#[derive(Debug)]
pub struct Asked {
    /// Without password.
    pub address: String,
    /// Product and version, where an AMQP broker greeted.
    pub product: Option<String>,
    /// Why it cannot be used.
    pub refusal: Option<Refusal>,
}

/// Why a broker cannot be used.
#[derive(Debug)]
pub struct Refusal {
    /// What it means for a script.
    pub kind: RefusalKind,
    /// What happened.
    pub text: String,
    /// What to do, where that is known.
    pub advice: Option<&'static str>,
}

/// What a refusal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// Nobody who speaks AMQP answers.
    Unreachable,
    /// User, password, or the right to the virtual host.
    Login,
    /// The file with the password.
    Password,
    /// A file of `[broker.tls]`.
    Files,
    /// The virtual host is not there.
    NoVirtualHost,
}

/// What is there.
#[derive(Debug)]
pub struct Found {
    /// The exchange.
    pub exchange: State,
    /// Why nothing may be published to it.
    pub publish_refused: Option<String>,
    /// The queues, in the order of the topology.
    pub queues: Vec<QueueFound>,
}

/// A queue.
#[derive(Debug)]
pub struct QueueFound {
    /// Itself.
    pub state: State,
    /// What it is on the broker, as far as that was told.
    pub kind: QueueKind,
    /// Ready messages and consumers, where it is there.
    pub counts: Option<(u32, u32)>,
}

/// How an object stands to the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// There, and nothing differs.
    Same,
    /// There; this user may not compare it (the right `configure`).
    NotCompared,
    /// There, and this differs first.
    Differs(String),
    /// There, and cannot be used.
    Unusable(String),
    /// Not there; what refuses to have it made, if anything does.
    Absent(Option<String>),
}

/// Asks every address, and looks around on the first broker that answers.
pub async fn examine(settings: &Settings) -> Examination {
    let mut examination = Examination {
        brokers: Vec::new(),
        found: None,
    };
    for address in &settings.addresses {
        let greeting = greeting(settings, address).await;
        let mut asked = Asked {
            address: address.to_string(),
            product: None,
            refusal: None,
        };
        let examined = match greeting {
            Greeting::Broker(product) => {
                asked.product = Some(product).filter(|product| !product.is_empty());
                let look = examination.found.is_none();
                look_around(settings, address, look).await
            }
            other => Err(not_a_broker(&other)),
        };
        match examined {
            Ok(Some(found)) => examination.found = Some(found),
            Ok(None) => {}
            Err(refusal) => asked.refusal = Some(refusal),
        }
        examination.brokers.push(asked);
    }
    examination
}

/// Whoever speaks TLS is asked for nothing before the connection is there.
async fn greeting(settings: &Settings, address: &Address) -> Greeting {
    if address.is_encrypted() {
        return Greeting::Broker(String::new());
    }
    let (host, port) = address.host_and_port();
    greet(host, port, settings.connect_timeout).await
}

/// Connects, and looks around if `look`.
async fn look_around(
    settings: &Settings,
    address: &Address,
    look: bool,
) -> Result<Option<Found>, Refusal> {
    let (connection, _socket) = connect::connect(settings, address)
        .await
        .map_err(|failure| not_let_in(&failure))?;
    let limit = answer_limit(settings);
    let found = if look {
        match tokio::time::timeout(limit, find(&connection, &settings.topology)).await {
            Ok(Ok(found)) => Ok(Some(found)),
            Ok(Err(error)) => Err(unreachable(connect::text(&error), None)),
            Err(_) => Err(unreachable(format!("no answer within {limit:?}"), None)),
        }
    } else {
        Ok(None)
    };
    // A goodbye to whoever may not answer any more.
    let closing = connection.close(200, "done".into());
    let _ = tokio::time::timeout(Duration::from_secs(1), closing).await;
    found
}

/// Several requests for each object.
fn answer_limit(settings: &Settings) -> Duration {
    let objects = u32::try_from(settings.topology.queues.len() + 1).unwrap_or(u32::MAX);
    settings.connect_timeout.saturating_mul(objects)
}

fn unreachable(text: String, advice: Option<&'static str>) -> Refusal {
    Refusal {
        kind: RefusalKind::Unreachable,
        text,
        advice,
    }
}

fn not_a_broker(greeting: &Greeting) -> Refusal {
    let (text, advice) = greeting.not_a_broker();
    unreachable(text.to_owned(), advice)
}

/// What a failure means after an AMQP broker has greeted.
fn not_let_in(failure: &Failure) -> Refusal {
    let text = failure.text.clone();
    // The codes and texts of rabbit_reader.erl and rabbit_access_control.erl.
    let not_allowed = text.starts_with("530 ");
    if failure.kind == FailureKind::Password {
        Refusal {
            kind: RefusalKind::Password,
            text,
            advice: Some(
                "a regular file with nothing but the password, which the user that fantail runs as \
                 may read",
            ),
        }
    } else if failure.kind == FailureKind::Files {
        Refusal {
            kind: RefusalKind::Files,
            text,
            advice: failure.advice,
        }
    } else if let FailureKind::Login | FailureKind::Certificate = failure.kind {
        Refusal {
            kind: RefusalKind::Login,
            text,
            advice: failure.advice.or(Some(
                "user or password are wrong; guest may log in from the broker's own host only",
            )),
        }
    } else if not_allowed && text.contains("connection limit") {
        let advice = "raise or clear the limit: rabbitmqctl clear_user_limits USER all, \
                      clear_vhost_limits -p VHOST";
        unreachable(text, Some(advice))
    } else if not_allowed && text.contains("refused for user") {
        Refusal {
            kind: RefusalKind::Login,
            text,
            advice: Some("give the user rights: rabbitmqctl set_permissions -p VHOST USER …"),
        }
    } else if not_allowed && text.contains("not found") {
        Refusal {
            kind: RefusalKind::NoVirtualHost,
            text,
            advice: Some(
                "fantail makes no virtual hosts: rabbitmqctl add_vhost VHOST; in an address the \
                 virtual host `/` is written %2f",
            ),
        }
    } else {
        unreachable(text, failure.advice)
    }
}

async fn find(connection: &Connection, topology: &Topology) -> Result<Found, Error> {
    let exchange = exchange_state(connection, topology).await?;
    let publish_refused = publish_right(connection, topology).await?;
    let mut queues = Vec::new();
    for queue in &topology.queues {
        queues.push(queue_found(connection, queue, topology).await?);
    }
    Ok(Found {
        exchange,
        publish_refused,
        queues,
    })
}

async fn exchange_state(connection: &Connection, topology: &Topology) -> Result<State, Error> {
    let looked = on_channel(connection, async |channel| {
        declare_exchange(&channel, topology, true).await
    });
    match looked.await? {
        Answer::Yes => {}
        Answer::No(NOT_FOUND, _) => return exchange_absent(connection, topology).await,
        Answer::No(_, text) => return Ok(State::Unusable(text)),
    }
    let compared = on_channel(connection, async |channel| {
        declare_exchange(&channel, topology, false).await
    });
    Ok(compared_as(compared.await?))
}

async fn exchange_absent(connection: &Connection, topology: &Topology) -> Result<State, Error> {
    if !topology.declare {
        return Ok(State::Absent(None));
    }
    let asked = on_channel(connection, async |channel| {
        never_an_exchange(&channel, topology).await
    });
    Ok(State::Absent(refused(asked.await?)))
}

async fn queue_found(
    connection: &Connection,
    queue: &Queue,
    topology: &Topology,
) -> Result<QueueFound, Error> {
    let mut counts = None;
    let looked = on_channel(connection, async |channel| {
        counts = Some(look_for(&channel, queue).await?);
        Ok(())
    });
    let state = match looked.await? {
        Answer::Yes => {
            let compared = on_channel(connection, async |channel| {
                declare_queue(&channel, queue, false).await
            });
            compared_as(compared.await?)
        }
        // RabbitMQ says "not found" of a classic queue whose node is down, too.
        Answer::No(NOT_FOUND, text) if text.contains("down or inaccessible") => {
            State::Unusable(text)
        }
        Answer::No(NOT_FOUND, _) => queue_absent(connection, queue, topology).await?,
        Answer::No(_, text) => State::Unusable(text),
    };
    let kind = match &state {
        State::Differs(difference) => kind_there(difference).unwrap_or(queue.kind),
        _ => queue.kind,
    };
    Ok(QueueFound {
        state,
        kind,
        counts,
    })
}

async fn queue_absent(
    connection: &Connection,
    queue: &Queue,
    topology: &Topology,
) -> Result<State, Error> {
    if !topology.declare {
        return Ok(State::Absent(None));
    }
    let asked = on_channel(connection, async |channel| {
        never_a_queue(&channel, queue).await
    });
    if let Some(text) = refused(asked.await?) {
        return Ok(State::Absent(Some(text)));
    }
    // The queue is absent: with the rights for it, the answer is that it is not found.
    let asked = on_channel(connection, async |channel| {
        let (queue, exchange) = (ShortString::from(&*queue.name), topology.exchange.as_str());
        let options = QueueBindOptions::default();
        channel
            .queue_bind(
                queue,
                exchange.into(),
                "".into(),
                options,
                FieldTable::default(),
            )
            .await
    });
    Ok(State::Absent(refused(asked.await?)))
}

/// Why nothing may be published to the exchange. The message that asks can reach no queue.
async fn publish_right(
    connection: &Connection,
    topology: &Topology,
) -> Result<Option<String>, Error> {
    let asked = on_channel(connection, async |channel| {
        // With confirms the refusal comes as the answer to this message, whatever else happens.
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        let exchange = ShortString::from(topology.exchange.as_str());
        let options = BasicPublishOptions::default();
        let never = BasicProperties::default().with_expiration("never valid".into());
        let asked = channel.basic_publish(exchange, "".into(), options, &[], never);
        asked.await?.await.map(|_| ())
    });
    Ok(refused(asked.await?))
}

fn compared_as(answer: Answer) -> State {
    match answer {
        Answer::Yes => State::Same,
        Answer::No(ACCESS_REFUSED, _) => State::NotCompared,
        Answer::No(PRECONDITION_FAILED, text) => State::Differs(difference(&text)),
        Answer::No(_, text) => State::Unusable(text),
    }
}

fn refused(answer: Answer) -> Option<String> {
    match answer {
        Answer::No(ACCESS_REFUSED, text) => Some(text),
        Answer::Yes | Answer::No(..) => None,
    }
}

/// Out of `… inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received none but current
/// is the value '5' of type 'long'` comes `x-max-length: none configured, 5 on the broker`; what
/// is worded otherwise stays as it is.
fn difference(text: &str) -> String {
    let parsed = || {
        let (_, rest) = text.split_once("inequivalent arg '")?;
        let (name, rest) = rest.split_once('\'')?;
        let (_, values) = rest.split_once(": received ")?;
        let (received, current) = values.split_once(" but current is ")?;
        let value = |text: &str| -> String {
            let text = text.strip_prefix("the value ").unwrap_or(text);
            let bare = text
                .strip_prefix('\'')
                .and_then(|text| text.split_once('\''));
            match (bare, name) {
                (Some((bare, _)), _) => bare.to_owned(),
                // A queue of no type is a classic one.
                (None, "x-queue-type") => "classic".to_owned(),
                (None, _) => text.to_owned(),
            }
        };
        let (received, current) = (value(received), value(current));
        Some(format!(
            "{name}: {received} configured, {current} on the broker"
        ))
    };
    parsed().unwrap_or_else(|| text.to_owned())
}

/// The type that is on the broker, out of what [`difference`] made.
fn kind_there(difference: &str) -> Option<QueueKind> {
    let told = difference.strip_prefix("x-queue-type: ")?;
    let kinds = [QueueKind::Quorum, QueueKind::Classic, QueueKind::Stream];
    kinds
        .into_iter()
        .find(|kind| told.ends_with(&format!(" {} on the broker", kind.as_str())))
}

async fn look_for(channel: &Channel, queue: &Queue) -> Result<(u32, u32), Error> {
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let name = ShortString::from(&*queue.name);
    let there = channel
        .queue_declare(name, passive, FieldTable::default())
        .await?;
    Ok((there.message_count(), there.consumer_count()))
}

/// An alternate exchange is a name: refused after the right was looked at.
async fn never_an_exchange(channel: &Channel, topology: &Topology) -> Result<(), Error> {
    let mut never = FieldTable::default();
    never.insert("alternate-exchange".into(), AMQPValue::LongInt(0));
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let name = topology.exchange.as_str().into();
    channel
        .exchange_declare(name, ExchangeKind::Fanout, options, never)
        .await
}

/// A length is not negative: refused after the right was looked at.
async fn never_a_queue(channel: &Channel, queue: &Queue) -> Result<(), Error> {
    let mut never = FieldTable::default();
    never.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("classic".into()),
    );
    never.insert("x-max-length".into(), AMQPValue::LongLongInt(-1));
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(ShortString::from(&*queue.name), options, never)
        .await
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_told_in_the_terms_of_the_configuration() {
        let told = |words: &str| {
            difference(&format!(
                "406 PRECONDITION_FAILED - inequivalent arg {words}"
            ))
        };
        assert_eq!(
            told(
                "'x-max-length' for queue 'q' in vhost '/': received the value '5' of type 'long' but current is none"
            ),
            "x-max-length: 5 configured, none on the broker"
        );
        assert_eq!(
            told(
                "'x-queue-type' for queue 'q' in vhost '/': received the value 'quorum' of type 'longstr' but current is none"
            ),
            "x-queue-type: quorum configured, classic on the broker"
        );
        assert_eq!(
            told(
                "'type' for exchange 'logs' in vhost '/': received 'fanout' but current is 'direct'"
            ),
            "type: fanout configured, direct on the broker"
        );
        assert_eq!(difference("406 something else"), "406 something else");
    }
}
