//! Owns one message as it lay in a queue, apart from the library that fetched it.

use std::collections::BTreeMap;

/// Properties and body. `Default` is a message with neither.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub redelivered: bool,
    pub exchange: String,
    pub routing_key: String,
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub delivery_mode: Option<u8>,
    pub priority: Option<u8>,
    pub message_id: Option<String>,
    pub timestamp: Option<u64>,
    /// The property `type`.
    pub kind: Option<String>,
    pub app_id: Option<String>,
    /// In the order of their names.
    pub headers: BTreeMap<String, Header>,
    pub body: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Header {
    /// A long string that is UTF-8.
    Text(String),
    /// A 64-bit integer.
    Int(i64),
    /// Anything else, as words for a report, and its encoded size.
    Other(String, usize),
}

impl Message {
    pub fn text_header(&self, name: &str) -> Option<&str> {
        match self.headers.get(name) {
            Some(Header::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub fn int_header(&self, name: &str) -> Option<i64> {
        match self.headers.get(name) {
            Some(Header::Int(number)) => Some(*number),
            _ => None,
        }
    }

    /// Headers but those that a broker adds (`x-delivery-count` and its like).
    pub fn own_headers(&self) -> impl Iterator<Item = (&String, &Header)> {
        self.headers
            .iter()
            .filter(|(name, _)| !name.starts_with("x-"))
    }

    /// Bytes of the property list on the wire (AMQP 0-9-1, section 4.2.6.1), flags and headers of
    /// the broker's not counted.
    pub fn properties_bytes(&self) -> usize {
        let short_strings = [
            &self.content_type,
            &self.content_encoding,
            &self.message_id,
            &self.kind,
            &self.app_id,
        ];
        let strings: usize = short_strings
            .into_iter()
            .flatten()
            .map(|text| 1 + text.len())
            .sum();
        let octets =
            usize::from(self.delivery_mode.is_some()) + usize::from(self.priority.is_some());
        let timestamp = if self.timestamp.is_some() { 8 } else { 0 };
        strings + octets + timestamp + self.headers_bytes()
    }

    /// A table: its length in 4 bytes, then for each entry the name, a type letter and the value.
    fn headers_bytes(&self) -> usize {
        if self.headers.is_empty() {
            return 0;
        }
        let entry = |(name, value): (&String, &Header)| {
            let value = match value {
                Header::Text(text) => 4 + text.len(),
                Header::Int(_) => 8,
                Header::Other(_, bytes) => *bytes,
            };
            1 + name.len() + 1 + value
        };
        4 + self.own_headers().map(entry).sum::<usize>()
    }
}
