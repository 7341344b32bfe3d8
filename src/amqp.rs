//! The link to the broker: connects, reconnects, publishes and looks after exchange and queues, as
//! it is told. Decides nothing about batches. This file and those below it are the only ones that
//! name the AMQP library.

pub mod arguments;
pub mod connect;
pub mod examine;
mod greeting;
mod password;
mod publish;
mod throttle;
pub mod tls;
mod topology;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::wire::Message;
pub use connect::{Address, Login, NotAnAddress};
pub use tls::Tls;

/// Where and how to connect, and what must be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Brokers, tried in turn.
    pub addresses: Vec<Address>,
    /// Holds the password of every address's user; otherwise the addresses do.
    pub password_file: Option<PathBuf>,
    /// How the addresses with amqps:// are spoken to.
    pub tls: Tls,
    /// Shown in the broker's lists.
    pub connection_name: String,
    /// Time that a connection may take to come about.
    pub connect_timeout: Duration,
    /// A dead peer is noticed after two of these.
    pub heartbeat: Duration,
    /// Silence (no confirm, no completed write) after which the connection is given up; doubles.
    pub confirm_timeout: Duration,
    /// Bytes of body that are published in a second, at most.
    pub bytes_per_s_max: Option<NonZeroU64>,
    /// What must be there.
    pub topology: Topology,
}

impl Settings {
    /// Whether no address is logged in to with a password.
    #[must_use]
    pub fn logs_in_by_certificates_alone(&self) -> bool {
        let mut addresses = self.addresses.iter();
        addresses.all(|address| self.logs_in_by_certificate(address))
    }

    /// Whether the client certificate is the login there (SASL EXTERNAL).
    #[must_use]
    pub fn logs_in_by_certificate(&self, address: &Address) -> bool {
        address.is_encrypted() && address.login() == Login::Default && self.tls.identity.is_some()
    }
}

/// Exchange and queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// A durable fanout exchange.
    pub exchange: String,
    /// Its queues.
    pub queues: Vec<Queue>,
    /// Make what is missing.
    pub declare: bool,
}

/// A queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub name: Arc<str>,
    /// Its type.
    pub kind: QueueKind,
    /// Its arguments beside the type.
    pub arguments: BTreeMap<String, Argument>,
    /// Whether its absence stops publishing.
    pub required: bool,
}

/// What a queue is made of, which is also what its confirm means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    /// Replicated; confirmed when a majority has it on disk.
    Quorum,
    /// On one node; confirmed when written, not when on disk.
    Classic,
    /// A replicated log; confirmed when a majority has it, not when on disk.
    Stream,
}

impl QueueKind {
    /// The value of `x-queue-type`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::Classic => "classic",
            Self::Stream => "stream",
        }
    }
}

/// The value of a queue's argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A whole number.
    Integer(i64),
    /// A text.
    Text(String),
    /// Yes or no.
    Boolean(bool),
}

/// What the link is told. Each command is meant for one connection and
/// forgotten when that is gone.
#[derive(Debug)]
pub enum Command {
    /// Publish; the outcome comes as [`Event::Outcome`].
    Publish(Attempt),
    /// Look for exchange and queues; the result comes as [`Event::Checked`].
    Check,
    /// Make and bind what is missing; the result comes as [`Event::Made`].
    Make,
}

/// One attempt to publish.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Names the attempt in its outcome.
    pub tag: u64,
    /// Through the fanout exchange, or through the default one to this queue.
    pub queue: Option<Arc<str>>,
    /// What.
    pub message: Arc<Message>,
}

