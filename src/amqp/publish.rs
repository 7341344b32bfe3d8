//! One connection's life: a single task owns the channel on which everything is published, because
//! with several the library hands confirms to the wrong one. Confirms are pipelined.

use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use futures_util::{FutureExt, Stream};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ErrorKind, PublisherConfirm};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::Instant;

use super::connect::{Socket, failure};
use super::throttle::Throttle;
use super::topology;
use super::{Attempt, Checked, Command, Event, Failure, Outcome, Settings};
use crate::wire::{APP_ID, DELIVERY_MODE, Header, Message};

/// How long a good-bye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a check may take before nothing more is written until it is over. It is a dozen questions
/// and answers, and over a slow network each waits behind a message that was written before it.
const ANSWER_DUE: Duration = Duration::from_secs(2);

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// Nobody gives commands any more.
    Closed,
    /// It broke.
    Failed {
        failure: Failure,
        /// Something was done over it before.
        worked: bool,
    },
    /// It was given up: heartbeats came, confirms did not.
    Silent(Failure),
}

/// What identifies a returned message: its id and where it was sent to. Which confirm the library
/// attaches it to means nothing.
type Returned = (String, String);

/// What outlives a connection.
#[derive(Debug)]
pub(super) struct Lasting {
    unbound: topology::Unbound,
    doubts: topology::Doubts,
    throttle: Throttle,
}

impl Lasting {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            unbound: topology::Unbound::default(),
            doubts: topology::Doubts::default(),
            throttle: Throttle::new(settings.bytes_per_s_max),
        }
    }
}

