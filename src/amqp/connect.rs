//! Connecting: addresses, time limits, what a refusal means, and how long to wait before the next
//! attempt. The socket is our own, with TLS around it where the address says so; the library gets it
//! ready made, and it is cut when nobody needs it any more, because the library's thread would wait
//! on it for ever.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::AsyncReadExt;
use lapin::tcp::AsyncTcpStream;
use lapin::uri::{AMQPScheme, AMQPUri, SASLMechanism};
use lapin::{Connection, ConnectionProperties, ErrorKind};
use rustix::net::{Shutdown, shutdown};
use tokio::time::Instant;

use super::greeting::{self, Greeting};
use super::{Failure, FailureKind, Settings, password, tls};
use crate::secret::Secret;

/// The longest silence that is waited out.
pub(super) const PATIENCE_MAX: Duration = Duration::from_secs(3600);

/// How long a refusal is listened for that comes at once, if it comes.
const LISTEN: Duration = Duration::from_secs(2);

/// Bytes that may wait in the socket until it takes more. The kernel takes megabytes otherwise, and
/// over a slow network a topology check stands behind all of them, with each of its dozen questions:
/// at 1 Mbit/s under load no mark moved for as long as the load went on. What is under way is not
/// counted, so that a long way costs no throughput.
const UNSENT_MAX: u32 = 128 * 1024;

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
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.uri.scheme == AMQPScheme::AMQPS
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = &self.uri.authority;
        write!(f, "{}://", self.uri.scheme)?;
        if !(self.is_encrypted() && self.login == Login::Default) {
            write!(f, "{}@", percent_encoded(&authority.userinfo.username))?;
        }
        let vhost = percent_encoded(&self.uri.vhost);
        write!(f, "{}:{}/{vhost}", authority.host, authority.port)
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

/// The socket below a connection. Dropped, it is cut, and with it ends the library's thread, which
/// otherwise outlives a peer that says nothing or takes nothing.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

impl Drop for Socket {
    fn drop(&mut self) {
        // It may be closed already.
        let _ = shutdown(&self.0, Shutdown::Both);
    }
}

/// How far connecting has come.
#[derive(Clone, Copy)]
enum Stage {
    Files,
    Tcp,
    Tls,
    Amqp,
}

impl Stage {
    /// What has not come about in time.
    fn missing(self) -> &'static str {
        match self {
            Self::Files => "no password or certificate read",
            Self::Tcp => "no connection",
            Self::Tls => "no end of the TLS handshake",
            Self::Amqp => "no end of the AMQP handshake",
        }
    }
}

/// Connects, within the time limit.
pub(super) async fn connect(
    settings: &Settings,
    address: &Address,
) -> Result<(Connection, Socket), Failure> {
    let limit = settings.connect_timeout;
    let mut stage = Stage::Files;
    let connecting = connect_in_stages(settings, address, &mut stage);
    match tokio::time::timeout(limit, connecting).await {
        Ok(connected) => connected,
        Err(_) => {
            let text = format!("{} within {limit:?}", stage.missing());
            let advice = matches!(stage, Stage::Tls | Stage::Amqp).then_some(
                "something accepts connections there and does not answer: a broker that is stuck \
                 or has all the connections that it takes (connection_max), a proxy without a \
                 broker behind it, or another service",
            );
            Err(Failure::other(text).advise(advice))
        }
    }
}

