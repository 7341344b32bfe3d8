//! The state directory: lock, agent id and state.db, owned by one thread. What it reports as done
//! is durable. An operator can read it with `sqlite3`.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, Row, params};
use rustix::fs::{FlockOperation, OFlags};
use sha2::{Digest, Sha256};
use tracing::{error, info, warn};

use crate::model::{
    AgentId, Confirmed, FileId, FileRecord, Identity, LogPath, Mark, Proof, Skipped, SpoolId,
    SpoolPlace,
};
use crate::telemetry::progress;
use crate::telemetry::spell::{Over, Spell};

/// The schema that this version writes.
const SCHEMA: i64 = 3;
/// So many changes go into one commit at most.
const GROUP_MAX: usize = 10_000;
/// One row: what is to be found nowhere but in the spool begins there.
const SPOOL_TABLE: &str = "
             -- Everything in the spool of that id is confirmed up to there.
             CREATE TABLE spool (
               one INTEGER PRIMARY KEY CHECK (one = 1),
               id BLOB NOT NULL, segment INTEGER NOT NULL, offset INTEGER NOT NULL
             );";
/// Pause before a commit that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Somebody may have planted it.
    #[error("{} is a symbolic link; a state directory and its files must not be one", .0.display())]
    Link(PathBuf),
    /// Another agent runs on it.
    #[error("another fantail holds {}", .0.display())]
    Locked(PathBuf),
    /// A newer version wrote it.
    #[error("{} has schema {found}, newer than this version's {SCHEMA}; nothing was touched", path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: i64,
    },
    /// It does not hold what it should.
    #[error("{}: {what}; remove it to begin as a new agent", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A system call failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// On this file.
        path: PathBuf,
        /// How.
        source: io::Error,
    },
    /// SQLite failed.
    #[error("{}: {source}", path.display())]
    Database {
        /// On this file.
        path: PathBuf,
        /// How.
        source: rusqlite::Error,
    },
}

/// The opened state.
#[derive(Debug)]
pub struct State {
    database: Connection,
    /// Held for as long as the process lives.
    _lock: File,
}

/// What it held.
#[derive(Debug)]
pub struct Loaded {
    /// The agent's id.
    pub agent: AgentId,
    /// The files that it knows.
    pub files: Vec<FileRecord>,
    /// The sources that were scanned before.
    pub scanned: HashSet<String>,
    /// Bytes that were ever lost.
    pub lost_bytes: u64,
    /// Up to where everything in the spool of that id is confirmed.
    pub spool_done: Option<(SpoolId, SpoolPlace)>,
    /// What there was before was damaged, and is set aside.
    pub reset: bool,
}

/// What is to be made durable.
#[derive(Debug)]
pub enum Change {
    /// A new file.
    Register(FileRecord),
    /// A longer head proof, or another inode.
    Identified(FileId, Identity),
    /// A mark moved.
    Confirmed(Confirmed),
    /// A file is gone and confirmed.
    Forget(FileId),
    /// A source's first scan is done.
    Scanned(Arc<str>),
    /// So many more bytes are lost.
    Lost(Skipped, u64),
    /// Everything in the spool of that id is confirmed up to there.
    SpoolDone(SpoolId, SpoolPlace),
}

/// What is durable now.
#[derive(Debug, Default)]
pub struct Durable {
    /// New files.
    pub registered: Vec<FileId>,
    /// Marks.
    pub confirmed: Vec<Confirmed>,
    /// Up to where the spool is done with.
    pub spool_done: Option<SpoolPlace>,
    /// Nothing is: saving fails, and is tried again.
    pub failing: bool,
}

