//! Connecting: addresses, time limits, what a refusal means, and how long to wait before the next
//! attempt.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties, ErrorKind};

use super::{Failure, FailureKind, Settings, password};
use crate::secret::Secret;

/// The longest silence that is waited out.
pub(super) const PATIENCE_MAX: Duration = Duration::from_secs(3600);

const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
const LOGIN_PAUSE_FIRST: Duration = Duration::from_secs(30);
const LOGIN_PAUSE_MAX: Duration = Duration::from_secs(300);

/// A broker's address. Prints without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// Without a password: the library's type prints it.
    uri: AMQPUri,
    password: Secret,
    login: Login,
}

/// What an address says about who logs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// Nothing.
    Default,
    /// A user alone.
    User,
    /// A user with a password.
    UserAndPassword,
}

/// A text that is no address.
#[derive(Debug, thiserror::Error)]
pub enum NotAnAddress {
    /// Not in the form `amqp://user:password@host:port/vhost`.
    #[error("not in the form amqp://USER:PASSWORD@HOST:PORT/VHOST ({0})")]
    Form(String),
    /// Encrypted connections are not built yet.
    #[error("amqps:// (TLS) is not built yet")]
    Tls,
    /// Parameters that fantail sets itself.
    #[error("parameters behind `?` are not taken; use the keys of [broker] instead")]
    Parameters,
}

impl FromStr for Address {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        if text.contains('?') {
            return Err(NotAnAddress::Parameters);
        }
        let mut uri: AMQPUri = text.parse().map_err(without_address)?;
        if uri.scheme == AMQPScheme::AMQPS {
            return Err(NotAnAddress::Tls);
        }
        let password = std::mem::take(&mut uri.authority.userinfo.password);
        Ok(Self {
            uri,
            password: Secret::from(password),
            login: login(text),
        })
    }
}

/// The library's parser puts defaults where an address says nothing.
fn login(text: &str) -> Login {
    let authority = text.split_once("://").map_or(text, |(_, rest)| rest);
    let authority = authority.split('/').next().unwrap_or_default();
    match authority.rsplit_once('@') {
        None => Login::Default,
        Some((user, _)) if user.contains(':') => Login::UserAndPassword,
        Some(_) => Login::User,
    }
}

/// The library's words may quote the address, with the password in it.
fn without_address(mut words: String) -> NotAnAddress {
    if let Some(quoted) = words.find(": '") {
        words.truncate(quoted);
    }
    NotAnAddress::Form(words)
}

impl Address {
    /// What it says about who logs in.
    #[must_use]
    pub fn login(&self) -> Login {
        self.login
    }

    /// Where it is; an IPv6 address without its brackets.
    pub(super) fn host_and_port(&self) -> (&str, u16) {
        let host = self.uri.authority.host.trim_matches(['[', ']']);
        (host, self.uri.authority.port)
    }

    /// Whether TLS is spoken there.
    pub(super) fn is_encrypted(&self) -> bool {
        self.uri.scheme == AMQPScheme::AMQPS
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = &self.uri.authority;
        write!(
            f,
            "{}://{}@{}:{}/{}",
            self.uri.scheme,
            percent_encoded(&authority.userinfo.username),
            authority.host,
            authority.port,
            percent_encoded(&self.uri.vhost)
        )
    }
}

