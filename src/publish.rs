//! The window of unacknowledged batches, and what each of the broker's answers means for them.
//! Batches leave it in the order in which they came, when they and all before them are
//! acknowledged. No I/O: it says what to publish, and is told what came of it.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::Batch;
use crate::wire::Message;

/// A refusing queue is asked again after this long, doubling,
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// up to this.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// After a refusal messages go one at a time, then one more with each acknowledgement; at so many
/// the byte window alone limits again.
const CAUTION_ENDS: usize = 256;

/// A queue as far as the window is concerned.
#[derive(Clone, Debug)]
pub struct Queue {
    /// Its name.
    pub name: Arc<str>,
    /// Whether its refusal is waited out.
    pub required: bool,
}

/// Where an attempt goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Through the fanout exchange, to all queues.
    Exchange,
    /// Through the default exchange, to this queue alone.
    Queue(Arc<str>),
}

/// Names one attempt to publish; never used twice.
pub type Tag = u64;

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every queue that it was routed to has taken it.
    Ack,
    /// A queue refused it; the others may have it.
    Nack,
    /// It was routed to no queue.
    Returned,
}

/// What the window asks for.
#[derive(Debug)]
pub enum Action {
    /// Publish this.
    Publish {
        /// To be named in the outcome.
        tag: Tag,
        /// Where to.
        target: Target,
        /// What.
        message: Arc<Message>,
    },
    /// This batch and all before it are acknowledged.
    Acknowledged(Batch),
    /// A message found no queue: look at the topology. The window is shut until it is opened.
    Unrouted,
    /// A queue began to refuse, or, without a name, some queue did.
    Refused(Option<Arc<str>>),
    /// The refused batch is complete in every required queue.
    Completed,
}

#[derive(Debug)]
struct Slot {
    batch: Batch,
    message: Arc<Message>,
    state: SlotState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotState {
    Waiting,
    Sent(Tag),
    Acked,
    Refused,
    Returned,
}

/// The first batch of the window, refused, that is offered to each queue alone.
#[derive(Debug)]
struct Completion {
    offers: Vec<Offer>,
    pause: Duration,
    /// When the refused offers are made again.
    retry: Option<Instant>,
}

#[derive(Debug)]
struct Offer {
    target: Target,
    required: bool,
    state: OfferState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OfferState {
    Due,
    Sent(Tag),
    /// Taken, or refused by a queue that is not required.
    Done,
    Refused,
}

/// The window.
#[derive(Debug)]
pub struct Window {
    queues: Vec<Queue>,
    /// Those that wait are always the last ones.
    slots: VecDeque<Slot>,
    /// Attempts that are out although their batch was given up.
    given_up: HashSet<Tag>,
    next_tag: Tag,
    open: bool,
    /// Some slot was refused or returned.
    troubled: bool,
    completion: Option<Completion>,
    /// How many may be out at once, after a refusal.
    caution: Option<usize>,
    /// The broker does not let this user publish to the default exchange.
    no_direct: bool,
}

impl Window {
    /// An empty window, shut.
    #[must_use]
    pub fn new(queues: Vec<Queue>) -> Self {
        Self {
            queues,
            slots: VecDeque::new(),
            given_up: HashSet::new(),
            next_tag: 0,
            open: false,
            troubled: false,
            completion: None,
            caution: None,
            no_direct: false,
        }
    }

    /// Takes custody of a batch.
    pub fn push(&mut self, batch: Batch, message: Message) {
        self.slots.push_back(Slot {
            batch,
            message: Arc::new(message),
            state: SlotState::Waiting,
        });
    }

    /// Whether there is no batch in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Attempts whose outcome is not known.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        let sent = |slot: &&Slot| matches!(slot.state, SlotState::Sent(_));
        let offered = |offer: &&Offer| matches!(offer.state, OfferState::Sent(_));
        self.slots.iter().filter(sent).count()
            + self.completion.as_ref().map_or(0, |completion| {
                completion.offers.iter().filter(offered).count()
            })
            + self.given_up.len()
    }

    /// Whether a refused batch is being offered to each queue.
    #[must_use]
    pub fn is_completing(&self) -> bool {
        self.completion.is_some()
    }