impl State {
    /// Opens the state directory, makes it where it is missing, and locks it. `sources` are the
    /// names of the configured sources: after a reset all of them count as scanned, so that
    /// nothing is skipped.
    ///
    /// # Errors
    /// It cannot be used; nothing was changed that matters.
    pub fn open(directory: &Path, sources: &[Arc<str>]) -> Result<(Self, Loaded), StateError> {
        make_directory(directory)?;
        let lock = lock(directory)?;
        let database = directory.join("state.db");
        let machine = machine_hash();
        let agent = match read_agent_id(directory)? {
            Some((agent, made_on)) if made_on == machine => agent,
            Some((agent, _)) => {
                warn!(old = %agent, "the state was made on another machine; beginning as a new agent");
                set_aside(&database, "other-machine")?;
                write_agent_id(directory, &machine)?
            }
            None => write_agent_id(directory, &machine)?,
        };
        let (database, loaded) = match open_readable(&database, agent) {
            Err(StateError::Database { source, .. }) if is_damage(&source) => {
                error!(error = %source, "state.db is damaged: set aside; all files are read again from the beginning under new ids");
                set_aside(&database, "damaged")?;
                let (connection, mut loaded) = open_database(&database, agent)?;
                for source in sources {
                    insert_scanned(&connection, source).map_err(at(&database))?;
                    loaded.scanned.insert(source.to_string());
                }
                loaded.reset = true;
                (connection, loaded)
            }
            opened => opened?,
        };
        let state = Self {
            database,
            _lock: lock,
        };
        Ok((state, loaded))
    }

    /// Commits one change at once, before anything else happens.
    ///
    /// # Errors
    /// It could not be made durable.
    pub fn save(&mut self, change: Change) -> Result<(), StateError> {
        let path = self.database.path().unwrap_or_default().into();
        self.commit(&[change])
            .map_err(|source| StateError::Database { path, source })
    }

    /// Commits changes, many at a time, until nobody sends any more. A commit that fails is tried
    /// again for as long as others live: a full disk delays new files, and loses nothing.
    pub fn run(mut self, changes: &Receiver<Change>, durable: impl Fn(Durable)) {
        let mut failing = Spell::default();
        while let Ok(first) = progress::wait(|| changes.recv()) {
            let mut group = vec![first];
            group.extend(changes.try_iter().take(GROUP_MAX - 1));
            let mut most = GROUP_MAX;
            loop {
                match progress::call(|| self.commit(&group)) {
                    Ok(()) => break,
                    Err(error) => {
                        progress::failed_with(error_name(&error));
                        if failing.met(error_name(&error), Instant::now()) {
                            error!(%error, "state cannot be saved; trying again, new files wait");
                            durable(Durable {
                                failing: true,
                                ..Durable::default()
                            });
                        }
                    }
                }
                if !gather(changes, &mut group) {
                    // The process ends; what is not saved is sent again.
                    return;
                }
                if group.len() > most {
                    thin(&mut group);
                    most = GROUP_MAX.max(2 * group.len());
                }
            }
            if let Some(Over { times, seconds }) = failing.over(Instant::now()) {
                info!(failures = times, seconds, "state is saved again");
            }
            durable(outcome(group));
        }
    }

    fn commit(&mut self, group: &[Change]) -> rusqlite::Result<()> {
        let transaction = self.database.transaction()?;
        for change in group {
            apply(&transaction, change)?;
        }
        transaction.commit()
    }
}

/// A name of few, because each is a time series.
fn error_name(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "ENOSPC",
        Some(ErrorCode::SystemIoFailure) => "EIO",
        Some(ErrorCode::ReadOnly) => "EROFS",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "busy",
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => "damaged",
        _ => "other",
    }
}

