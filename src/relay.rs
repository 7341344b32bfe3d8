//! The relay: who has custody of a batch, and when anything is published at all. One state machine
//! over window, ledger and spool: it takes batches, the broker's answers and topology checks, and
//! says what to do. Batches go straight into the window while the broker takes them. When it does
//! not and the window is full, they go to the spool, and everything since the last good check with
//! them; from there they go into the window before anything newer does. No I/O.

mod backlog;
mod relink;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::ledger::Ledger;
use crate::model::credit::{Credit, MESSAGE_OVERHEAD};
use crate::model::{
    Batch, Confirmed, FileId, LogPath, Mark, Range, Rewind, SpoolPlace as Place, Stored,
};
use crate::publish::{self, Outcome, Queue, Tag, Target, Window};
use crate::wire::{Message, Sender};
use backlog::Backlog;
pub use backlog::Turn;

/// With so few bytes left in the spool new batches wait for it to be empty, so that it is.
const HANDOVER: u64 = 4 * 1024 * 1024;
/// Batches are not made smaller than this: a broker that takes less is waited for.
const BODY_MAX_LEAST: usize = 16 * 1024;

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
    /// Make batches of no more than so many bytes.
    Limit(usize),
    /// Make these marks durable, and with them that the spool need not keep what lies before a
    /// place.
    Confirmed(Vec<Confirmed>, Option<Place>),
    /// Make this batch durable in the spool, and report [`Relay::appended`].
    Append(Batch),
    /// Forget what was to be appended and is not durable, and report [`Relay::recalled`].
    Recall,
    /// Read entries of the spool as far as there is credit for them, and report [`Relay::looked`].
    Look {
        /// Names the look.
        turn: Turn,
        /// Where it begins.
        from: Place,
    },
    /// These bytes cannot be delivered any more.
    Lost(Range, u64),
    /// Tell the operator.
    Notice(Notice),
}

/// What an operator should know. Each is told when it begins and when it is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The topology is good, for the first time or again.
    TopologyGood {
        /// How often it was not in the meantime.
        bad_checks: u64,
    },
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
    QueuesAccept {
        /// How often one of them did.
        refusals: u64,
    },
    /// Batches go to the spool from now on.
    Spooling,
    /// The spool is empty; batches go straight to the broker again.
    Direct,
}

#[derive(Debug, PartialEq, Eq)]
enum Topology {
    /// The first attempt to connect is on its way.
    Connecting,
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

/// Where new batches go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// Into the window.
    Direct,
    /// To the spool.
    Spool,
    /// Nowhere: they wait until the little that is left in the spool is acknowledged.
    Wait,
}

/// How batches flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Straight to the broker.
    Direct,
    /// To the spool, and no further for the time being.
    Spooling,
    /// Through the spool to the broker.
    Draining,
}

/// Pauses and permissions.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Time between topology checks.
    pub check_interval: Duration,
    /// Whether missing objects are made.
    pub declare: bool,
}

/// Where batches come from.
#[derive(Debug)]
pub struct Flow {
    /// What lanes may have out.
    pub credit: Credit,
    /// What may be out of what was read from the spool.
    pub reading: Credit,
    /// What the spool holds that is not confirmed begins here,
    pub begin: Place,
    /// ends here,
    pub end: Place,
    /// and has so many bytes.
    pub left: u64,
}

/// What became durable in the spool at once.
#[derive(Debug)]
pub struct Appended {
    /// So many batches,
    pub batches: usize,
    /// their ranges, in order,
    pub ranges: Vec<Range>,
    /// where the spool ends now,
    pub end: Place,
    /// and by how many bytes it grew.
    pub bytes: u64,
}

/// What a look into the spool found.
#[derive(Debug)]
pub struct Looked {
    /// Which look.
    pub turn: Turn,
    /// What there was credit for.
    pub batches: Vec<Batch>,
    /// Where the next look goes on.
    pub behind: Place,
    /// Bytes behind that.
    pub left: u64,
}

