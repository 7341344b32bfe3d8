//! The relay: who has custody of a batch, and when anything is published at all. One state machine
//! over window and ledger: it takes batches, the broker's answers and topology checks, and says
//! what to do. Direct only: when the window is full, the lanes stop reading and the files wait; a
//! spool would take over here. No I/O.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::ledger::Ledger;
use crate::model::{Batch, Confirmed, FileId, Mark, Rewind};
use crate::publish::{self, Outcome, Queue, Tag, Target, Window};
use crate::wire::{Message, Sender};
use std::sync::Arc;

/// What a topology check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The exchange and every required queue are there.
    Good,
    /// These required objects are not.
    Missing(Vec<String>),
    /// Something is there that cannot be published to; a person must act.
    Wrong(String),
}

/// What the relay asks for.
#[derive(Debug)]
pub enum Action {
    /// Publish this and report the outcome.
    Publish {
        /// Names the attempt.
        tag: Tag,
        /// Where to.
        target: Target,
        /// What.
        message: Arc<Message>,
    },
    /// Look for exchange and queues.
    Check,
    /// Make what is missing, and bind.
    Make,
    /// Read these files again.
    Rewind(Vec<Rewind>),
    /// Make these marks durable.
    Confirmed(Vec<Confirmed>),
    /// Tell the operator.
    Notice(Notice),
}

/// What an operator should know. Each is told when it begins and when it is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The topology is good, for the first time or again.
    TopologyGood,
    /// Something is missing, and is being made.
    TopologyMissing(String),
    /// It is not good, and somebody else must put it right; nothing is published until then.
    TopologyBad(String),
    /// A required queue was missing: what was sent since the last good check is sent again.
    SendingAgain {
        /// How many files are read again.
        files: usize,
    },
    /// A message was routed to no queue.
    Unrouted,
    /// This queue refuses messages; without a name, one of them does.
    QueueRefuses(Option<Arc<str>>),
    /// No queue refuses any more.
    QueuesAccept,
}

#[derive(Debug, PartialEq, Eq)]
enum Topology {
    /// No connection.
    Offline,
    /// A check runs and nothing is published until it is good.
    Checking,
    /// Good; the next check is due then.
    Good(Instant),
    /// Was good; a check runs beside publishing.
    Rechecking,
    /// Not good: waits until nothing is in flight before anything is made.
    Settling {
        /// What is missing.
        missing: String,
        /// Making it may help.
        make: bool,
    },
    /// What was missing is being made.
    Making,
    /// It could not be made; to be looked at again then.
    Bad(Instant),
}

/// Pauses and permissions.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Time between topology checks.
    pub check_interval: Duration,
    /// Whether missing objects are made.
    pub declare: bool,
}

/// The state machine.
#[derive(Debug)]
pub struct Relay {
    options: Options,
    sender: Sender,
    window: Window,
    ledger: Ledger,
    topology: Topology,
    refusing: Option<Option<Arc<str>>>,
    /// What was told to be wrong since the topology was good last.
    told: BTreeSet<String>,
    /// Until then another unroutable message means that making the bindings did not help.
    unrouted: Option<Instant>,
    /// No batch comes any more: the last check runs as soon as everything is acknowledged.
    closing: bool,
}

impl Relay {
    /// Empty, and offline.
    #[must_use]
    pub fn new(options: Options, sender: Sender, queues: Vec<Queue>) -> Self {
        Self {
            options,
            sender,
            window: Window::new(queues),
            ledger: Ledger::default(),
            topology: Topology::Offline,
            refusing: None,
            told: BTreeSet::new(),
            unrouted: None,
            closing: false,
        }
    }

    /// A file goes on after `mark`.
    pub fn opened(&mut self, file: FileId, mark: Mark) {
        self.ledger.open(file, mark);
    }

    /// A file is gone and confirmed.
    pub fn forget(&mut self, file: FileId) {
        self.ledger.forget(file);
    }

