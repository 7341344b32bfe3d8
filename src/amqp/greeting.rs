//! Who listens at a broker's address: one AMQP protocol header sent, the first bytes that come back
//! read. Nothing is logged in to, so it also tells what a failed connection was talking to.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

/// What every AMQP 0-9-1 connection begins with (specification, section 4.2.2).
const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";
/// A server's first frame: a kilobyte in RabbitMQ.
const ANSWER_MAX: usize = 64 * 1024;
const FRAME_METHOD: u8 = 1;
/// type, channel, size; then class and method, and the two bytes of the protocol's version.
const FRAME_HEADER: usize = 7;
const START_FIXED: usize = 6;

/// Who answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// An AMQP 0-9-1 broker: product and version, as far as it says them.
    Broker(String),
    /// A TLS endpoint: it answers what is not TLS with a TLS alert.
    Tls,
    /// Something that answers in HTTP.
    Http,
    /// A broker of another version of AMQP.
    OtherAmqp,
    /// Accepts and closes without a word, as some TLS endpoints and load balancers do.
    Closed,
    /// Accepts and says nothing.
    Silent,
    /// Says something else.
    Other,
    /// Nobody: the error of the connect.
    Nobody(String),
}

impl Greeting {
    /// What whoever is no broker is, and what to do.
    pub(super) fn not_a_broker(&self) -> (&str, Option<&'static str>) {
        match self {
            Self::Tls => (
                "answers in TLS, and amqp:// speaks plain AMQP",
                Some(
                    "write amqps:// for this port, or give the plain port, which is 5672 by default",
                ),
            ),
            Self::Http => (
                "answers in HTTP: no AMQP broker",
                Some("15672 is RabbitMQ's management page; AMQP is 5672 by default"),
            ),
            Self::OtherAmqp => ("speaks another version of AMQP than 0-9-1", None),
            Self::Closed => (
                "closes the connection without a word",
                Some(
                    "probably a TLS port (write amqps:// for it), a proxy without a broker behind \
                     it, or a service that is not AMQP",
                ),
            ),
            Self::Silent => (
                "accepts the connection and says nothing",
                Some("a TLS port, a proxy without a broker behind it, or a broker that is stuck"),
            ),
            Self::Other | Self::Broker(_) => ("answers, but not in AMQP", None),
            Self::Nobody(text) => (text, None),
        }
    }
}

/// Asks, within `limit`.
pub(super) async fn greet(host: &str, port: u16, limit: Duration) -> Greeting {
    let stream = match timeout(limit, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Greeting::Nobody(connect_error(&error)),
        Err(_) => return Greeting::Nobody(format!("no connection within {limit:?}")),
    };
    let mut answer = Vec::new();
    let asking = async {
        // A peer that has closed already may still have left an answer to read. Eight bytes fit into
        // any socket's buffer at once.
        if stream.writable().await.is_ok() {
            let _ = stream.try_write(PROTOCOL_HEADER);
        }
        while !is_whole(&answer) && answer.len() < ANSWER_MAX && stream.readable().await.is_ok() {
            let mut piece = [0; 1024];
            match stream.try_read(&mut piece) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => break,
                Ok(read) => answer.extend_from_slice(&piece[..read]),
            }
        }
    };
    let in_time = timeout(limit, asking).await.is_ok();
    match read(&answer) {
        Greeting::Closed if !in_time => Greeting::Silent,
        greeting => greeting,
    }
}

fn connect_error(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
        _ => error.to_string(),
    }
}

/// Whether nothing more is needed to tell.
fn is_whole(answer: &[u8]) -> bool {
    match (answer.first(), size(answer)) {
        (Some(&FRAME_METHOD), Some(size)) => answer.len() > FRAME_HEADER + size,
        (Some(&FRAME_METHOD) | None, _) => false,
        (Some(_), _) => answer.len() >= 5,
    }
}

fn size(answer: &[u8]) -> Option<usize> {
    let bytes = answer.get(3..FRAME_HEADER)?;
    usize::try_from(u32::from_be_bytes(bytes.try_into().ok()?)).ok()
}

fn read(answer: &[u8]) -> Greeting {
    match answer {
        [] => Greeting::Closed,
        // TLS record of an alert, any version 3.x (RFC 8446, section 5.1).
        [0x15, 0x03, ..] => Greeting::Tls,
        [b'H', b'T', b'T', b'P', b'/', ..] => Greeting::Http,
        [b'A', b'M', b'Q', b'P', ..] => Greeting::OtherAmqp,
        [FRAME_METHOD, 0, 0, ..] => Greeting::Broker(product(answer).unwrap_or_default()),
        _ => Greeting::Other,
    }
}

/// `RabbitMQ 3.10.8` out of the server properties of connection.start (class 10, method 10).
fn product(answer: &[u8]) -> Option<String> {
    let mut rest = Rest(answer.get(FRAME_HEADER + START_FIXED..)?);
    let mut table = Rest(rest.long_string()?);
    let (mut product, mut version) = (None, None);
    while let Some(name) = table.short_string() {
        match table.take(1)? {
            b"S" => {
                let text = String::from_utf8_lossy(table.long_string()?).into_owned();
                match name {
                    b"product" => product = Some(text),
                    b"version" => version = Some(text),
                    _ => {}
                }
            }
            b"F" => {
                table.long_string()?;
            }
            b"t" => {
                table.take(1)?;
            }
            _ => break,
        }
    }
    Some(
        [product?, version.unwrap_or_default()]
            .join(" ")
            .trim_end()
            .to_owned(),
    )
}

/// Bytes that are still to be read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn short_string(&mut self) -> Option<&'a [u8]> {
        let count = self.take(1)?[0];
        self.take(count.into())
    }

    /// Also a table as bytes: both begin with four bytes of length.
    fn long_string(&mut self) -> Option<&'a [u8]> {
        let count = u32::from_be_bytes(self.take(4)?.try_into().ok()?);
        self.take(usize::try_from(count).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(properties: &[u8]) -> Vec<u8> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("short").to_be_bytes();
        let mut payload = vec![0, 10, 0, 10, 0, 9];
        payload.extend(length(properties));
        payload.extend(properties);
        let mut frame = vec![FRAME_METHOD, 0, 0];
        frame.extend(length(&payload));
        frame.extend(payload);
        frame.push(0xce);
        frame
    }

    #[test]
    fn product_and_version_are_found_among_the_servers_properties() {
        let frame = start(
            b"\x0ccapabilitiesF\0\0\0\x04\x01xt\x01\x07productS\0\0\0\x08RabbitMQ\x07versionS\0\0\0\x063.10.8",
        );
        assert!(is_whole(&frame) && !is_whole(&frame[..frame.len() - 1]));
        assert_eq!(read(&frame), Greeting::Broker("RabbitMQ 3.10.8".to_owned()));
    }

    #[test]
    fn whoever_is_no_broker_is_named_and_no_answer_is_too_short() {
        assert_eq!(read(b"\x15\x03\x03\x00\x02\x02\x0a"), Greeting::Tls);
        assert_eq!(read(b"HTTP/1.1 400"), Greeting::Http);
        assert_eq!(read(b"AMQP\x00\x01\x00\x00"), Greeting::OtherAmqp);
        assert_eq!(read(b"SSH-2.0-"), Greeting::Other);
        assert_eq!(read(b""), Greeting::Closed);
        let frame = start(b"\x07productS\0\0\0\xff");
        for end in 1..frame.len() {
            read(&frame[..end]);
        }
    }
}
