//! Owns the consumption of one queue.

use std::error::Error;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::timeout;

use super::convert::message_of;
use super::{ANSWER, Amqp, ready_messages};
use crate::support::message::Message;
use crate::support::wait::wait_for_some;

/// How many messages of a megabyte may be on their way to a test.
const PREFETCH: u16 = 32;

/// Takes a queue in its order over a connection of its own, and acknowledges what it hands out:
/// what the test has not asked for yet stays the broker's.
pub struct Consumer {
    queue: String,
    is_stream: bool,
    deliveries: lapin::Consumer,
    channel: Channel,
    amqp: Amqp,
}

impl Consumer {
    pub fn open(url: &str, queue: &str) -> Self {
        Self::open_with(url, queue, false)
    }

    /// Of a stream, from its first message on.
    pub fn open_stream(url: &str, queue: &str) -> Self {
        Self::open_with(url, queue, true)
    }

    fn open_with(url: &str, queue: &str, is_stream: bool) -> Self {
        wait_for_some(ANSWER, &format!("queue {queue} answers"), || {
            match Self::try_open(url, queue, is_stream) {
                Ok(consumer) => Some(consumer),
                // A quorum queue can be seen before the process that answers for it runs.
                Err(error) if error.contains("noproc") => None,
                Err(error) => panic!("queue {queue} cannot be consumed: {error}"),
            }
        })
    }

    fn try_open(url: &str, queue: &str, is_stream: bool) -> Result<Self, String> {
        let amqp = Amqp::try_connect(url)?;
        let opening = async {
            let channel = amqp.connection.create_channel().await?;
            channel
                .basic_qos(PREFETCH, BasicQosOptions::default())
                .await?;
            let options = BasicConsumeOptions::default();
            let mut arguments = FieldTable::default();
            if is_stream {
                let first = AMQPValue::LongString("first".into());
                arguments.insert("x-stream-offset".into(), first);
            }
            let deliveries = channel
                .basic_consume(queue.into(), "".into(), options, arguments)
                .await?;
            Ok::<_, lapin::Error>((channel, deliveries))
        };
        let opened = amqp.runtime.block_on(opening);
        let (channel, deliveries) = opened.map_err(|error| error.to_string())?;
        Ok(Self {
            queue: queue.to_owned(),
            is_stream,
            deliveries,
            channel,
            amqp,
        })
    }

    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// The next message, or none within `patience`. Panics when the consumer has ended.
    pub fn next(&mut self, patience: Duration) -> Option<Message> {
        let taking = async {
            let Ok(next) = timeout(patience, self.deliveries.next()).await else {
                return Ok(None);
            };
            let Some(delivery) = next.transpose()? else {
                return Err("cancelled".into());
            };
            delivery.ack(BasicAckOptions::default()).await?;
            Ok::<_, Box<dyn Error>>(Some(delivery))
        };
        match self.amqp.runtime.block_on(taking) {
            Ok(delivery) => delivery.map(message_of),
            Err(error) => panic!("the consumer of {} ended: {error}", self.queue),
        }
    }

    /// Messages in the queue that are not on their way to this consumer. A stream keeps what was
    /// consumed, so that none are counted there.
    pub fn ready(&self) -> u32 {
        if self.is_stream {
            return 0;
        }
        let asking = async { timeout(ANSWER, ready_messages(&self.channel, &self.queue)).await };
        match self.amqp.runtime.block_on(asking) {
            Ok(Ok(count)) => count,
            Ok(Err(error)) => panic!("queue {} does not answer: {error}", self.queue),
            Err(_) => panic!("queue {} does not answer within {ANSWER:?}", self.queue),
        }
    }
}