    /// Takes custody of a batch, or drops it if its bytes are to be read again anyway.
    pub fn batch(&mut self, batch: Batch, now: Instant, actions: &mut Vec<Action>) {
        if self.ledger.is_current(&batch.ranges) {
            let message = self.sender.message(&batch);
            self.window.push(batch, message);
            self.advance(now, actions);
        } else {
            let rewinds = self.ledger.dropped(&batch.ranges);
            if !rewinds.is_empty() {
                actions.push(Action::Rewind(rewinds));
            }
        }
    }

    /// There is a connection.
    pub fn connected(&mut self, actions: &mut Vec<Action>) {
        self.check(Topology::Checking, actions);
    }

    /// The connection is gone.
    pub fn disconnected(&mut self, access_refused: bool) {
        self.window.disconnected(access_refused);
        self.ledger.check_abandoned();
        self.topology = Topology::Offline;
    }

    /// What came of an attempt.
    pub fn outcome(&mut self, tag: Tag, outcome: Outcome, now: Instant, actions: &mut Vec<Action>) {
        let mut asked = Vec::new();
        self.window.outcome(tag, outcome, now, &mut asked);
        self.perform(asked, now, actions);
        self.advance(now, actions);
    }

    /// What the check found.
    pub fn checked(&mut self, verdict: Verdict, now: Instant, actions: &mut Vec<Action>) {
        if !matches!(self.topology, Topology::Checking | Topology::Rechecking) {
            return;
        }
        match verdict {
            Verdict::Good => {
                let confirmed = self.ledger.check_succeeded();
                if !confirmed.is_empty() {
                    actions.push(Action::Confirmed(confirmed));
                }
                if self.topology == Topology::Checking {
                    actions.push(Action::Notice(Notice::TopologyGood));
                }
                self.told.clear();
                self.topology = Topology::Good(now + self.options.check_interval);
                self.window.open();
            }
            Verdict::Missing(names) => {
                self.ledger.check_abandoned();
                self.window.shut();
                self.topology = Topology::Settling {
                    missing: format!("missing: {}", names.join(", ")),
                    make: self.options.declare,
                };
            }
            Verdict::Wrong(what) => self.is_bad(what, now, actions),
        }
        self.advance(now, actions);
    }

    /// What came of making the topology.
    pub fn made(&mut self, made: Result<(), String>, now: Instant, actions: &mut Vec<Action>) {
        if self.topology != Topology::Making {
            return;
        }
        match made {
            Ok(()) => self.check(Topology::Checking, actions),
            Err(error) => self.is_bad(error, now, actions),
        }
    }

    /// No batch comes any more.
    pub fn close(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.closing = true;
        self.advance(now, actions);
    }

    /// Whether waiting may help: there is a connection, and what must be there is or is being made.
    #[must_use]
    pub fn can_progress(&self) -> bool {
        !matches!(self.topology, Topology::Offline | Topology::Bad(_))
    }