/// A connection in use.
pub(super) struct Session<'a> {
    settings: &'a Settings,
    connection: Arc<Connection>,
    /// Held, not used: with the session it ends.
    _socket: Socket,
    events: &'a UnboundedSender<Event>,
    patience: Duration,
    outbox: VecDeque<Attempt>,
    confirms: FuturesUnordered<Boxed<(Attempt, lapin::Result<Confirmation>)>>,
    /// Confirmed while a return was about that may belong to another message: held back until
    /// every message that is out has its confirm, for then every return is known too.
    held: Vec<(Attempt, bool)>,
    returned: HashSet<Returned>,
    blocked: bool,
    /// A message was refused over the channel of now.
    refused: bool,
    compared: bool,
    lasting: &'a mut Lasting,
    worked: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        settings: &'a Settings,
        connection: Connection,
        socket: Socket,
        events: &'a UnboundedSender<Event>,
        lasting: &'a mut Lasting,
        patience: Duration,
    ) -> Self {
        Self {
            settings,
            connection: Arc::new(connection),
            _socket: socket,
            events,
            patience,
            outbox: VecDeque::new(),
            confirms: FuturesUnordered::new(),
            held: Vec::new(),
            returned: HashSet::new(),
            blocked: false,
            refused: false,
            compared: false,
            lasting,
            worked: false,
        }
    }

    /// Does what it is told until the connection ends.
    pub(super) async fn run(mut self, commands: &mut UnboundedReceiver<Command>) -> End {
        let news = self.connection.events_listener();
        let end = match self.channel().await {
            Ok(channel) => self.serve(channel, Box::pin(news), commands).await,
            Err(failure) => self.failed(failure),
        };
        if self.connection.status().connected() && !self.blocked {
            // While blocked, closing would hang; a broken connection needs no good-bye.
            let closing = self.connection.close(200, "bye".into());
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
        }
        end
    }

    async fn channel(&mut self) -> Result<Channel, Failure> {
        let opening = async {
            let channel = self.connection.create_channel().await?;
            channel
                .confirm_select(ConfirmSelectOptions::default())
                .await?;
            Ok(channel)
        };
        match tokio::time::timeout(self.settings.connect_timeout, opening).await {
            Ok(opened) => opened.map_err(|error: lapin::Error| failure(&error)),
            Err(_) => Err(Failure::other(format!(
                "no channel within {:?}",
                self.settings.connect_timeout
            ))),
        }
    }

    async fn serve(
        &mut self,
        mut channel: Channel,
        mut news: Pin<Box<dyn Stream<Item = lapin::Event> + Send>>,
        commands: &mut UnboundedReceiver<Command>,
    ) -> End {
        let mut writing: Option<Boxed<(Attempt, lapin::Result<PublisherConfirm>)>> = None;
        let mut asking: Option<Boxed<Result<Answer, lapin::Error>>> = None;
        let mut silent_since = Instant::now();
        let mut asked = silent_since;
        loop {
            let now = Instant::now();
            let held_until = self.lasting.throttle.wait_until(now);
            let owed = writing.is_some() || asking.is_some() || !self.confirms.is_empty();
            let may_write = self.may_write() && (asking.is_none() || now < asked + ANSWER_DUE);
            if writing.is_none() && held_until.is_none() && may_write {
                if let Err(failure) = self.renew(&mut channel).await {
                    return self.failed(failure);
                }
                writing = self.next_write(&channel, now);
                if writing.is_some() && !owed {
                    silent_since = now;
                }
            }
            let owed = owed || writing.is_some();
            let waiting = owed && !self.blocked;
            let held = !self.outbox.is_empty() && writing.is_none() && may_write;
            tokio::select! {
                command = commands.recv() => match command {
                    None => return End::Closed,
                    Some(Command::Publish(attempt)) => {
                        if !waiting {
                            silent_since = Instant::now();
                        }
                        self.outbox.push_back(attempt);
                    }
                    Some(question @ (Command::Check | Command::Make)) => {
                        asked = Instant::now();
                        if !waiting {
                            silent_since = asked;
                        }
                        asking = Some(match question {
                            Command::Make => self.make(),
                            _ => self.check(),
                        });
                    }
                },
                (attempt, written) = next(&mut writing) => {
                    writing = None;
                    silent_since = Instant::now();
                    match written {
                        Ok(confirm) => self.confirms.push(Box::pin(async move {
                            (attempt, confirm.await)
                        })),
                        Err(error) => {
                            let failure = self.cause(&error).await;
                            return self.failed(failure);
                        }
                    }
                },
                Some(first) = self.confirms.next(), if !self.confirms.is_empty() => {
                    silent_since = Instant::now();
                    if let Err(failure) = self.confirmed(first, writing.is_some()) {
                        return self.failed(failure);
                    }
                },
                answer = next(&mut asking) => {
                    asking = None;
                    match answer {
                        Ok(answer) => self.answered(answer),
                        Err(error) => return self.failed(failure(&error)),
                    }
                },
                event = news.next() => match event {
                    Some(lapin::Event::ConnectionBlocked(reason)) => {
                        self.blocked = true;
                        self.tell(Event::Blocked(reason));
                    }
                    Some(lapin::Event::ConnectionUnblocked) => {
                        self.blocked = false;
                        silent_since = Instant::now();
                        self.tell(Event::Unblocked);
                    }
                    // A topology channel that the broker has closed is an answer, and the
                    // publishing channel's end fails its confirms.
                    Some(lapin::Event::Error(error)) if error.is_amqp_soft_error() => {}
                    Some(lapin::Event::Error(error)) => return self.failed(failure(&error)),
                    Some(_) => {}
                    None => return self.failed(Failure::other("the connection ended")),
                },
                () = until(held_until), if held => {}
                () = tokio::time::sleep_until(silent_since + self.patience), if waiting => {
                    return End::Silent(Failure::other(format!("no confirm for {:?}", self.patience)));
                },
            }
        }
    }

    /// Takes a new channel after a refusal. With RabbitMQ 3.10 a channel whose first message met a
    /// quorum queue that had just lost its leader asks for the old one with each further message,
    /// and refuses them all (rabbit_fifo_client.erl, `enqueue`; measured).
    async fn renew(&mut self, channel: &mut Channel) -> Result<(), Failure> {
        let idle = self.confirms.is_empty() && !self.outbox.is_empty();
        if !self.refused || !idle || self.blocked {
            return Ok(());
        }
        let old = std::mem::replace(channel, self.channel().await?);
        self.refused = false;
        // It has nothing to say any more, whatever becomes of it.
        let closing = old.close(200, "renewed".into());
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
        Ok(())
    }

    fn next_write(
        &mut self,
        channel: &Channel,
        now: Instant,
    ) -> Option<Boxed<(Attempt, lapin::Result<PublisherConfirm>)>> {
        let attempt = self.outbox.pop_front()?;
        self.lasting.throttle.spend(attempt.message.body.len(), now);
        let exchange = &self.settings.topology.exchange;
        Some(write(channel.clone(), exchange, attempt))
    }

    /// Why a write failed. One that meets a channel that the broker is closing says only that; why,
    /// say the confirms of what was written before.
    async fn cause(&mut self, error: &lapin::Error) -> Failure {
        if !matches!(error.kind(), ErrorKind::InvalidChannelState(..)) {
            return failure(error);
        }
        let confirms = async {
            while let Some(first) = self.confirms.next().await {
                self.confirmed(first, true)?;
            }
            Ok(())
        };
        match tokio::time::timeout(CLOSE_TIMEOUT, confirms).await {
            Ok(Err(cause)) => cause,
            Ok(Ok(())) | Err(_) => failure(error),
        }
    }

    /// While a return is about, nothing new goes out, so that it becomes clear whose it is.
    fn may_write(&self) -> bool {
        self.returned.is_empty() && self.held.is_empty()
    }

    /// Takes all confirms that have come. One message's return may hang on another's confirm, but
    /// never on one that comes later than all of those that are out now.
    fn confirmed(
        &mut self,
        first: (Attempt, lapin::Result<Confirmation>),
        writing: bool,
    ) -> Result<(), Failure> {
        let mut next = Some(first);
        while let Some((attempt, confirmation)) = next {
            let (ack, message) = match confirmation {
                Ok(Confirmation::Ack(message)) => (true, message),
                Ok(Confirmation::Nack(message)) => (false, message),
                Ok(Confirmation::NotRequested) => {
                    return Err(Failure::other("the channel is not in confirm mode"));
                }
                Err(error) => return Err(failure(&error)),
            };
            if let Some(message) = message {
                let delivery = &message.delivery;
                let id = delivery.properties.message_id().as_ref();
                let id = id.map_or(String::new(), ToString::to_string);
                self.returned.insert((
                    id,
                    destination(delivery.exchange.as_str(), delivery.routing_key.as_str()),
                ));
            }
            self.held.push((attempt, ack));
            next = self.confirms.next().now_or_never().flatten();
        }
        if self.returned.is_empty() || (self.confirms.is_empty() && !writing) {
            self.settle();
        }
        Ok(())
    }

    /// Every return is known: says what came of the messages whose confirms were held back.
    fn settle(&mut self) {
        let returned = std::mem::take(&mut self.returned);
        for (attempt, ack) in std::mem::take(&mut self.held) {
            let id = attempt.message.message_id.to_string();
            let (exchange, key) = route(&self.settings.topology.exchange, &attempt);
            let outcome = match ack {
                false => Outcome::Nack,
                true if returned.contains(&(id, destination(exchange, key))) => Outcome::Returned,
                true => Outcome::Ack,
            };
            self.worked |= outcome == Outcome::Ack;
            self.refused |= outcome == Outcome::Nack;
            self.tell(Event::Outcome {
                tag: attempt.tag,
                outcome,
            });
        }
    }

    fn check(&mut self) -> Boxed<Result<Answer, lapin::Error>> {
        let connection = Arc::clone(&self.connection);
        let topology = self.settings.topology.clone();
        let compare = !self.compared;
        let (unbound, doubts) = (self.lasting.unbound.clone(), self.lasting.doubts.clone());
        Box::pin(async move {
            let (checked, mut seen) = topology::check(&connection, &topology, &unbound).await?;
            if checked != Checked::Good || !compare {
                return Ok(Answer::Checked(checked, seen, Vec::new()));
            }
            let comparison =
                topology::compare_and_bind(&connection, &topology, &unbound, &mut seen).await?;
            doubts.are(comparison.doubtful);
            let checked = comparison.wrong.map_or(checked, Checked::Wrong);
            Ok(Answer::Checked(checked, seen, comparison.drift))
        })
    }

    fn make(&self) -> Boxed<Result<Answer, lapin::Error>> {
        let connection = Arc::clone(&self.connection);
        let topology = self.settings.topology.clone();
        let unbound = self.lasting.unbound.clone();
        Box::pin(async move {
            let made = topology::make(&connection, &topology, &unbound).await?;
            Ok(Answer::Made(made))
        })
    }

    fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Checked(checked, seen, drift) => {
                let good = checked == Checked::Good;
                self.worked |= good;
                self.compared |= good;
                for (queue, difference) in drift {
                    self.tell(Event::Drift { queue, difference });
                }
                self.tell(Event::Seen(seen));
                self.tell(Event::Checked(checked));
            }
            Answer::Made(made) => {
                // Something else may stand where something was missing.
                self.compared = false;
                self.tell(Event::Made(made));
            }
        }
    }

    fn failed(&self, failure: Failure) -> End {
        End::Failed {
            failure,
            worked: self.worked,
        }
    }

    fn tell(&self, event: Event) {
        // Nobody listens any more: then nobody gives commands either, and that ends the session.
        let _ = self.events.send(event);
    }
}

