//! Owns the way between lapin's messages and ours.

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::support::message::{Header, Message};

pub fn properties_of(message: &Message) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in &message.headers {
        let value = match value {
            Header::Text(text) => AMQPValue::LongString(text.as_str().into()),
            Header::Int(number) => AMQPValue::LongLongInt(*number),
            Header::Other(form, _) => panic!("a header that is {form} cannot be published"),
        };
        headers.insert(name.as_str().into(), value);
    }
    let mut properties = BasicProperties::default().with_headers(headers);
    type With = fn(BasicProperties, ShortString) -> BasicProperties;
    let texts: [(_, With); 5] = [
        (&message.content_type, BasicProperties::with_content_type),
        (
            &message.content_encoding,
            BasicProperties::with_content_encoding,
        ),
        (&message.message_id, BasicProperties::with_message_id),
        (&message.kind, BasicProperties::with_type),
        (&message.app_id, BasicProperties::with_app_id),
    ];
    for (text, with) in texts {
        if let Some(text) = text {
            properties = with(properties, text.as_str().into());
        }
    }
    if let Some(mode) = message.delivery_mode {
        properties = properties.with_delivery_mode(mode);
    }
    if let Some(priority) = message.priority {
        properties = properties.with_priority(priority);
    }
    if let Some(time) = message.timestamp {
        properties = properties.with_timestamp(time);
    }
    properties
}

pub fn message_of(delivery: Delivery) -> Message {
    let properties = &delivery.properties;
    let text = |value: &Option<ShortString>| value.as_ref().map(|value| value.as_str().to_owned());
    let headers = properties.headers().iter().flat_map(FieldTable::inner);
    Message {
        redelivered: delivery.redelivered,
        exchange: delivery.exchange.as_str().to_owned(),
        routing_key: delivery.routing_key.as_str().to_owned(),
        content_type: text(properties.content_type()),
        content_encoding: text(properties.content_encoding()),
        delivery_mode: *properties.delivery_mode(),
        priority: *properties.priority(),
        message_id: text(properties.message_id()),
        timestamp: *properties.timestamp(),
        kind: text(properties.kind()),
        app_id: text(properties.app_id()),
        headers: headers
            .map(|(name, value)| (name.as_str().to_owned(), header_of(value)))
            .collect(),
        body: delivery.data,
    }
}

fn header_of(value: &AMQPValue) -> Header {
    match value {
        AMQPValue::LongLongInt(number) => Header::Int(*number),
        AMQPValue::LongString(text) => match std::str::from_utf8(text.as_bytes()) {
            Ok(text) => Header::Text(text.to_owned()),
            Err(_) => Header::Other(
                "a string that is not UTF-8".to_owned(),
                4 + text.as_bytes().len(),
            ),
        },
        // At least one byte; none of these is allowed, so their exact size does not matter.
        other => Header::Other(format!("{:?}", other.get_type()), 1),
    }
}