async fn connect_in_stages(
    settings: &Settings,
    address: &Address,
    stage: &mut Stage,
) -> Result<(Connection, Socket), Failure> {
    let limit = settings.connect_timeout;
    let uri = uri(settings, address).await?;
    let connector = if address.is_encrypted() {
        Some(tls::connector(&settings.tls, limit).await?)
    } else {
        None
    };

    *stage = Stage::Tcp;
    let runtime = lapin::runtime::default_runtime().map_err(|error| failure(&error))?;
    let (host, port) = address.host_and_port();
    let until = Instant::now() + limit;
    let connect = |address| AsyncTcpStream::connect(&runtime, address);
    let stream = first_that_answers(host, port, until, connect).await?;
    let socket = match &stream {
        AsyncTcpStream::Plain(stream) => stream.get_ref().as_fd().try_clone_to_owned(),
        _ => Err(io::Error::other("not a plain socket")),
    };
    let socket = Socket(socket.map_err(|error| of_io(&error))?);
    // Where the kernel does not have it, all works without.
    let _ = socket2::SockRef::from(&socket.0).set_tcp_notsent_lowat(UNSENT_MAX);

    *stage = Stage::Tls;
    let stream = match &connector {
        Some(connector) => {
            let name = settings.tls.server_name.as_deref().unwrap_or(host);
            let encrypting = stream.into_rustls(connector, name);
            encrypting
                .await
                .map_err(|error| handshake_failure(&error))?
        }
        None => stream,
    };

    *stage = Stage::Amqp;
    let properties = ConnectionProperties::default()
        .with_connection_name(settings.connection_name.clone().into())
        .with_client_property("product".into(), "fantail".into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
    let ready = Mutex::new(Some(stream));
    // Asked for it once: the library makes no attempts of its own.
    let hand_over = async move |_, _| {
        let stream = ready.lock().ok().and_then(|mut ready| ready.take());
        stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected).into())
    };
    match Connection::connector(uri, runtime, hand_over, properties).await {
        Ok(connection) => Ok((connection, socket)),
        Err(error) => Err(why_not(&error, settings, address).await),
    }
}

/// What the library is told: with the password, which is never kept in an address.
async fn uri(settings: &Settings, address: &Address) -> Result<AMQPUri, Failure> {
    let mut uri = address.uri.clone();
    uri.query.heartbeat = u16::try_from(settings.heartbeat.as_secs().max(1)).ok();
    if settings.logs_in_by_certificate(address) {
        uri.query.auth_mechanism = Some(SASLMechanism::External);
        return Ok(uri);
    }
    let password = match &settings.password_file {
        Some(path) => password::read(path, settings.connect_timeout).await?,
        None => address.password.clone(),
    };
    uri.authority.userinfo.password = password.expose().to_owned();
    Ok(uri)
}