/// Gathers further changes until it is time to try again. False if there will be none.
fn gather(changes: &Receiver<Change>, group: &mut Vec<Change>) -> bool {
    let again = Instant::now() + RETRY;
    loop {
        let left = again.saturating_duration_since(Instant::now());
        match progress::wait(|| changes.recv_timeout(left)) {
            Ok(change) => group.push(change),
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

/// Drops what a later change makes needless, so that what waits grows with the number of files and not
/// with the time for which nothing can be saved.
fn thin(group: &mut Vec<Change>) {
    let (mut marks, mut identities) = (HashSet::new(), HashSet::new());
    let mut lost: HashMap<Skipped, u64> = HashMap::new();
    let mut spool_done = false;
    group.reverse();
    group.retain(|change| match change {
        Change::Confirmed(confirmed) => marks.insert(confirmed.file),
        Change::Identified(file, _) => identities.insert(*file),
        Change::SpoolDone(..) => !std::mem::replace(&mut spool_done, true),
        Change::Lost(reason, bytes) => {
            *lost.entry(*reason).or_default() += bytes;
            false
        }
        Change::Register(_) | Change::Forget(_) | Change::Scanned(_) => true,
    });
    group.reverse();
    let lost = lost.into_iter();
    group.extend(lost.map(|(reason, bytes)| Change::Lost(reason, bytes)));
}

fn outcome(group: Vec<Change>) -> Durable {
    let mut durable = Durable::default();
    for change in group {
        match change {
            Change::Register(record) => durable.registered.push(record.id),
            Change::Confirmed(confirmed) => durable.confirmed.push(confirmed),
            Change::SpoolDone(_, place) => durable.spool_done = Some(place),
            Change::Identified(..) | Change::Forget(_) | Change::Scanned(_) | Change::Lost(..) => {}
        }
    }
    durable
}

fn apply(database: &Connection, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::Register(record) => {
            let (identity, begins) = (&record.identity, &record.begins);
            let mut insert = database.prepare_cached(
                "INSERT INTO files (id, source, path, found, dev, ino, born, head_len, head_hash,
                 begins, begins_len, begins_hash, confirmed, confirmed_len, confirmed_hash, ended)
                 VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            )?;
            insert.execute(params![
                record.id.0,
                record.source,
                record.path.as_bytes(),
                record.found,
                identity.dev.cast_signed(),
                identity.ino.cast_signed(),
                identity.born,
                identity.head.len,
                identity.head.hash,
                begins.offset.cast_signed(),
                begins.proof.len,
                begins.proof.hash,
                record.confirmed.offset.cast_signed(),
                record.confirmed.proof.len,
                record.confirmed.proof.hash,
                record.ended,
            ])?;
        }
        Change::Identified(id, identity) => {
            database
                .prepare_cached(
                    "UPDATE files SET dev = ?, ino = ?, born = ?, head_len = ?, head_hash = ?
                     WHERE id = ?",
                )?
                .execute(params![
                    identity.dev.cast_signed(),
                    identity.ino.cast_signed(),
                    identity.born,
                    identity.head.len,
                    identity.head.hash,
                    id.0
                ])?;
        }
        Change::Confirmed(Confirmed { file, mark, eof }) => {
            database
                .prepare_cached(
                    "UPDATE files SET confirmed = ?, confirmed_len = ?, confirmed_hash = ?,
                     ended = ? WHERE id = ?",
                )?
                .execute(params![
                    mark.offset.cast_signed(),
                    mark.proof.len,
                    mark.proof.hash,
                    eof,
                    file.0
                ])?;
        }
        Change::Forget(id) => {
            database
                .prepare_cached("DELETE FROM files WHERE id = ?")?
                .execute([id.0])?;
        }
        Change::Scanned(source) => insert_scanned(database, source)?,
        Change::Lost(reason, bytes) => {
            database
                .prepare_cached(
                    "INSERT INTO lost (reason, bytes) VALUES (?1, ?2)
                     ON CONFLICT (reason) DO UPDATE SET bytes = bytes + ?2",
                )?
                .execute(params![reason.as_str(), bytes.cast_signed()])?;
        }
        Change::SpoolDone(id, place) => {
            let (segment, offset) = (place.segment.cast_signed(), place.offset.cast_signed());
            database
                .prepare_cached(
                    "INSERT INTO spool (one, id, segment, offset) VALUES (1, ?1, ?2, ?3)
                     ON CONFLICT (one) DO UPDATE SET id = ?1, segment = ?2, offset = ?3",
                )?
                .execute(params![id.0, segment, offset])?;
        }
    }
    Ok(())
}

fn insert_scanned(database: &Connection, source: &str) -> rusqlite::Result<()> {
    database.execute("INSERT OR IGNORE INTO sources (name) VALUES (?)", [source])?;
    Ok(())
}

fn make_directory(directory: &Path) -> Result<(), StateError> {
    refuse_link(directory)?;
    if let Some(parent) = directory.parent() {
        fs::create_dir_all(parent).map_err(io_at(parent))?;
    }
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(io_at(directory)),
    }
}

fn refuse_link(path: &Path) -> Result<(), StateError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => Err(StateError::Link(path.to_path_buf())),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(path)(error)),
        _ => Ok(()),
    }
}

fn lock(directory: &Path) -> Result<File, StateError> {
    let path = directory.join("lock");
    refuse_link(&path)?;
    let file = options()
        .read(true)
        .create(true)
        .open(&path)
        .map_err(io_at(&path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StateError::Locked(directory.to_path_buf())),
        Err(error) => Err(io_at(&path)(error.into())),
    }
}