/// The state machine.
#[derive(Debug)]
pub struct Relay {
    options: Options,
    sender: Sender,
    window: Window,
    ledger: Ledger,
    topology: Topology,
    course: Course,
    backlog: Backlog,
    /// What lanes may have out: refused, it is full.
    credit: Credit,
    /// What was read from the spool and is not acknowledged.
    reading: Credit,
    /// Seconds since 1970, as it was told last.
    wall_clock: u64,
    /// They wait for the spool to be empty, or for another link.
    waiting: VecDeque<Batch>,
    /// What was to be appended was asked back.
    recalling: bool,
    /// The broker takes nothing for the time being.
    blocked: bool,
    /// It takes no larger bodies than this.
    body_max: Option<usize>,
    refusing: Option<Option<Arc<str>>>,
    /// How often, since one of them began to.
    refusals: u64,
    /// What was told to be wrong since the topology was good last.
    told: BTreeSet<String>,
    /// How often it was found wrong since then.
    bad_checks: u64,
    /// Until then another unroutable message means that making the bindings did not help.
    unrouted: Option<Instant>,
    /// Another link is to take the place of this one.
    settling: bool,
    /// No batch comes any more: the last check runs as soon as everything is acknowledged.
    closing: bool,
    /// Since the start.
    acknowledged_lines: u64,
}

impl Relay {
    /// Empty, and offline.
    #[must_use]
    pub fn new(options: Options, sender: Sender, queues: Vec<Queue>, flow: Flow) -> Self {
        let backlog = Backlog::new(flow.begin, flow.end, flow.left);
        Self {
            options,
            sender,
            window: Window::new(queues),
            ledger: Ledger::default(),
            topology: Topology::Connecting,
            course: if backlog.is_at_end() {
                Course::Direct
            } else {
                Course::Spool
            },
            backlog,
            credit: flow.credit,
            reading: flow.reading,
            wall_clock: 0,
            waiting: VecDeque::new(),
            recalling: false,
            blocked: false,
            body_max: None,
            refusing: None,
            refusals: 0,
            told: BTreeSet::new(),
            bad_checks: 0,
            unrouted: None,
            settling: false,
            closing: false,
            acknowledged_lines: 0,
        }
    }

    /// A file goes on after `mark`.
    pub fn opened(&mut self, file: FileId, mark: Mark) {
        self.ledger.open(file, mark);
    }

    /// The spool, as it was found at the start, has a file's bytes between what is confirmed and
    /// `spooled`.
    pub fn recovered(
        &mut self,
        source: &Arc<str>,
        path: &LogPath,
        confirmed: &Confirmed,
        spooled: Confirmed,
    ) {
        self.backlog.has(spooled.file, source, path);
        self.ledger.recovered(confirmed, spooled);
    }

    /// Up to where a file is confirmed, whatever the spool has of it.
    #[must_use]
    pub fn confirmed(&self, file: FileId) -> Option<Mark> {
        self.ledger.confirmed(file)
    }

    /// A file is gone and confirmed.
    pub fn forget(&mut self, file: FileId) {
        self.ledger.forget(file);
    }

    /// Takes custody of a batch, or drops it if its bytes are to be read again anyway.
    pub fn batch(&mut self, batch: Batch, now: Instant, actions: &mut Vec<Action>) {
        self.place(batch, actions);
        self.advance(now, actions);
    }

    fn place(&mut self, batch: Batch, actions: &mut Vec<Action>) {
        // One line cannot be made smaller: what becomes of it, the broker says.
        let too_large = |most| batch.body.len() > most && batch.lines > 1;
        if !self.ledger.is_current(&batch.ranges) || self.body_max.is_some_and(too_large) {
            let rewinds = self.ledger.refused(&batch.ranges);
            if !rewinds.is_empty() {
                actions.push(Action::Rewind(rewinds));
            }
            return;
        }
        match self.course {
            Course::Direct if self.settling => self.waiting.push_back(batch),
            Course::Direct => {
                self.ledger.taken(&batch.ranges);
                self.enter_window(batch);
            }
            Course::Wait => self.waiting.push_back(batch),
            Course::Spool => {
                self.ledger.taken(&batch.ranges);
                self.ledger.spooled(&batch.ranges);
                for range in &batch.ranges {
                    self.backlog.has(range.file, &batch.source, &range.path);
                }
                self.backlog.appending += 1;
                actions.push(Action::Append(batch));
            }
        }
    }

    fn enter_window(&mut self, batch: Batch) {
        let message = self.sender.message(&batch);
        self.window.push(batch, message);
    }