/// What the link reports, in order.
#[derive(Debug)]
pub enum Event {
    /// Begins to connect.
    Connecting {
        /// Where to, without password.
        address: String,
    },
    /// There is a connection.
    Connected {
        /// Where to, without password.
        address: String,
    },
    /// The connection is gone, or none came about. Outcomes that did not come will not come.
    Disconnected(Failure),
    /// What came of an attempt.
    Outcome {
        /// Its name.
        tag: u64,
        /// What came of it.
        outcome: Outcome,
    },
    /// Which queues a check found, and which it did not; comes before [`Event::Checked`].
    Seen(Vec<(Arc<str>, bool)>),
    /// What a check found.
    Checked(Checked),
    /// What came of making the topology.
    Made(Result<(), String>),
    /// The broker takes nothing for the time being, and says why.
    Blocked(String),
    /// It takes messages again.
    Unblocked,
    /// A queue exists otherwise than configured; publishing goes on.
    Drift {
        /// Its name.
        queue: Arc<str>,
        /// The broker's words.
        difference: String,
    },
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Confirmed by every queue that it was routed to.
    Ack,
    /// Refused by a queue.
    Nack,
    /// Routed to no queue.
    Returned,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Everything required.
    Good,
    /// These are not there.
    Missing(Vec<String>),
    /// This is there, but cannot be used.
    Wrong(String),
}

/// Why there is no connection.
#[derive(Clone, Debug)]
pub struct Failure {
    /// For the operator.
    pub text: String,
    /// What to do, where that is known.
    pub advice: Option<&'static str>,
    /// What it means for the next attempt.
    pub kind: FailureKind,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, text: String) -> Self {
        Self {
            text,
            advice: None,
            kind,
        }
    }

    pub(crate) fn other(text: impl Into<String>) -> Self {
        Self::new(FailureKind::Other, text.into())
    }

    fn advise(mut self, advice: impl Into<Option<&'static str>>) -> Self {
        self.advice = advice.into();
        self
    }
}

/// What happened, and what to do.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        match self.advice {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

/// What a failure means for what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Login refused: further attempts are slow, because accounts get locked.
    Login,
    /// There is no password to log in with: the same pace.
    Password,
    /// A file of `[broker.tls]` cannot be used.
    Files,
    /// The broker refuses the client certificate, or wants one.
    Certificate,
    /// The broker does not let this user do what was tried.
    Access,
    /// A message is larger than the broker takes: the same message fails again.
    TooLarge {
        /// Bytes of body that it takes.
        limit: u64,
    },
    /// Anything else.
    Other,
}

impl FailureKind {
    /// The word in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Password => "password",
            Self::Files => "files",
            Self::Certificate => "certificate",
            Self::Access => "access",
            Self::TooLarge { .. } => "too_large",
            Self::Other => "other",
        }
    }

    /// Whether the connection worked until a certain message came.
    fn is_refusal_of_a_message(self) -> bool {
        matches!(self, Self::Access | Self::TooLarge { .. })
    }
}

/// Keeps a connection for as long as `commands` are to come.
pub async fn run(
    settings: Settings,
    mut commands: UnboundedReceiver<Command>,
    events: UnboundedSender<Event>,
) {
    let mut pace = connect::Pace::new();
    let mut patience = settings.confirm_timeout;
    let mut lasting = publish::Lasting::new(&settings);
    loop {
        for address in &settings.addresses {
            let connecting = Event::Connecting {
                address: address.to_string(),
            };
            if events.send(connecting).is_err() {
                return;
            }
            let connected = tokio::select! {
                connected = connect::connect(&settings, address) => connected,
                () = closed(&mut commands) => return,
            };
            let failure = match connected {
                Ok((connection, socket)) => {
                    let address = address.to_string();
                    if events.send(Event::Connected { address }).is_err() {
                        return;
                    }
                    let session = publish::Session::new(
                        &settings,
                        connection,
                        socket,
                        &events,
                        &mut lasting,
                        patience,
                    );
                    match session.run(&mut commands).await {
                        publish::End::Closed => return,
                        publish::End::Failed { failure, worked } => {
                            if worked {
                                // What is refused now is refused at once again.
                                if !failure.kind.is_refusal_of_a_message() {
                                    pace.reset();
                                }
                                patience = settings.confirm_timeout;
                            }
                            failure
                        }
                        publish::End::Silent(failure) => {
                            patience = (patience * 2).min(connect::PATIENCE_MAX);
                            failure
                        }
                    }
                }
                Err(failure) => failure,
            };
            let pause = pace.next(failure.kind);
            if events.send(Event::Disconnected(failure)).is_err() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = closed(&mut commands) => return,
            }
        }
    }
}

/// Waits until nobody can give commands any more; forgets those that come before.
async fn closed(commands: &mut UnboundedReceiver<Command>) {
    while commands.recv().await.is_some() {}
}