/// For a file of the state directory: the owner's alone, and no link.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

/// Tells machines apart without telling which one this is.
fn machine_hash() -> String {
    let id = fs::read("/etc/machine-id").unwrap_or_default();
    let digest = Sha256::new()
        .chain_update(b"fantail agent")
        .chain_update(id.trim_ascii())
        .finalize();
    digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn read_agent_id(directory: &Path) -> Result<Option<(AgentId, String)>, StateError> {
    let path = directory.join("agent-id");
    refuse_link(&path)?;
    let mut text = String::new();
    match File::open(&path).and_then(|mut file| file.read_to_string(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_at(&path)(error)),
    }
    let mut words = text.split_ascii_whitespace();
    let id = words.next().and_then(|word| word.parse().ok());
    match (id, words.next()) {
        (Some(id), Some(machine)) => Ok(Some((id, machine.to_owned()))),
        _ => Err(StateError::Malformed {
            path,
            what: "not an agent id",
        }),
    }
}

/// Written beside its place, fsynced and renamed: a crash leaves the old one or the new one.
fn write_agent_id(directory: &Path, machine: &str) -> Result<AgentId, StateError> {
    let path = directory.join("agent-id");
    let agent = AgentId::random().map_err(|error| io_at(&path)(io::Error::other(error)))?;
    let new = directory.join("agent-id.new");
    let written = options()
        .create(true)
        .truncate(true)
        .open(&new)
        .and_then(|mut file| {
            writeln!(file, "{agent} {machine}")?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(directory)?.sync_all()
        });
    written.map_err(io_at(&path))?;
    info!(%agent, "new agent");
    Ok(agent)
}

/// Opens the database, and says that it is damaged only if it is so in bytes that can be read: SQLite
/// calls it damage as well when the disk does not give a page (`unixRead` in its os_unix.c), and such
/// a disk may give it the next time.
fn open_readable(path: &Path, agent: AgentId) -> Result<(Connection, Loaded), StateError> {
    match open_database(path, agent) {
        Err(StateError::Database { source, .. }) if is_damage(&source) => {
            warn!(error = %source, "state.db looks damaged; looking again");
            read_through(path)?;
            read_through(&beside(path, "-wal"))?;
            open_database(path, agent)
        }
        opened => opened,
    }
}

/// Whether the disk gives all of a file, if there is one.
fn read_through(path: &Path) -> Result<(), StateError> {
    match File::open(path).and_then(|mut file| io::copy(&mut file, &mut io::sink())) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(path)(error)),
        _ => Ok(()),
    }
}

/// A path with something added to its last name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn open_database(path: &Path, agent: AgentId) -> Result<(Connection, Loaded), StateError> {
    refuse_link(path)?;
    options().create(true).open(path).map_err(io_at(path))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let database = Connection::open_with_flags(path, flags).map_err(at(path))?;
    let schema: i64 = database
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(at(path))?;
    if schema > SCHEMA {
        return Err(StateError::Newer {
            path: path.to_path_buf(),
            found: schema,
        });
    }
    if schema > 0 && schema < SCHEMA {
        upgrade(&database, path, schema)?;
    }
    prepare(&database, schema).map_err(at(path))?;
    let loaded = load(&database, agent).map_err(at(path))?;
    Ok((database, loaded))
}

/// Brings an older schema up to date, after a copy of it was kept as `state.db.vN`, with which the
/// version that made it can go on.
fn upgrade(database: &Connection, path: &Path, schema: i64) -> Result<(), StateError> {
    let kept = beside(path, &format!(".v{schema}"));
    match fs::remove_file(&kept) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(&kept)(error))?,
        _ => {}
    }
    // Made before SQLite writes into it: the owner's alone, and no link.
    options()
        .create_new(true)
        .open(&kept)
        .map_err(io_at(&kept))?;
    let copied = database.execute("VACUUM INTO ?", [kept.to_string_lossy()]);
    copied.map_err(at(&kept))?;
    let ended = if schema < 2 {
        "ALTER TABLE files ADD COLUMN ended INTEGER NOT NULL DEFAULT 0;"
    } else {
        ""
    };
    let upgraded = database.execute_batch(&format!(
        "BEGIN;
         {ended}
         {SPOOL_TABLE}
         PRAGMA user_version = {SCHEMA};
         COMMIT;"
    ));
    upgraded.map_err(at(path))?;
    info!(from = schema, to = SCHEMA, kept = ?kept, "state.db upgraded");
    Ok(())
}

