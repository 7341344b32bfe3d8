//! What has passed through the pipeline since the start, counted where it passes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::amqp;
use crate::model::{MessageId, Skipped};
use crate::wire::Message;

/// Upper bounds of the buckets in which times from publishing to acknowledgement are counted, in
/// seconds.
pub const ACK_BUCKETS: [f64; 15] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// Since the start. Of what may have reasons, each stands by itself.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Messages that were handed to the connection, repeats and offers to one queue included.
    pub published_messages: u64,
    /// Bytes of their bodies.
    pub published_bytes: u64,
    /// Lines of batches that were acknowledged by every queue that had to.
    pub acknowledged_lines: u64,
    /// Messages whose lines are sent again: `connection` was lost before they were acknowledged,
    /// a queue gave a `nack`, or the `topology` was not what it must be.
    pub republished: BTreeMap<&'static str, u64>,
    /// Refusals, by queue; under no name where the broker did not say which queue it was.
    pub nacks: BTreeMap<Arc<str>, u64>,
    /// Messages that were routed to no queue.
    pub returns: u64,
    /// Connections that were lost or did not come about, by kind of failure.
    pub reconnects: BTreeMap<&'static str, u64>,
    /// Bytes that could not be delivered.
    pub lost_bytes: BTreeMap<&'static str, u64>,
    /// From publishing to acknowledgement.
    pub acks: Histogram,
    /// When marks moved last.
    pub confirmed_at: Option<Timestamp>,
    /// Reloads that could not be followed.
    pub reload_failures: u64,
    /// Databases that were set aside as damaged.
    pub state_resets: u64,
}

/// How many took how long.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// One for each of [`ACK_BUCKETS`], and those that took longer.
    pub buckets: [u64; ACK_BUCKETS.len() + 1],
    /// All of them together, in seconds.
    pub sum_s: f64,
}

impl Histogram {
    fn observe(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = ACK_BUCKETS.partition_point(|bound| *bound < seconds);
        self.buckets[bucket] += 1;
        self.sum_s += seconds;
    }
}

/// Counts.
#[derive(Debug, Default)]
pub(super) struct Meter {
    pub(super) counts: Counts,
    /// Attempts whose outcome is not known: as many as the window holds.
    out: HashMap<u64, Out>,
    /// The message that a queue refused last.
    refused: Option<MessageId>,
    /// Messages that were acknowledged since the last good check, and those of them that the check
    /// under way is good for.
    unchecked: u64,
    in_check: u64,
}

#[derive(Debug)]
struct Out {
    at: Instant,
    id: MessageId,
    queue: Option<Arc<str>>,
}

impl Meter {
    pub(super) fn published(&mut self, tag: u64, queue: Option<Arc<str>>, message: &Message) {
        self.counts.published_messages += 1;
        self.counts.published_bytes += message.body.len() as u64;
        let id = message.message_id;
        if queue.is_some() || self.refused == Some(id) {
            self.republished("nack", 1);
        }
        let at = Instant::now();
        self.out.insert(tag, Out { at, id, queue });
    }

    pub(super) fn link(&mut self, event: &amqp::Event) {
        match event {
            amqp::Event::Outcome { tag, outcome } => self.outcome(*tag, *outcome),
            amqp::Event::Disconnected(failure) => {
                *self
                    .counts
                    .reconnects
                    .entry(failure.kind.as_str())
                    .or_default() += 1;
                self.unlinked();
            }
            amqp::Event::Checked(amqp::Checked::Good) => {
                self.unchecked -= std::mem::take(&mut self.in_check);
            }
            _ => {}
        }
    }

    fn outcome(&mut self, tag: u64, outcome: amqp::Outcome) {
        let Some(out) = self.out.remove(&tag) else {
            return;
        };
        match outcome {
            amqp::Outcome::Ack => {
                self.unchecked += 1;
                self.counts.acks.observe(out.at.elapsed());
            }
            amqp::Outcome::Nack => {
                self.refused = Some(out.id);
                let queue = out.queue.unwrap_or_default();
                *self.counts.nacks.entry(queue).or_default() += 1;
            }
            amqp::Outcome::Returned => self.counts.returns += 1,
        }
    }