    /// So many batches with these ranges, `bytes` in the spool, are durable there, before `end`.
    pub fn appended(&mut self, appended: &Appended, now: Instant, actions: &mut Vec<Action>) {
        self.ledger.held(&appended.ranges);
        let Appended {
            batches,
            end,
            bytes,
            ..
        } = *appended;
        self.backlog.appended(batches, end, bytes);
        self.advance(now, actions);
    }

    /// So many batches were to be appended, were not durable and are forgotten.
    pub fn recalled(&mut self, batches: usize, now: Instant, actions: &mut Vec<Action>) {
        self.recalling = false;
        self.backlog.forgotten(batches);
        let rewinds = self.ledger.given_up();
        if !rewinds.is_empty() {
            actions.push(Action::Rewind(rewinds));
        }
        self.advance(now, actions);
    }

    /// What time it is, in seconds since 1970: a message that says what is lost is made here.
    pub fn tell_time(&mut self, wall_clock: u64) {
        self.wall_clock = wall_clock;
    }

    /// What a look into the spool found: entries, and where the next one begins.
    pub fn looked(&mut self, looked: Looked, now: Instant, actions: &mut Vec<Action>) {
        if self.backlog.looked(looked.turn, looked.behind, looked.left) {
            for batch in looked.batches {
                self.say_missing(&batch, actions);
                self.enter_window(batch);
            }
        }
        self.advance(now, actions);
    }

    /// Says what the spool does not have any more of what comes before `batch`.
    fn say_missing(&mut self, batch: &Batch, actions: &mut Vec<Action>) {
        let Some(stored) = batch.stored else {
            return;
        };
        let mut missing = Vec::new();
        for range in &batch.ranges {
            missing.extend(self.backlog.read(range, &self.ledger));
        }
        for range in missing {
            self.lose(&batch.source, range, stored.at, actions);
        }
    }

    fn lose(&mut self, source: &Arc<str>, range: Range, at: Place, actions: &mut Vec<Action>) {
        let bytes = self.backlog.count_lost(&range);
        if bytes > 0 {
            actions.push(Action::Lost(range.clone(), bytes));
        }
        self.enter_window(Batch {
            source: Arc::clone(source),
            ranges: vec![range],
            lines: 0,
            priority: 0,
            bytes: 0,
            format: crate::model::Format::default(),
            coding: None,
            body: Bytes::new(),
            closed_at: self.wall_clock,
            stored: Some(Stored { at, behind: at }),
            permit: self.reading.take_anyway(MESSAGE_OVERHEAD),
        });
    }

    /// The broker takes nothing for the time being, or does again.
    pub fn blocked(&mut self, blocked: bool, now: Instant, actions: &mut Vec<Action>) {
        self.blocked = blocked;
        self.advance(now, actions);
    }

    /// There is a connection.
    pub fn connected(&mut self, actions: &mut Vec<Action>) {
        self.check(Topology::Checking, actions);
    }

    /// The connection is gone.
    pub fn disconnected(&mut self, access_refused: bool) {
        self.window.disconnected(access_refused);
        self.abandon_check();
        self.topology = Topology::Offline;
        self.blocked = false;
    }

    /// The broker closed the connection because a body was larger than it takes. What is in the
    /// window is read again in smaller batches; what is in the spool stays as large as it is.
    pub fn too_large(&mut self, most: usize, actions: &mut Vec<Action>) {
        let most = most.max(BODY_MAX_LEAST);
        if self.body_max.is_some_and(|known| known <= most) {
            return;
        }
        self.body_max = Some(most);
        actions.push(Action::Limit(most));
        if self.course == Course::Direct {
            let rewinds = self.take_back();
            if !rewinds.is_empty() {
                actions.push(Action::Rewind(rewinds));
            }
        }
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
                let place = self.backlog.check_succeeded();
                if !confirmed.is_empty() || place.is_some() {
                    actions.push(Action::Confirmed(confirmed, place));
                }
                if self.topology == Topology::Checking {
                    let bad_checks = std::mem::take(&mut self.bad_checks);
                    actions.push(Action::Notice(Notice::TopologyGood { bad_checks }));
                }
                self.told.clear();
                self.topology = Topology::Good(now + self.options.check_interval);
                self.window.open();
            }
            Verdict::Missing(names) => {
                self.abandon_check();
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

    /// Nobody waits for the broker any more: what comes now goes to the spool, after everything that
    /// is not confirmed.
    pub fn salvage(&mut self, actions: &mut Vec<Action>) {
        // A lane that waits for room to the last has not said that it has handed over everything. What it
        // has must not go to a broker that merely seems to be there.
        self.closing = true;
        if self.course != Course::Spool {
            let rewinds = self.take_back();
            if !rewinds.is_empty() {
                actions.push(Action::Rewind(rewinds));
            }
            self.spool_what_waits(actions);
        }
    }

    /// Whether everything that was handed to the spool is durable there.
    #[must_use]
    pub fn is_spooled(&self) -> bool {
        self.backlog.appending == 0
    }

    /// Whether waiting may help: there is a connection, and what must be there is or is being made.
    #[must_use]
    pub fn can_progress(&self) -> bool {
        let waits = matches!(
            self.topology,
            Topology::Connecting | Topology::Offline | Topology::Bad(_)
        );
        self.backlog.appending > 0 || !waits
    }

    /// Whether everything that it was given is confirmed, or safe in the spool and not on its way.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let waits = self.backlog.appending > 0 || !self.waiting.is_empty();
        self.is_idle() && !waits && !self.is_dirty()
    }

