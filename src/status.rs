//! What the daemon tells of itself: the shape of `fantail status --json` and of `GET /status`.
//! Nouns alone; times are RFC 3339 in UTC, and nothing (`null`) means that it is not known.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The daemon at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Of fantail.
    pub version: String,
    /// The agent's id.
    pub agent: String,
    /// The host's name in messages.
    pub host: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// The configuration in use.
    pub config: Config,
    /// The connection.
    pub broker: Broker,
    /// The configured queues.
    pub queues: Vec<Queue>,
    /// The disk buffer.
    pub spool: Spool,
    /// The configured sources.
    pub sources: Vec<Source>,
    /// Every file, by path.
    pub files: Option<Vec<File>>,
    /// The parts that the daemon is made of.
    pub stages: Vec<Stage>,
    /// Bytes that were ever lost, over all restarts.
    pub lost_bytes: u64,
    /// The last warnings and errors, oldest first.
    pub errors: Vec<Error>,
}

/// The configuration in use.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// The main file.
    pub path: String,
    /// When it was read.
    pub loaded_at: String,
    /// Why a later one was not taken.
    pub reload_error: Option<String>,
}

/// The connection to the broker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Broker {
    /// How it is.
    pub state: BrokerState,
    /// The broker that is connected, or was tried last; without password.
    pub url: String,
    /// When `state` became what it is.
    pub since: String,
    /// Why there was no connection, or why the broker took nothing; stays when that is over.
    pub last_error: Option<String>,
    /// Bytes that take up the window: handed over, and not acknowledged.
    pub in_flight_bytes: u64,
}

/// How the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BrokerState {
    /// There is one.
    Connected,
    /// There was none yet, or it was lost, and no attempt has failed since.
    Connecting,
    /// There is one, but the broker takes nothing for the time being.
    Blocked,
    /// The last attempt failed; it is tried again without end.
    Down,
}

/// A configured queue.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Its configured type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether the last check found it.
    pub present: Option<bool>,
    /// Whether its absence stops publishing.
    pub required: bool,
    /// How it differs from the configuration, in the broker's words.
    pub drift: Option<String>,
}

/// The disk buffer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spool {
    /// Bytes in it.
    pub bytes: u64,
    /// Bytes that it may have; 0 where there is none.
    pub limit_bytes: u64,
    /// Files that it consists of.
    pub segments: u64,
    /// Whether it is in use.
    pub mode: SpoolMode,
    /// Seconds until it is full, at the present rate.
    pub full_in_s: Option<u64>,
}

/// Whether the disk buffer is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpoolMode {
    /// Batches go to the broker.
    Direct,
    /// Batches go into the spool.
    Spooling,
    /// The spool is being emptied.
    Draining,
}

/// A configured source.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// How many files it has.
    pub files: Option<u64>,
    /// Lines read since the start.
    pub lines: Option<u64>,
    /// Lines that filters dropped since the start.
    pub dropped: Option<u64>,
    /// Bytes on disk that are not confirmed.
    pub lag: Option<u64>,
}

/// A file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct File {
    /// Its path; U+FFFD for what is not UTF-8.
    pub path: String,
    /// Its id; nothing for a file that cannot be opened.
    pub id: Option<String>,
    /// Its source.
    pub source: String,
    /// Bytes on disk.
    pub size: u64,
    /// Bytes read.
    pub read: u64,
    /// Bytes confirmed.
    pub confirmed: u64,
    /// Bytes on disk that are not confirmed.
    pub lag: u64,
    /// How long the oldest of them has been known, at least; nothing without lag.
    pub oldest_unconfirmed_s: Option<u64>,
    /// What it is.
    pub state: FileState,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileState {
    /// Under the name that it was first matched under.
    Active,
    /// Renamed, or written anew.
    Rotated,
    /// Has no name any more.
    Deleted,
    /// Read through a decompressor.
    Compressed,
    /// Cannot be read; tried again.
    Unreadable,
    /// Damaged; not tried again.
    SetAside,
}

/// A part that the daemon is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// What it does; `silent` when it did not answer.
    pub state: String,
    /// Since when.
    pub since: String,
}

/// A warning or an error.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Error {
    /// When.
    pub time: String,
    /// `WARN` or `ERROR`.
    pub level: String,
    /// What, with its fields.
    pub message: String,
}

/// A time as it is shown: UTC with milliseconds.
#[must_use]
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// Bytes as people say them: `12 B`, `1.5 KiB`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let unit = (bytes.ilog2() / 10) as usize;
    let whole = 1_u64 << (10 * unit);
    // Tenths, rounded down: what is not all confirmed must not look so.
    let tenths = u128::from(bytes) * 10 / u128::from(whole);
    format!("{}.{} {}", tenths / 10, tenths % 10, units[unit - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_short_and_never_look_more_than_they_are() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes((1 << 20) - 1), "1023.9 KiB");
        assert_eq!(bytes(u64::MAX), "15.9 EiB");
    }
}