fn prepare(database: &Connection, schema: i64) -> rusqlite::Result<()> {
    database.pragma_update(None, "journal_mode", "WAL")?;
    database.pragma_update(None, "synchronous", "FULL")?;
    database.busy_timeout(Duration::from_secs(5))?;
    if schema == 0 {
        database.execute_batch(&format!(
            "BEGIN;
             -- One row a generation. *_len and *_hash prove the bytes before an offset
             -- (SHA-256, first half); head_* the first bytes of the file. found and born are in
             -- nanoseconds since 1970; of a compressed file, born is when its content was last
             -- written. ended: the generation has no more than what is confirmed.
             CREATE TABLE files (
               id BLOB PRIMARY KEY, source TEXT NOT NULL, path BLOB NOT NULL,
               found INTEGER NOT NULL, dev INTEGER NOT NULL, ino INTEGER NOT NULL, born INTEGER,
               head_len INTEGER NOT NULL, head_hash BLOB NOT NULL,
               begins INTEGER NOT NULL, begins_len INTEGER NOT NULL, begins_hash BLOB NOT NULL,
               confirmed INTEGER NOT NULL, confirmed_len INTEGER NOT NULL,
               confirmed_hash BLOB NOT NULL, ended INTEGER NOT NULL
             ) WITHOUT ROWID;
             -- Sources whose first scan is done: what appears later is read from its beginning.
             CREATE TABLE sources (name TEXT PRIMARY KEY) WITHOUT ROWID;
             -- Bytes that could not be delivered, by the reason that the wire format has for them.
             CREATE TABLE lost (reason TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID;
             {SPOOL_TABLE}
             PRAGMA user_version = {SCHEMA};
             COMMIT;"
        ))?;
    }
    let verdict: String = database.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
        return Err(rusqlite::Error::SqliteFailure(code, Some(verdict)));
    }
    Ok(())
}

fn load(database: &Connection, agent: AgentId) -> rusqlite::Result<Loaded> {
    let files = database
        .prepare("SELECT * FROM files")?
        .query_map([], record)?
        .collect::<rusqlite::Result<_>>()?;
    let scanned = database
        .prepare("SELECT name FROM sources")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let lost_bytes: i64 =
        database.query_row("SELECT coalesce(sum(bytes), 0) FROM lost", [], |row| {
            row.get(0)
        })?;
    let spool_done = database
        .query_row("SELECT id, segment, offset FROM spool", [], |row| {
            let place = SpoolPlace {
                segment: row.get::<_, i64>("segment")?.cast_unsigned(),
                offset: row.get::<_, i64>("offset")?.cast_unsigned(),
            };
            Ok((SpoolId(row.get("id")?), place))
        })
        .optional()?;
    Ok(Loaded {
        agent,
        files,
        scanned,
        lost_bytes: lost_bytes.cast_unsigned(),
        spool_done,
        reset: false,
    })
}

fn record(row: &Row<'_>) -> rusqlite::Result<FileRecord> {
    let unsigned = |name: &str| row.get::<_, i64>(name).map(i64::cast_unsigned);
    let proof = |len: &str, hash: &str| -> rusqlite::Result<Proof> {
        Ok(Proof {
            len: row.get(len)?,
            hash: row.get(hash)?,
        })
    };
    Ok(FileRecord {
        id: FileId(row.get("id")?),
        source: row.get::<_, String>("source")?.into(),
        path: LogPath::from_bytes(&row.get::<_, Vec<u8>>("path")?),
        found: row.get("found")?,
        identity: Identity {
            dev: unsigned("dev")?,
            ino: unsigned("ino")?,
            born: row.get("born")?,
            head: proof("head_len", "head_hash")?,
        },
        begins: Mark {
            offset: unsigned("begins")?,
            proof: proof("begins_len", "begins_hash")?,
        },
        confirmed: Mark {
            offset: unsigned("confirmed")?,
            proof: proof("confirmed_len", "confirmed_hash")?,
        },
        ended: row.get("ended")?,
    })
}

/// Whether the database itself is broken, as opposed to the disk being full or the like.
fn is_damage(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => matches!(
            failure.code,
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase
        ),
        // A table or column that should be there is not, or holds something else.
        rusqlite::Error::SqlInputError { .. }
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::InvalidColumnName(_)
        | rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..) => true,
        _ => false,
    }
}