    /// Whether nothing is on its way to the broker, or about to be if it was not handed to the spool.
    fn is_idle(&self) -> bool {
        match self.course {
            Course::Direct => self.window.is_empty(),
            Course::Spool | Course::Wait => self.window.in_flight() == 0,
        }
    }

    fn is_dirty(&self) -> bool {
        self.ledger.is_dirty() || self.backlog.is_dirty()
    }

    /// Files of which the spool has something, and how far each is confirmed.
    pub fn spooled(&self) -> impl Iterator<Item = (FileId, u64)> {
        let confirmed = |file| Some((file, self.ledger.confirmed(file)?.offset));
        self.backlog.files().filter_map(confirmed)
    }

    /// Lines of all batches that were acknowledged by every queue that had to.
    #[must_use]
    pub fn acknowledged_lines(&self) -> u64 {
        self.acknowledged_lines
    }

    /// How batches flow.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match self.course {
            Course::Direct => Mode::Direct,
            _ if self.takes() => Mode::Draining,
            _ => Mode::Spooling,
        }
    }

    /// What it does at present, in one word for an operator.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match self.topology {
            Topology::Connecting => "connecting",
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
                let last = (self.closing || self.settling) && self.is_idle() && self.is_dirty();
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
        self.steer(actions);
    }

    /// Decides where batches go, and lets the spool flow.
    fn steer(&mut self, actions: &mut Vec<Action>) {
        match self.course {
            Course::Direct => {
                let stays = self.closing || self.settling;
                if !self.takes() && self.credit.has_refused() && !stays {
                    self.turn_to_spool(actions);
                }
            }
            Course::Wait if !self.recalling && (!self.takes() || self.closing) => {
                self.spool_what_waits(actions);
            }
            Course::Spool if self.takes() && self.backlog.left() <= HANDOVER && !self.closing => {
                self.course = Course::Wait;
            }
            Course::Spool | Course::Wait => {}
        }
        if self.course == Course::Wait && self.backlog.is_at_end() && self.window.is_empty() {
            if self.backlog.is_read() {
                self.turn_direct(actions);
            } else if !self.recalling && self.backlog.appending > 0 {
                // The disk is slower than the broker, or takes nothing at all.
                self.recalling = true;
                actions.push(Action::Recall);
            }
        }
        self.look(actions);
    }

    fn look(&mut self, actions: &mut Vec<Action>) {
        let flows = matches!(self.topology, Topology::Good(_) | Topology::Rechecking);
        let stays = self.closing || self.settling;
        if self.course == Course::Direct || !flows || self.blocked || stays {
            return;
        }
        if !self.reading.is_half_free() {
            return;
        }
        if let Some((turn, from)) = self.backlog.look(self.window.is_empty()) {
            actions.push(Action::Look { turn, from });
        }
    }

    /// Whether the broker takes messages, or will in a moment.
    fn takes(&self) -> bool {
        !self.blocked
            && self.refusing.is_none()
            && !matches!(self.topology, Topology::Offline | Topology::Bad(_))
    }

    /// From now on batches go to the spool. What was acknowledged since the last good check has no
    /// body any more and is read again, so that the spool goes on where what is confirmed ends.
    fn turn_to_spool(&mut self, actions: &mut Vec<Action>) {
        self.course = Course::Spool;
        actions.push(Action::Notice(Notice::Spooling));
        let rewinds = self.take_back();
        if !rewinds.is_empty() {
            actions.push(Action::Rewind(rewinds));
        }
    }

    /// What waited for the spool to be empty goes there too.
    fn spool_what_waits(&mut self, actions: &mut Vec<Action>) {
        self.course = Course::Spool;
        for batch in std::mem::take(&mut self.waiting) {
            self.place(batch, actions);
        }
    }

    fn turn_direct(&mut self, actions: &mut Vec<Action>) {
        let missing = self.backlog.missing_at_end(&self.ledger);
        if !missing.is_empty() {
            for (source, range) in missing {
                self.lose(&source, range, self.backlog.end(), actions);
            }
            return;
        }
        self.backlog.is_emptied();
        self.course = Course::Direct;
        actions.push(Action::Notice(Notice::Direct));
        for batch in std::mem::take(&mut self.waiting) {
            self.place(batch, actions);
        }
    }

    /// Takes everything back that is not confirmed: out of the window, and out of the ledger.
    fn take_back(&mut self) -> Vec<Rewind> {
        let batches = self.window.clear();
        let direct = batches.iter().filter(|batch| batch.stored.is_none());
        let rewinds = self
            .ledger
            .take_back(direct.flat_map(|batch| &batch.ranges));
        self.backlog.go_back();
        rewinds
    }

    fn abandon_check(&mut self) {
        self.ledger.check_abandoned();
        self.backlog.check_abandoned();
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
                publish::Action::Acknowledged(batch) => {
                    self.acknowledged_lines += batch.lines;
                    self.ledger.acknowledged(&batch.ranges);
                    if let Some(stored) = batch.stored {
                        self.backlog.acknowledged(stored.behind);
                    }
                    if !self.window.is_completing() {
                        self.accepts(actions);
                    }
                }
                publish::Action::Unrouted => self.unrouted(now, actions),
                publish::Action::Refused(queue) => self.refuses(queue, actions),
                publish::Action::Completed => self.accepts(actions),
            }
        }
    }

    fn accepts(&mut self, actions: &mut Vec<Action>) {
        if self.refusing.take().is_some() {
            let refusals = std::mem::take(&mut self.refusals);
            actions.push(Action::Notice(Notice::QueuesAccept { refusals }));
        }
    }

    fn refuses(&mut self, queue: Option<Arc<str>>, actions: &mut Vec<Action>) {
        self.refusals += 1;
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
        self.abandon_check();
        self.window.shut();
        self.topology = Topology::Settling {
            missing: "no queue is bound to the exchange".to_owned(),
            make: self.options.declare && !again,
        };
    }

    fn check(&mut self, topology: Topology, actions: &mut Vec<Action>) {
        self.ledger.check_begins();
        self.backlog.check_begins();
        self.topology = topology;
        actions.push(Action::Check);
    }

    fn make(&mut self, actions: &mut Vec<Action>) {
        self.window.shut();
        self.topology = Topology::Making;
        actions.push(Action::Make);
    }

    fn is_bad(&mut self, what: String, now: Instant, actions: &mut Vec<Action>) {
        self.abandon_check();
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
        self.bad_checks += 1;
        if self.told.insert(what.clone()) {
            actions.push(Action::Notice(notice(what)));
        }
    }

    /// A required queue was missing, so that what was acknowledged since the last good check may
    /// not be in it. All of it is read again, before anything that came after it.
    fn send_again(&mut self, actions: &mut Vec<Action>) {
        // Batches behind a refused one may be acknowledged as well, and are not in the ledger yet.
        if !self.is_dirty() && !self.window.has_outcomes() {
            return;
        }
        let rewinds = self.take_back();
        if self.course == Course::Direct && !self.backlog.is_at_end() {
            self.course = Course::Spool;
        }
        actions.push(Action::Notice(Notice::SendingAgain {
            files: rewinds.len(),
        }));
        actions.push(Action::Rewind(rewinds));
        if self.course == Course::Spool {
            self.spool_what_waits(actions);
        }
    }
}

#[cfg(test)]
mod simulation_test;