    /// Whether the broker has said something about a batch that is still in it.
    #[must_use]
    pub fn has_outcomes(&self) -> bool {
        self.slots
            .iter()
            .any(|slot| !matches!(slot.state, SlotState::Waiting | SlotState::Sent(_)))
    }

    /// These are the queues from now on. There is no connection.
    pub fn serve(&mut self, queues: Vec<Queue>) {
        self.queues = queues;
        self.no_direct = false;
        self.caution = None;
    }

    /// Publishing may go on: there is a connection, and the topology is good.
    pub fn open(&mut self) {
        self.open = true;
    }

    /// Nothing new is published; outcomes still come in.
    pub fn shut(&mut self) {
        self.open = false;
    }

    /// The connection is gone: what was not acknowledged is unknown, and is sent again in order.
    /// `access_refused` tells that the broker closed it because this user may not publish there.
    pub fn disconnected(&mut self, access_refused: bool) {
        self.open = false;
        if let Some(completion) = self.completion.take() {
            self.no_direct |= access_refused && completion.is_direct();
        }
        self.troubled = false;
        self.given_up.clear();
        for slot in &mut self.slots {
            slot.state = SlotState::Waiting;
        }
    }

    /// Gives up custody of everything. What is out may still arrive: that is waited for as before.
    pub fn clear(&mut self) -> Vec<Batch> {
        for slot in &self.slots {
            if let SlotState::Sent(tag) = slot.state {
                self.given_up.insert(tag);
            }
        }
        for offer in self
            .completion
            .iter()
            .flat_map(|completion| &completion.offers)
        {
            if let OfferState::Sent(tag) = offer.state {
                self.given_up.insert(tag);
            }
        }
        self.completion = None;
        self.troubled = false;
        self.slots.drain(..).map(|slot| slot.batch).collect()
    }

    /// When [`Window::advance`] has something to do although nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.completion.as_ref()?.retry.filter(|_| self.open)
    }

    /// Takes note of an outcome.
    pub fn outcome(&mut self, tag: Tag, outcome: Outcome, now: Instant, actions: &mut Vec<Action>) {
        if self.given_up.remove(&tag) {
            return;
        }
        if let Some(slot) = self
            .slots
            .iter_mut()
            .find(|slot| slot.state == SlotState::Sent(tag))
        {
            slot.state = match outcome {
                Outcome::Ack => SlotState::Acked,
                Outcome::Nack => SlotState::Refused,
                Outcome::Returned => SlotState::Returned,
            };
            if outcome == Outcome::Ack {
                self.caution = self
                    .caution
                    .map(|limit| limit + 1)
                    .filter(|limit| *limit < CAUTION_ENDS);
            } else {
                self.troubled = true;
                self.caution = Some(1);
            }
        } else if let Some(completion) = &mut self.completion {
            completion.outcome(tag, outcome, now, actions);
        }
    }

    /// Does what can be done now.
    pub fn advance(&mut self, now: Instant, actions: &mut Vec<Action>) {
        loop {
            self.release(actions);
            if self.completion.is_none() {
                if !self.settle(actions) {
                    return;
                }
                if self.completion.is_none() {
                    break;
                }
            }
            if !self.complete(now, actions) {
                return;
            }
        }
        if self.open {
            self.publish(actions);
        }
    }

    /// Lets go of what is acknowledged, in order.
    fn release(&mut self, actions: &mut Vec<Action>) {
        while let Some(slot) = self
            .slots
            .pop_front_if(|slot| slot.state == SlotState::Acked)
        {
            actions.push(Action::Acknowledged(slot.batch));
        }
    }

    /// After a refusal or a return: waits until everything that is out has its outcome, then
    /// decides. False while waiting.
    fn settle(&mut self, actions: &mut Vec<Action>) -> bool {
        if !self.troubled {
            return true;
        }
        if self.in_flight() > 0 {
            return false;
        }
        let trouble = |state| matches!(state, SlotState::Refused | SlotState::Returned);
        let Some(first) = self.slots.iter().position(|slot| trouble(slot.state)) else {
            self.troubled = false;
            return true;
        };
        if self
            .slots
            .iter()
            .any(|slot| slot.state == SlotState::Returned)
        {
            // Some message is in no queue; what came after it must come after it again.
            for slot in self.slots.iter_mut().skip(first) {
                slot.state = SlotState::Waiting;
            }
            self.troubled = false;
            self.open = false;
            actions.push(Action::Unrouted);
        } else {
            // Everything before it was acknowledged and is released: it is the first.
            self.completion = Some(Completion::new(&self.queues, self.no_direct));
            actions.push(Action::Refused(None));
        }
        true
    }

