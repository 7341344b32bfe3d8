//! Owns a blocking view of AMQP for tests, over lapin: a test's own hands in the broker.

mod consumer;
mod convert;

use std::time::Duration;

use lapin::options::{
    BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions,
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind};
use tokio::runtime::Runtime;
use tokio::time::timeout;

pub use self::consumer::Consumer;
use self::convert::{message_of, properties_of};
use super::message::Message;

/// A broker that does not answer within this time has failed the test.
const ANSWER: Duration = Duration::from_secs(60);

/// For connecting, and for goodbyes to brokers that are paused or gone.
const BRIEF: Duration = Duration::from_secs(5);

/// One connection. Every call uses a channel of its own, so that a refused one spoils no other.
/// Methods panic on errors; those called `try_…` return the broker's words.
pub struct Amqp {
    connection: Connection,
    runtime: Runtime,
}

/// An argument of a queue or exchange.
#[derive(Clone, Copy, Debug)]
pub enum Argument<'a> {
    Text(&'a str),
    Int(i64),
}

impl Amqp {
    pub fn connect(url: &str) -> Self {
        Self::try_connect(url).unwrap_or_else(|error| panic!("no connection to {url}: {error}"))
    }

    /// Returns when the AMQP handshake is done. Without heartbeats, which nobody would send while
    /// the test does something else.
    pub fn try_connect(url: &str) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let url = format!("{url}?heartbeat=0");
        let connecting = async {
            let properties =
                ConnectionProperties::default().with_connection_name("fantail-test".into());
            timeout(BRIEF, Connection::connect(&url, properties)).await
        };
        match runtime.block_on(connecting) {
            Ok(Ok(connection)) => Ok(Self {
                connection,
                runtime,
            }),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no handshake within {BRIEF:?}")),
        }
    }

    /// A durable queue of `kind`: `"quorum"`, `"classic"` or `"stream"`.
    pub fn declare_queue(&self, queue: &str, kind: &str, arguments: &[(&str, Argument<'_>)]) {
        self.try_declare_queue(queue, kind, arguments)
            .unwrap_or_else(|error| panic!("queue {queue} is not declared: {error}"));
    }

    pub fn try_declare_queue(
        &self,
        queue: &str,
        kind: &str,
        arguments: &[(&str, Argument<'_>)],
    ) -> Result<(), String> {
        let mut table = FieldTable::default();
        table.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
        for (name, value) in arguments {
            let value = match value {
                Argument::Text(text) => AMQPValue::LongString((*text).into()),
                Argument::Int(number) => AMQPValue::LongLongInt(*number),
            };
            table.insert((*name).into(), value);
        }
        let options = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        self.on_channel(async |channel| channel.queue_declare(queue.into(), options, table).await)
            .map(|_| ())
    }

    pub fn delete_queue(&self, queue: &str) {
        self.on_channel(async |channel| {
            channel
                .queue_delete(queue.into(), QueueDeleteOptions::default())
                .await
        })
        .unwrap_or_else(|error| panic!("queue {queue} is not deleted: {error}"));
    }

    pub fn purge_queue(&self, queue: &str) {
        self.on_channel(async |channel| {
            channel
                .queue_purge(queue.into(), QueuePurgeOptions::default())
                .await
        })
        .unwrap_or_else(|error| panic!("queue {queue} is not purged: {error}"));
    }

    /// Messages that are ready, those on their way to a consumer not counted; none for no queue.
    pub fn message_count(&self, queue: &str) -> Option<u32> {
        self.on_channel(async |channel| ready_messages(channel, queue).await)
            .ok()
    }

    pub fn queue_exists(&self, queue: &str) -> bool {
        self.message_count(queue).is_some()
    }

    pub fn declare_exchange(&self, exchange: &str, kind: ExchangeKind) {
        let options = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        self.on_channel(async |channel| {
            channel
                .exchange_declare(
                    exchange.into(),
                    kind.clone(),
                    options,
                    FieldTable::default(),
                )
                .await
        })
        .unwrap_or_else(|error| panic!("exchange {exchange} is not declared: {error}"));
    }

    pub fn delete_exchange(&self, exchange: &str) {
        self.on_channel(async |channel| {
            channel
                .exchange_delete(exchange.into(), ExchangeDeleteOptions::default())
                .await
        })
        .unwrap_or_else(|error| panic!("exchange {exchange} is not deleted: {error}"));
    }

    pub fn bind(&self, queue: &str, exchange: &str) {
        self.on_channel(async |channel| {
            let options = QueueBindOptions::default();
            let (queue, exchange) = (queue.into(), exchange.into());
            channel
                .queue_bind(queue, exchange, "".into(), options, FieldTable::default())
                .await
        })
        .unwrap_or_else(|error| panic!("{queue} is not bound to {exchange}: {error}"));
    }

    pub fn unbind(&self, queue: &str, exchange: &str) {
        self.on_channel(async |channel| {
            let (queue, exchange) = (queue.into(), exchange.into());
            channel
                .queue_unbind(queue, exchange, "".into(), FieldTable::default())
                .await
        })
        .unwrap_or_else(|error| panic!("{queue} is not unbound from {exchange}: {error}"));
    }

    /// A persistent message without further properties; returns when the broker has confirmed it.
    pub fn publish(&self, exchange: &str, routing_key: &str, body: &[u8]) {
        self.publish_message(&Message {
            exchange: exchange.to_owned(),
            routing_key: routing_key.to_owned(),
            delivery_mode: Some(2),
            body: body.to_vec(),
            ..Message::default()
        });
    }

    /// To the exchange and with the routing key that the message names; returns when the broker has
    /// confirmed it.
    pub fn publish_message(&self, message: &Message) {
        let confirmation = self.on_channel(async |channel| {
            channel
                .confirm_select(ConfirmSelectOptions::default())
                .await?;
            let options = BasicPublishOptions {
                mandatory: true,
                ..BasicPublishOptions::default()
            };
            let exchange = message.exchange.as_str().into();
            let key = message.routing_key.as_str().into();
            let properties = properties_of(message);
            channel
                .basic_publish(exchange, key, options, &message.body, properties)
                .await?
                .await
        });
        assert!(
            matches!(confirmation, Ok(Confirmation::Ack(None))),
            "a message to exchange {:?}, key {:?}: {confirmation:?}",
            message.exchange,
            message.routing_key
        );
    }

    /// Takes the first message out of the queue.
    pub fn get(&self, queue: &str) -> Option<Message> {
        self.on_channel(async |channel| {
            let options = BasicGetOptions { no_ack: true };
            channel.basic_get(queue.into(), options).await
        })
        .unwrap_or_else(|error| panic!("no get from {queue}: {error}"))
        .map(|got| message_of(got.delivery))
    }

    /// Takes the first message and returns it to the queue; false when there is none.
    pub fn give_back(&self, queue: &str) -> bool {
        self.on_channel(async |channel| {
            let got = channel
                .basic_get(queue.into(), BasicGetOptions::default())
                .await?;
            let Some(got) = got else { return Ok(false) };
            let options = BasicNackOptions {
                requeue: true,
                ..BasicNackOptions::default()
            };
            got.delivery.nack(options).await?;
            Ok(true)
        })
        .unwrap_or_else(|error| panic!("no get from {queue}: {error}"))
    }

    /// A channel's setup, the call, and its end, within one deadline.
    fn on_channel<T>(
        &self,
        call: impl AsyncFnOnce(&Channel) -> Result<T, lapin::Error>,
    ) -> Result<T, String> {
        let calling = async {
            let channel = self.connection.create_channel().await?;
            let result = call(&channel).await?;
            channel.close(200, "done".into()).await?;
            Ok(result)
        };
        match self
            .runtime
            .block_on(async { timeout(ANSWER, calling).await })
        {
            Ok(result) => result.map_err(|error: lapin::Error| error.to_string()),
            Err(_) => Err(format!("no answer within {ANSWER:?}")),
        }
    }
}

impl Drop for Amqp {
    fn drop(&mut self) {
        let closing = self.connection.close(200, "done".into());
        let _ = self
            .runtime
            .block_on(async { timeout(BRIEF, closing).await });
    }
}

async fn ready_messages(channel: &Channel, queue: &str) -> Result<u32, lapin::Error> {
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let declared = channel
        .queue_declare(queue.into(), passive, FieldTable::default())
        .await?;
    Ok(declared.message_count())
}