/// Looks the host up anew and tries its addresses in turn. Each gets its share of the time, so that
/// one that swallows everything does not hide those behind it.
async fn first_that_answers<S, F>(
    host: &str,
    port: u16,
    until: Instant,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<S, Failure>
where
    F: Future<Output = io::Result<S>>,
{
    let found = tokio::net::lookup_host((host, port)).await;
    let found: Vec<_> = found.map_err(|error| unresolved(host, &error))?.collect();
    let mut refusal = unresolved(host, &io::Error::other("no address"));
    for (tried, address) in found.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(found.len() - tried).unwrap_or(u32::MAX);
        refusal = match tokio::time::timeout(share, connect(*address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => of_io(&error),
            Err(_) => Failure::other(format!("no connection to {address} within {share:.0?}")),
        };
    }
    Err(refusal)
}

fn unresolved(host: &str, error: &io::Error) -> Failure {
    let text = format!("the name {host:?} could not be looked up: {error}");
    Failure::other(text)
}

fn of_io(error: &io::Error) -> Failure {
    tls::failure(error).unwrap_or_else(|| Failure::other(error.to_string()))
}

fn handshake_failure(error: &io::Error) -> Failure {
    if tls::failure(error).is_some() {
        return of_io(error);
    }
    let text = format!("TLS: the connection ended in the handshake: {error}");
    let advice = "amqps:// is for the broker's TLS port, 5671 by default; the broker's log may say \
                  more";
    Failure::other(text).advise(advice)
}

/// Why the AMQP handshake failed. Who ended it without a word of AMQP is asked once more, in a way
/// that lets him say why.
async fn why_not(error: &lapin::Error, settings: &Settings, address: &Address) -> Failure {
    let failure = connect_failure(error, settings.logs_in_by_certificate(address));
    let ended = matches!(
        error.kind(),
        ErrorKind::IOError(_) | ErrorKind::ParsingError(_)
    );
    if !ended || failure.advice.is_some() {
        return failure;
    }
    if address.is_encrypted() {
        let refusal = refusal_of_certificate(settings, address).await;
        return refusal.unwrap_or(failure.advise(
            "the connection ended behind the TLS handshake: the broker's log may say more",
        ));
    }
    let (host, port) = address.host_and_port();
    match greeting::greet(host, port, settings.connect_timeout).await {
        // Of AMQP all the same, or gone: then the first words say more.
        Greeting::Broker(_) | Greeting::Nobody(_) => failure,
        other => {
            let (text, advice) = other.not_a_broker();
            Failure::other(text).advise(advice)
        }
    }
}

/// What a broker has against the client certificate. With TLS 1.3 it says so behind the handshake
/// and closes, and whoever has begun to write by then gets a reset instead; so nothing is written.
async fn refusal_of_certificate(settings: &Settings, address: &Address) -> Option<Failure> {
    let limit = settings.connect_timeout;
    let connector = tls::connector(&settings.tls, limit).await.ok()?;
    let runtime = lapin::runtime::default_runtime().ok()?;
    let (host, port) = address.host_and_port();
    let connect = |address| AsyncTcpStream::connect(&runtime, address);
    let stream = first_that_answers(host, port, Instant::now() + limit, connect);
    let stream = stream.await.ok()?;
    let name = settings.tls.server_name.as_deref().unwrap_or(host);
    let listening = async {
        let mut stream = stream.into_rustls(&connector, name).await?;
        stream.read(&mut [0]).await
    };
    match tokio::time::timeout(LISTEN.min(limit), listening).await {
        Ok(Err(error)) => tls::failure(&error),
        Ok(Ok(_)) | Err(_) => None,
    }
}

/// What an error means once there is a connection.
pub(super) fn failure(error: &lapin::Error) -> Failure {
    match error.kind() {
        ErrorKind::IOError(error) => of_io(error),
        ErrorKind::ProtocolError(refusal) if refusal.get_id() == 403 => {
            Failure::new(FailureKind::Access, text(error))
        }
        _ => {
            let text = text(error);
            match size_limit(&text) {
                Some(limit) => Failure::new(FailureKind::TooLarge { limit }, text)
                    .advise("lower batch.max_bytes, or raise the broker's max_message_size"),
                None => Failure::other(text),
            }
        }
    }
}

/// Out of `406 PRECONDITION_FAILED - message size 2000000 is larger than configured max size
/// 1000000`, and what other versions make of it, comes 1,000,000 (rabbit_channel.erl).
fn size_limit(text: &str) -> Option<u64> {
    let (_, sizes) = text.strip_prefix("406 ")?.split_once("message size ")?;
    let (_, limit) = sizes.split_once(" max size ")?;
    let digits = limit.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// What an error means while connecting, when 403 is an answer to the login.
fn connect_failure(error: &lapin::Error, by_certificate: bool) -> Failure {
    let failure = failure(error);
    let no_mechanism =
        failure.text.contains("authentication mechanism") && failure.kind == FailureKind::Other;
    match failure.kind {
        FailureKind::Access if by_certificate => Failure {
            kind: FailureKind::Login,
            advice: Some(
                "the broker has no such user as the client certificate names (its whole subject, \
                 or its common name with ssl_cert_login_from = common_name), or does not verify \
                 clients (ssl_options.verify = verify_peer)",
            ),
            ..failure
        },
        FailureKind::Access => Failure {
            kind: FailureKind::Login,
            ..failure
        },
        _ if by_certificate && no_mechanism => Failure {
            kind: FailureKind::Login,
            advice: Some(
                "a login by client certificate needs, at the broker, rabbitmq-plugins enable \
                 rabbitmq_auth_mechanism_ssl, auth_mechanisms with EXTERNAL, and ssl_options.verify \
                 = verify_peer",
            ),
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
            FailureKind::Files
            | FailureKind::Certificate
            | FailureKind::Access
            | FailureKind::TooLarge { .. }
            | FailureKind::Other => (&mut self.pause, PAUSE_MAX),
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
        let encrypted: Address = "amqps://broker".parse().expect("an address");
        assert_eq!(encrypted.to_string(), "amqps://broker:5671/%2f");
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
    fn a_brokers_limit_of_a_message_is_read_out_of_its_refusal() {
        for (words, limit) in [
            (
                "message size 200000 is larger than configured max size 100000",
                Some(100_000),
            ),
            (
                "message size 600000000 is larger than max size 536870912",
                Some(536_870_912),
            ),
            ("message size 5 larger than max size 4 in x", Some(4)),
            ("message size 5 is larger than configured max size ", None),
            (
                "inequivalent arg 'x-max-length' for queue 'max size 5'",
                None,
            ),
        ] {
            let text = format!("406 PRECONDITION_FAILED - {words}");
            assert_eq!(size_limit(&text), limit, "{words}");
        }
        assert_eq!(size_limit("message size 2 is larger than max size 1"), None);
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