/// Renames state.db and what belongs to it to `state.db.WHY-TIME`.
fn set_aside(database: &Path, why: &str) -> Result<(), StateError> {
    let time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    for suffix in ["", "-wal", "-shm"] {
        let from = beside(database, suffix);
        let to = beside(database, &format!(".{why}-{time}{suffix}"));
        match fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed.map_err(io_at(database))?,
        }
    }
    Ok(())
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> StateError {
    let path = path.to_path_buf();
    move |source| StateError::Io {
        path: path.clone(),
        source,
    }
}

fn at(path: &Path) -> impl Fn(rusqlite::Error) -> StateError {
    let path = path.to_path_buf();
    move |source| StateError::Database {
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(directory: &Path) -> Result<(State, Loaded), StateError> {
        State::open(directory, &["app".into()])
    }

    fn commit(state: &mut State, change: Change) {
        state.commit(&[change]).expect("committed");
    }

    fn record() -> FileRecord {
        FileRecord {
            id: FileId([3; 16]),
            source: "app".into(),
            path: LogPath::from_bytes(b"/var/log/\xff.log"),
            found: 7,
            identity: Identity {
                dev: 7,
                ino: u64::MAX,
                born: Some(-1),
                head: Proof::of(b"head"),
            },
            begins: Mark::default(),
            confirmed: Mark::default(),
            ended: false,
        }
    }

    #[test]
    fn what_was_committed_is_there_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state");
        let (mut state, first) = open(&path).expect("opened");
        assert!(first.files.is_empty() && first.scanned.is_empty());
        commit(&mut state, Change::Register(record()));
        let mark = Mark {
            offset: 1 << 40,
            proof: Proof::of(b"end"),
        };
        let confirmed = Confirmed {
            file: record().id,
            mark,
            eof: true,
        };
        commit(&mut state, Change::Confirmed(confirmed));
        commit(&mut state, Change::Scanned("app".into()));
        commit(&mut state, Change::Lost(Skipped::Truncated, 30));
        commit(&mut state, Change::Lost(Skipped::Truncated, 12));
        drop(state);
        let (mut state, again) = open(&path).expect("opened again");
        assert_eq!(again.agent, first.agent);
        assert_eq!((first.lost_bytes, again.lost_bytes), (0, 42));
        assert_eq!(
            again.files,
            [FileRecord {
                confirmed: mark,
                ended: true,
                ..record()
            }]
        );
        assert!(again.scanned.contains("app"));
        commit(&mut state, Change::Forget(record().id));
        drop(state);
        assert!(open(&path).expect("opened").1.files.is_empty());
    }

    #[test]
    fn a_state_of_the_version_before_goes_on_and_a_copy_of_it_is_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state");
        let (mut state, _) = open(&path).expect("opened");
        commit(&mut state, Change::Register(record()));
        let before =
            "DROP TABLE spool; ALTER TABLE files DROP COLUMN ended; PRAGMA user_version = 1;";
        state.database.execute_batch(before).expect("as it was");
        drop(state);
        for _ in 0..2 {
            assert_eq!(open(&path).expect("upgraded").1.files, [record()]);
        }
        let kept = Connection::open(path.join("state.db.v1")).expect("kept");
        let version = |row: &Row<'_>| row.get::<_, i64>(0);
        let version = kept.query_row("PRAGMA user_version", [], version);
        assert_eq!(version.expect("a version"), 1);
    }

    #[test]
    fn what_waits_while_nothing_can_be_saved_grows_with_the_files_alone() {
        let file = |number: u64| FileId(u128::from(number).to_be_bytes());
        let confirmed = |number: u64, offset| {
            let mark = Mark {
                offset,
                proof: Proof::default(),
            };
            let (file, eof) = (file(number), false);
            Change::Confirmed(Confirmed { file, mark, eof })
        };
        let mut group = vec![Change::Register(record())];
        for round in 1..=1000 {
            group.extend((0..3).map(|number| confirmed(number, round * 10 + number)));
            group.push(Change::Identified(file(7), record().identity));
            group.push(Change::Lost(Skipped::Truncated, 2));
            let segment = round;
            let place = SpoolPlace { segment, offset: 1 };
            group.push(Change::SpoolDone(SpoolId([1; 16]), place));
        }
        group.push(Change::Forget(file(7)));
        thin(&mut group);
        assert_eq!(group.len(), 8, "{group:?}");
        assert!(matches!(group[0], Change::Register(_)));
        let lost = |change: &Change| matches!(change, Change::Lost(_, 2000));
        assert!(group.iter().any(lost), "{group:?}");
        let durable = outcome(group);
        let marks: Vec<u64> = durable.confirmed.iter().map(|it| it.mark.offset).collect();
        assert_eq!(marks, [10_000, 10_001, 10_002]);
        assert_eq!(durable.spool_done.map(|place| place.segment), Some(1000));
    }

    #[test]
    fn a_hundred_thousand_rows_are_there_again_and_give_back_their_room() {
        const ROWS: u128 = 100_000;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state");
        let (mut state, _) = open(&path).expect("opened");
        let ids = |from: u128| (from..from + ROWS).map(|number| FileId(number.to_be_bytes()));
        let register = |id: FileId| {
            let path = format!("/var/log/pods/{id}/container/0.log");
            Change::Register(FileRecord {
                id,
                path: LogPath::from_bytes(path.as_bytes()),
                ..record()
            })
        };
        let pages = |state: &State| -> i64 {
            let pages = "PRAGMA page_count";
            let pages = state.database.query_row(pages, [], |row| row.get(0));
            pages.expect("counted")
        };
        let fill = |state: &mut State, from: u128| {
            let group: Vec<Change> = ids(from).map(register).collect();
            state.commit(&group).expect("committed");
        };
        fill(&mut state, 0);
        let full = pages(&state);
        drop(state);
        let begun = Instant::now();
        let (mut state, loaded) = open(&path).expect("opened");
        println!("100,000 rows loaded in {:?}", begun.elapsed());
        assert_eq!(loaded.files.len() as u128, ROWS);
        // Others come and go: the file does not grow with all that there ever were.
        for round in 0..3 {
            let gone: Vec<Change> = ids(round * ROWS).map(Change::Forget).collect();
            state.commit(&gone).expect("committed");
            fill(&mut state, (round + 1) * ROWS);
        }
        assert!(pages(&state) < full + full / 10);
        drop(state);
        assert_eq!(open(&path).expect("opened").1.files.len() as u128, ROWS);
    }

    #[test]
    fn a_second_agent_and_links_and_a_newer_schema_are_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state");
        let held = open(&path).expect("opened");
        assert!(matches!(open(&path), Err(StateError::Locked(_))));
        held.0
            .database
            .pragma_update(None, "user_version", 99)
            .expect("set");
        drop(held);
        assert!(matches!(
            open(&path),
            Err(StateError::Newer { found: 99, .. })
        ));
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("linked");
        assert!(matches!(open(&link), Err(StateError::Link(_))));
        let planted = directory.path().join("planted");
        fs::create_dir(&planted).expect("made");
        std::os::unix::fs::symlink("/etc/passwd", planted.join("state.db")).expect("linked");
        assert!(matches!(open(&planted), Err(StateError::Link(_))));
    }

    #[test]
    fn a_damaged_database_is_set_aside_and_nothing_is_skipped_afterwards() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state");
        drop(open(&path).expect("opened"));
        fs::write(path.join("state.db"), b"{\"curr_offs\":\n".repeat(100)).expect("damaged");
        let (_, loaded) = open(&path).expect("opened anew");
        assert!(loaded.files.is_empty());
        assert!(loaded.scanned.contains("app"), "read_from must not skip");
        let aside = fs::read_dir(&path)
            .expect("listed")
            .filter_map(Result::ok)
            .any(|entry| {
                entry
                    .file_name()
                    .to_string_lossy()
                    .starts_with("state.db.damaged-")
            });
        assert!(aside);
    }

    #[test]
    fn a_state_from_another_machine_begins_a_new_agent() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state");
        let (mut state, first) = open(&path).expect("opened");
        commit(&mut state, Change::Register(record()));
        drop(state);
        let id = format!("{} 0000000000000000\n", first.agent);
        fs::write(path.join("agent-id"), id).expect("written");
        let (_, other) = open(&path).expect("opened");
        assert_ne!(other.agent, first.agent);
        assert!(other.files.is_empty());
    }
}