    /// The connection is gone: what is out will be sent again.
    pub(super) fn unlinked(&mut self) {
        let out = std::mem::take(&mut self.out).len();
        self.in_check = 0;
        self.republished("connection", out as u64);
    }

    /// A check begins.
    pub(super) fn check(&mut self) {
        self.in_check = self.unchecked;
    }

    /// What was acknowledged since the last good check is sent again.
    pub(super) fn sending_again(&mut self) {
        self.in_check = 0;
        let unchecked = std::mem::take(&mut self.unchecked);
        self.republished("topology", unchecked);
    }

    pub(super) fn confirmed(&mut self) {
        self.counts.confirmed_at = Some(Timestamp::now());
    }

    pub(super) fn lost(&mut self, reason: Skipped, bytes: u64) {
        *self.counts.lost_bytes.entry(reason.as_str()).or_default() += bytes;
    }

    fn republished(&mut self, reason: &'static str, messages: u64) {
        *self.counts.republished.entry(reason).or_default() += messages;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn message(id: u8) -> Message {
        Message {
            source: "app".into(),
            message_id: MessageId([id; 16]),
            kind: crate::wire::TYPE_BATCH,
            content_type: "application/x-ndjson",
            content_encoding: None,
            priority: None,
            timestamp: 0,
            agent: String::new(),
            host: "h".into(),
            lines: 1,
            bytes: 10,
            ranges: String::new(),
            body: Bytes::from_static(b"0123456789"),
        }
    }

    fn outcome(meter: &mut Meter, tag: u64, outcome: amqp::Outcome) {
        meter.link(&amqp::Event::Outcome { tag, outcome });
    }

    #[test]
    fn what_is_sent_again_is_counted_by_why() {
        use amqp::Outcome::{Ack, Nack, Returned};
        let mut meter = Meter::default();
        let queue: Arc<str> = "search".into();
        for tag in 1..=4 {
            meter.published(tag, None, &message(u8::try_from(tag).expect("small")));
        }
        outcome(&mut meter, 1, Ack);
        meter.check();
        outcome(&mut meter, 2, Ack);
        outcome(&mut meter, 3, Nack);
        meter.published(5, Some(Arc::clone(&queue)), &message(3));
        outcome(&mut meter, 5, Nack);
        // Where the default exchange is forbidden, it is offered whole.
        meter.published(6, None, &message(3));
        outcome(&mut meter, 6, Returned);
        meter.link(&amqp::Event::Checked(amqp::Checked::Good));
        // The second one came after the check had begun.
        meter.sending_again();
        meter.link(&amqp::Event::Disconnected(amqp::Failure::other("gone")));
        // Nobody waits for that one any more.
        outcome(&mut meter, 4, Ack);

        let counts = &meter.counts;
        assert_eq!((counts.published_messages, counts.published_bytes), (6, 60));
        let republished: Vec<_> = counts.republished.clone().into_iter().collect();
        assert_eq!(
            republished,
            [("connection", 1), ("nack", 2), ("topology", 1)]
        );
        let nacks: Vec<_> = counts.nacks.clone().into_iter().collect();
        assert_eq!(nacks, [("".into(), 1), (queue, 1)]);
        assert_eq!(counts.returns, 1);
        assert_eq!(counts.reconnects["other"], 1);
        assert_eq!(counts.acks.buckets.iter().sum::<u64>(), 2);
    }

    #[test]
    fn a_time_falls_into_the_first_bucket_that_it_fits() {
        let mut histogram = Histogram::default();
        for millis in [0, 1, 2, 100, 60_000, 60_001] {
            histogram.observe(Duration::from_millis(millis));
        }
        assert_eq!(histogram.buckets[..2], [2, 1]);
        assert_eq!(histogram.buckets[6], 1);
        assert_eq!(histogram.buckets[14..], [1, 1]);
    }
}