/// As it stands in an address: the parser has decoded it.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02x}"));
        }
    }
    encoded
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Connects, within the time limit. The library's own limit covers the TCP connect alone: a peer
/// that accepts and stays silent would hang it.
pub(super) async fn connect(settings: &Settings, address: &Address) -> Result<Connection, Failure> {
    let password = match &settings.password_file {
        Some(path) => password::read(path, settings.connect_timeout).await?,
        None => address.password.clone(),
    };
    let mut uri = address.uri.clone();
    uri.authority.userinfo.password = password.expose().to_owned();
    uri.query.heartbeat = u16::try_from(settings.heartbeat.as_secs().max(1)).ok();
    let properties = ConnectionProperties::default()
        .with_connection_name(settings.connection_name.clone().into())
        .with_client_property("product".into(), "fantail".into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
    let connecting = Connection::connect_uri(uri, properties);
    match tokio::time::timeout(settings.connect_timeout, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(connect_failure(&error)),
        Err(_) => Err(Failure {
            text: format!("no connection within {:?}", settings.connect_timeout),
            kind: FailureKind::Other,
        }),
    }
}

/// What an error means once there is a connection.
pub(super) fn failure(error: &lapin::Error) -> Failure {
    let access = matches!(error.kind(), ErrorKind::ProtocolError(error) if error.get_id() == 403);
    Failure {
        text: text(error),
        kind: if access {
            FailureKind::Access
        } else {
            FailureKind::Other
        },
    }
}

/// What an error means while connecting, when 403 is an answer to the login.
fn connect_failure(error: &lapin::Error) -> Failure {
    let failure = failure(error);
    match failure.kind {
        FailureKind::Access => Failure {
            kind: FailureKind::Login,
            ..failure
        },
        _ => failure,
    }
}

/// The broker's own words where it had some.
pub(super) fn text(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) => {
            format!("{} {}", error.get_id(), error.get_message())
        }
        ErrorKind::MissingHeartbeatError => "no heartbeat from the broker".to_owned(),
        ErrorKind::IOError(error) => error.to_string(),
        _ => error.to_string(),
    }
}

/// How long to wait before the next attempt: doubling, with jitter, so that a fleet does not come
/// back in one moment.
#[derive(Debug)]
pub(super) struct Pace {
    pause: Duration,
    login_pause: Duration,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            pause: PAUSE_FIRST,
            login_pause: LOGIN_PAUSE_FIRST,
        }
    }

    /// A connection was good for something.
    pub(super) fn reset(&mut self) {
        *self = Self::new();
    }

    pub(super) fn next(&mut self, kind: FailureKind) -> Duration {
        let (pause, max) = match kind {
            FailureKind::Login | FailureKind::Password => (&mut self.login_pause, LOGIN_PAUSE_MAX),
            FailureKind::Access | FailureKind::Other => (&mut self.pause, PAUSE_MAX),
        };
        let whole = *pause;
        *pause = (*pause * 2).min(max);
        // Without randomness the pause is whole, which is a pause too.
        let jitter = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
        whole.mul_f64(0.5 + jitter / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_prints_without_its_password() {
        let address: Address = "amqp://me:s3cret@broker:5673/%2f"
            .parse()
            .expect("an address");
        assert_eq!(address.to_string(), "amqp://me@broker:5673/%2f");
        assert!(!format!("{address:?}").contains("s3cret"));
        assert!("http://broker".parse::<Address>().is_err());
        assert!("amqps://broker".parse::<Address>().is_err());
        assert!("amqp://broker?heartbeat=0".parse::<Address>().is_err());
        for address in [
            "amqp:me:s3cret@broker",
            "me:s3cret@broker",
            "amqp://me:s3#cret@b",
        ] {
            let refused = address.parse::<Address>().expect_err(address).to_string();
            assert!(!refused.contains("cret"), "{refused}");
        }
    }

    #[test]
    fn an_address_knows_what_it_says_about_who_logs_in() {
        for (text, login) in [
            ("amqp://broker", Login::Default),
            ("amqp://broker:5672/a@b:c", Login::Default),
            ("amqp://me@broker:5672", Login::User),
            ("amqp://me:@broker", Login::UserAndPassword),
            ("amqp://me:a%40b@broker/x", Login::UserAndPassword),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.login(), login, "{text}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_limit_and_refused_logins_are_slow() {
        let mut pace = Pace::new();
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            longest = longest.max(pace.next(FailureKind::Other));
        }
        assert!(longest <= PAUSE_MAX && longest >= PAUSE_MAX / 2);
        assert!(pace.next(FailureKind::Login) >= LOGIN_PAUSE_FIRST / 2);
        // The same account, the same pace.
        assert!(pace.next(FailureKind::Password) >= LOGIN_PAUSE_FIRST);
    }
}