    /// Whether everything that it was given is confirmed.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.window.is_empty() && !self.ledger.is_dirty()
    }

    /// What it does at present, in one word for an operator.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match self.topology {
            Topology::Offline => "offline",
            Topology::Checking => "checking",
            Topology::Good(_) | Topology::Rechecking if self.refusing.is_some() => "refused",
            Topology::Good(_) | Topology::Rechecking => "publishing",
            Topology::Settling { .. } => "settling",
            Topology::Making => "making",
            Topology::Bad(_) => "waiting",
        }
    }

    /// When [`Relay::advance`] has something to do although nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let topology = match &self.topology {
            Topology::Good(at) | Topology::Bad(at) => Some(*at),
            _ => None,
        };
        [topology, self.window.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what can be done now.
    pub fn advance(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let mut asked = Vec::new();
        self.window.advance(now, &mut asked);
        self.perform(asked, now, actions);
        match &self.topology {
            Topology::Good(due) => {
                let last = self.closing && self.window.is_empty() && self.ledger.is_dirty();
                if now >= *due || last {
                    self.check(Topology::Rechecking, actions);
                }
            }
            Topology::Bad(due) if now >= *due => self.check(Topology::Checking, actions),
            Topology::Settling { missing, make } if self.window.in_flight() == 0 => {
                let (missing, make) = (missing.clone(), *make);
                self.send_again(actions);
                if make {
                    self.tell_bad(missing, Notice::TopologyMissing, actions);
                    self.make(actions);
                } else {
                    self.is_bad(missing, now, actions);
                }
            }
            _ => {}
        }
    }

    fn perform(&mut self, asked: Vec<publish::Action>, now: Instant, actions: &mut Vec<Action>) {
        for action in asked {
            match action {
                publish::Action::Publish {
                    tag,
                    target,
                    message,
                } => actions.push(Action::Publish {
                    tag,
                    target,
                    message,
                }),
                publish::Action::Acknowledged(batch) => self.ledger.acknowledged(&batch.ranges),
                publish::Action::Unrouted => self.unrouted(now, actions),
                publish::Action::Refused(queue) => self.refuses(queue, actions),
                publish::Action::Completed => {
                    self.refusing = None;
                    actions.push(Action::Notice(Notice::QueuesAccept));
                }
            }
        }
    }

    fn refuses(&mut self, queue: Option<Arc<str>>, actions: &mut Vec<Action>) {
        // The name, once it is known, says more than that there is one.
        let known = matches!(&self.refusing, Some(before) if *before == queue || queue.is_none());
        if !known {
            self.refusing = Some(queue.clone());
            actions.push(Action::Notice(Notice::QueueRefuses(queue)));
        }
    }

    /// No queue took a message, so bindings or queues are gone. Since when cannot be known: what
    /// was acknowledged since the last good check is doubtful, and only making them again helps.
    fn unrouted(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if !matches!(self.topology, Topology::Good(_) | Topology::Rechecking) {
            return;
        }
        actions.push(Action::Notice(Notice::Unrouted));
        // Making them did not help if it was done a moment ago.
        let again = self.unrouted.is_some_and(|until| now < until);
        self.unrouted = Some(now + self.options.check_interval);
        self.ledger.check_abandoned();
        self.window.shut();
        self.topology = Topology::Settling {
            missing: "no queue is bound to the exchange".to_owned(),
            make: self.options.declare && !again,
        };
    }

    fn check(&mut self, topology: Topology, actions: &mut Vec<Action>) {
        self.ledger.check_begins();
        self.topology = topology;
        actions.push(Action::Check);
    }

    fn make(&mut self, actions: &mut Vec<Action>) {
        self.window.shut();
        self.topology = Topology::Making;
        actions.push(Action::Make);
    }

    fn is_bad(&mut self, what: String, now: Instant, actions: &mut Vec<Action>) {
        self.ledger.check_abandoned();
        self.window.shut();
        self.topology = Topology::Bad(now + self.options.check_interval);
        self.tell_bad(what, Notice::TopologyBad, actions);
    }

    /// Tells once, however often the same things turn up again.
    fn tell_bad(
        &mut self,
        what: String,
        notice: impl FnOnce(String) -> Notice,
        actions: &mut Vec<Action>,
    ) {
        if self.told.insert(what.clone()) {
            actions.push(Action::Notice(notice(what)));
        }
    }

    /// A required queue was missing, so that what was acknowledged since the last good check may
    /// not be in it. All of it is read again, before anything that came after it.
    fn send_again(&mut self, actions: &mut Vec<Action>) {
        // Batches behind a refused one may be acknowledged as well, and are not in the ledger yet.
        if !self.ledger.is_dirty() && !self.window.has_outcomes() {
            return;
        }
        let mut rewinds = self.ledger.check_failed();
        for batch in self.window.clear() {
            rewinds.extend(self.ledger.dropped(&batch.ranges));
        }
        actions.push(Action::Notice(Notice::SendingAgain {
            files: rewinds.len(),
        }));
        actions.push(Action::Rewind(rewinds));
    }
}

#[cfg(test)]
mod simulation_test;