    /// Goes on offering the first batch queue by queue. True once every queue has taken it.
    fn complete(&mut self, now: Instant, actions: &mut Vec<Action>) -> bool {
        let (Some(completion), Some(slot)) = (&mut self.completion, self.slots.front_mut()) else {
            return true;
        };
        if completion.is_done() {
            slot.state = SlotState::Acked;
            self.completion = None;
            actions.push(Action::Completed);
            return true;
        }
        if !self.open {
            return false;
        }
        completion.retry_due(now);
        for offer in &mut completion.offers {
            if offer.state == OfferState::Due {
                self.next_tag += 1;
                offer.state = OfferState::Sent(self.next_tag);
                actions.push(Action::Publish {
                    tag: self.next_tag,
                    target: offer.target.clone(),
                    message: Arc::clone(&slot.message),
                });
            }
        }
        false
    }

    /// Publishes what waits, in order.
    fn publish(&mut self, actions: &mut Vec<Action>) {
        let room = match self.caution {
            Some(limit) => limit.saturating_sub(self.in_flight()),
            None => usize::MAX,
        };
        let waiting = self
            .slots
            .partition_point(|slot| slot.state != SlotState::Waiting);
        for slot in self.slots.range_mut(waiting..).take(room) {
            self.next_tag += 1;
            slot.state = SlotState::Sent(self.next_tag);
            actions.push(Action::Publish {
                tag: self.next_tag,
                target: Target::Exchange,
                message: Arc::clone(&slot.message),
            });
        }
    }
}

impl Completion {
    fn new(queues: &[Queue], no_direct: bool) -> Self {
        let offer = |target, required| Offer {
            target,
            required,
            state: OfferState::Due,
        };
        let offers = if no_direct {
            vec![offer(Target::Exchange, true)]
        } else {
            queues
                .iter()
                .map(|queue| offer(Target::Queue(Arc::clone(&queue.name)), queue.required))
                .collect()
        };
        let mut completion = Self {
            offers,
            pause: RETRY_FIRST,
            retry: None,
        };
        if no_direct {
            // It was refused a moment ago as a whole: not at once again.
            completion.offers[0].state = OfferState::Refused;
        }
        completion
    }

    fn is_direct(&self) -> bool {
        self.offers
            .iter()
            .any(|offer| matches!(offer.target, Target::Queue(_)))
    }

    fn is_done(&self) -> bool {
        self.offers
            .iter()
            .all(|offer| offer.state == OfferState::Done)
    }

    fn outcome(&mut self, tag: Tag, outcome: Outcome, now: Instant, actions: &mut Vec<Action>) {
        let sent = |offer: &&mut Offer| offer.state == OfferState::Sent(tag);
        let Some(offer) = self.offers.iter_mut().find(sent) else {
            return;
        };
        let name = match &offer.target {
            Target::Queue(name) => Some(Arc::clone(name)),
            Target::Exchange => None,
        };
        if outcome == Outcome::Ack {
            offer.state = OfferState::Done;
            return;
        }
        if outcome == Outcome::Nack {
            actions.push(Action::Refused(name));
        } else if offer.required {
            actions.push(Action::Unrouted);
        }
        // A queue that is not required is asked once and not waited for.
        offer.state = if offer.required {
            OfferState::Refused
        } else {
            OfferState::Done
        };
        if self.retry.is_none() {
            self.retry = Some(now + self.pause);
        }
    }

    fn retry_due(&mut self, now: Instant) {
        let refused = |offer: &&mut Offer| offer.state == OfferState::Refused;
        if self.offers.iter_mut().find(refused).is_none() {
            return;
        }
        let due = *self.retry.get_or_insert(now + self.pause);
        if now < due {
            return;
        }
        self.pause = (self.pause * 2).min(RETRY_MAX);
        self.retry = None;
        for offer in self.offers.iter_mut().filter(refused) {
            offer.state = OfferState::Due;
        }
    }
}