enum Answer {
    Checked(Checked, topology::Seen, Vec<(Arc<str>, String)>),
    Made(Result<(), String>),
}

/// The future, if there is one; otherwise never.
async fn next<T>(future: &mut Option<Boxed<T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// At that moment, if there is one; otherwise never.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn destination(exchange: &str, key: &str) -> String {
    format!("{exchange}\0{key}")
}

/// Exchange and routing key of an attempt.
fn route<'a>(exchange: &'a str, attempt: &'a Attempt) -> (&'a str, &'a str) {
    match &attempt.queue {
        Some(queue) => ("", queue),
        None => (exchange, &attempt.message.source),
    }
}

/// Writes one message; done when it is on the socket.
fn write(
    channel: Channel,
    exchange: &str,
    attempt: Attempt,
) -> Boxed<(Attempt, lapin::Result<PublisherConfirm>)> {
    let (exchange, key) = route(exchange, &attempt);
    let (exchange, key) = (ShortString::from(exchange), ShortString::from(key));
    Box::pin(async move {
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let properties = properties(&attempt.message);
        let body = attempt.message.body.clone();
        let written = channel
            .basic_publish(exchange, key, options, &body, properties)
            .await;
        (attempt, written)
    })
}

fn properties(message: &Message) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in message.headers() {
        let value = match value {
            Header::Text(text) => AMQPValue::LongString(text.into()),
            Header::Integer(number) => integer(number),
        };
        headers.insert(name.into(), value);
    }
    let properties = match message.content_encoding {
        Some(coding) => BasicProperties::default().with_content_encoding(coding.into()),
        None => BasicProperties::default(),
    };
    let properties = match message.priority {
        Some(priority) => properties.with_priority(priority),
        None => properties,
    };
    properties
        .with_content_type(message.content_type.into())
        .with_headers(headers)
        .with_delivery_mode(DELIVERY_MODE)
        .with_message_id(message.message_id.to_string().into())
        .with_timestamp(message.timestamp)
        .with_type(message.kind.into())
        .with_app_id(APP_ID.into())
}

fn integer(number: u64) -> AMQPValue {
    AMQPValue::LongLongInt(i64::try_from(number).unwrap_or(i64::MAX))
}
