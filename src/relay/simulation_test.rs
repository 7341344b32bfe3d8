//! Relay, window and ledger against a broker that does what brokers do: refuse, return, forget
//! queues, lose connections with answers on their way. After every step no mark may be past a byte
//! that some required queue does not have.
//!
//! `FANTAIL_TEST_SEED=N cargo test --release --lib simulation_test` repeats one run.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Action, Options, Relay, Verdict};
use crate::model::credit::Credit;
use crate::model::{AgentId, Batch, Epoch, FileId, LogPath, Mark, Proof, Range, Rewind};
use crate::publish::{Outcome, Queue, Tag, Target};
use crate::wire::{Message, Sender};

const SEEDS: u64 = 10_000;
const FILE: FileId = FileId([9; 16]);
const NAMES: [&str; 3] = ["archive", "alerting", "search"];

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap_or(0)
    }
}

/// A queue as the broker has it.
#[derive(Default)]
struct Held {
    exists: bool,
    bound: bool,
    full: bool,
    /// Everything up to here was confirmed before this queue was made last: nobody owes it to it.
    owed_from: u64,
    /// Up to where it has every byte since then, in order.
    has_to: u64,
    /// It refused, so that order is not promised.
    refused: bool,
    /// Ranges that came before their time.
    ahead: Vec<(u64, u64)>,
}

impl Held {
    fn take(&mut self, start: u64, end: u64) {
        assert!(
            start <= self.has_to || self.refused,
            "out of order: {start} after {}",
            self.has_to
        );
        self.ahead.push((start, end));
        while let Some(at) = self.ahead.iter().position(|range| range.0 <= self.has_to) {
            let (_, end) = self.ahead.swap_remove(at);
            self.has_to = self.has_to.max(end);
        }
    }
}

struct World {
    random: Random,
    now: Instant,
    relay: Relay,
    credit: Credit,
    queues: [Held; 3],
    connected: bool,
    /// Published and not looked at by the broker yet.
    wire: VecDeque<(Tag, Target, Arc<Message>)>,
    /// On their way back.
    answers: VecDeque<(Tag, Outcome)>,
    asked: VecDeque<Asked>,
    confirmed: u64,
    /// The lane: where it reads next, and in which epoch.
    at: u64,
    epoch: Epoch,
}

enum Asked {
    Check,
    Make,
}

impl World {
    fn new(seed: u64) -> Self {
        let queue = |name: &&str| Queue {
            name: (*name).into(),
            required: true,
        };
        let sender = Sender {
            agent: AgentId([1; 16]),
            host: "host".into(),
        };
        let options = Options {
            check_interval: Duration::from_secs(5),
            declare: true,
        };
        let mut relay = Relay::new(options, sender, NAMES.iter().map(queue).collect());
        relay.opened(FILE, Mark::default());
        Self {
            random: Random(seed),
            now: Instant::now(),
            relay,
            credit: Credit::new(40_000, || {}),
            queues: Default::default(),
            connected: false,
            wire: VecDeque::new(),
            answers: VecDeque::new(),
            asked: VecDeque::new(),
            confirmed: 0,
            at: 0,
            epoch: 0,
        }
    }

    fn act(&mut self, decide: impl FnOnce(&mut Relay, Instant, &mut Vec<Action>)) {
        let mut actions = Vec::new();
        decide(&mut self.relay, self.now, &mut actions);
        for action in actions {
            match action {
                Action::Publish {
                    tag,
                    target,
                    message,
                } => {
                    assert!(self.connected, "published without a connection");
                    self.wire.push_back((tag, target, message));
                }
                Action::Check => self.asked.push_back(Asked::Check),
                Action::Make => self.asked.push_back(Asked::Make),
                Action::Rewind(rewinds) => {
                    rewinds.into_iter().for_each(|rewind| self.rewind(rewind));
                }
                Action::Confirmed(confirmed) => {
                    for confirmed in confirmed {
                        self.confirm(confirmed.mark.offset);
                    }
                }
                Action::Notice(_) => {}
            }
        }
    }

    fn rewind(&mut self, rewind: Rewind) {
        assert!(rewind.to.offset <= self.at && rewind.epoch > self.epoch);
        self.at = rewind.to.offset;
        self.epoch = rewind.epoch;
    }

    fn confirm(&mut self, mark: u64) {
        assert!(mark >= self.confirmed, "a mark went back");
        self.confirmed = mark;
        for (queue, name) in self.queues.iter().zip(NAMES) {
            assert!(
                queue.has_to >= mark,
                "the mark {mark} is past what {name} has, {}",
                queue.has_to
            );
        }
    }

    /// The lane hands over a batch, if the window has room.
    fn read(&mut self) {
        let Some(permit) = self.credit.take(1000) else {
            return;
        };
        let (start, end) = (self.at, self.at + 1 + self.random.below(50));
        self.at = end;
        let range = Range {
            file: FILE,
            path: LogPath::from_bytes(b"/a"),
            start,
            end,
            skipped: None,
            eof: false,
            epoch: self.epoch,
            proof: Proof::default(),
        };
        let batch = Batch {
            source: "app".into(),
            ranges: vec![range],
            lines: 1,
            priority: 0,
            bytes: 1,
            body: Bytes::from_static(b"x"),
            format: crate::model::Format::default(),
            coding: None,
            closed_at: 0,
            permit,
        };
        self.act(|relay, now, actions| relay.batch(batch, now, actions));
    }

    /// The broker looks at one message.
    fn route(&mut self) {
        let Some((tag, target, message)) = self.wire.pop_front() else {
            return;
        };
        let header: serde_json::Value = serde_json::from_str(&message.ranges).expect("JSON");
        let offset = |key: &str| header[0][key].as_u64().expect("a number");
        let (start, end) = (offset("start"), offset("end"));
        let aimed = |queue: &Held, name: &str| match &target {
            Target::Exchange => queue.exists && queue.bound,
            Target::Queue(aim) => queue.exists && **aim == *name,
        };
        let (mut taken, mut refused) = (0, false);
        for (queue, name) in self.queues.iter_mut().zip(NAMES) {
            if !aimed(queue, name) {
                continue;
            }
            taken += 1;
            if queue.full {
                queue.refused = true;
                refused = true;
            } else {
                queue.take(start, end);
            }
        }
        let outcome = match (taken, refused) {
            (0, _) => Outcome::Returned,
            (_, true) => Outcome::Nack,
            (_, false) => Outcome::Ack,
        };
        self.answers.push_back((tag, outcome));
    }

    /// One answer comes back, not always the first.
    fn answer(&mut self) {
        let late = self
            .random
            .index(3)
            .min(self.answers.len().saturating_sub(1));
        if let Some((tag, outcome)) = self.answers.remove(late) {
            self.act(|relay, now, actions| relay.outcome(tag, outcome, now, actions));
        }
    }

    fn answer_question(&mut self) {
        match self.asked.pop_front() {
            Some(Asked::Check) => {
                let missing = self
                    .queues
                    .iter()
                    .zip(NAMES)
                    .filter(|(queue, _)| !queue.exists);
                let missing: Vec<String> = missing.map(|(_, name)| name.to_owned()).collect();
                let verdict = if missing.is_empty() {
                    Verdict::Good
                } else {
                    Verdict::Missing(missing)
                };
                self.act(|relay, now, actions| relay.checked(verdict, now, actions));
            }
            Some(Asked::Make) => {
                for queue in &mut self.queues {
                    if !queue.exists {
                        *queue = Held {
                            exists: true,
                            owed_from: self.confirmed,
                            has_to: self.confirmed,
                            ..Held::default()
                        };
                    }
                    queue.bound = true;
                }
                self.act(|relay, now, actions| relay.made(Ok(()), now, actions));
            }
            None => {}
        }
    }

    fn connect(&mut self) {
        if !self.connected {
            self.connected = true;
            self.act(|relay, _, actions| relay.connected(actions));
        }
    }

    fn disconnect(&mut self) {
        if !self.connected {
            return;
        }
        self.connected = false;
        // Some of what is on the wire arrives all the same; no answer does.
        for _ in 0..self.random.index(self.wire.len() + 1) {
            self.route();
        }
        self.wire.clear();
        self.answers.clear();
        self.asked.clear();
        self.act(|relay, _, _| relay.disconnected(false));
    }

    fn tick(&mut self, milliseconds: u64) {
        self.now += Duration::from_millis(milliseconds);
        let due = self
            .relay
            .deadline()
            .is_some_and(|deadline| deadline <= self.now);
        if due {
            self.act(Relay::advance);
        }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..=29 => self.read(),
            30..=54 => self.route(),
            55..=79 => self.answer(),
            80..=87 => self.answer_question(),
            88..=93 => {
                let milliseconds = self.random.below(3000);
                self.tick(milliseconds);
            }
            94 | 95 => self.connect(),
            96 => self.disconnect(),
            97 => {
                let queue = self.random.index(3);
                self.queues[queue].full ^= true;
            }
            98 => {
                // Deleted by somebody, and all that was in it.
                let queue = self.random.index(3);
                self.queues[queue].exists = false;
            }
            // All bindings gone, which is all that AMQP ever tells.
            _ => self.queues.iter_mut().for_each(|queue| queue.bound = false),
        }
    }

    fn run(mut self) {
        for _ in 0..400 {
            self.step();
        }
        // The faults end: everything must come to rest, and every queue have everything.
        for queue in &mut self.queues {
            queue.full = false;
        }
        let end = self.at;
        for _ in 0..20_000 {
            self.connect();
            if self.at < end {
                self.read();
            }
            self.route();
            self.answer();
            self.answer_question();
            self.tick(100);
            if self.relay.is_done() && self.confirmed >= end {
                break;
            }
        }
        assert!(
            self.confirmed >= end,
            "confirmed {} of {end}",
            self.confirmed
        );
        assert!(
            self.queues
                .iter()
                .all(|queue| queue.owed_from <= queue.has_to)
        );
        assert_eq!(self.credit.bytes(), 0, "a permit was lost");
    }
}

#[test]
fn no_mark_is_ever_past_what_every_required_queue_has() {
    let given = std::env::var("FANTAIL_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let (first, count) = match given {
        Some(seed) => (seed, 1),
        // Others each time, and more of them: a change is tried on the same ones as the last.
        None if std::env::var_os("FANTAIL_TEST_ALL").is_some() => {
            (u64::from(std::process::id()) << 32, 10 * SEEDS)
        }
        None => (1, SEEDS),
    };
    for seed in first..first + count {
        let run = || World::new(seed).run();
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        assert!(ran.is_ok(), "FANTAIL_TEST_SEED={seed} fails");
    }
}
