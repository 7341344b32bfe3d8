//! What each stage does at present: it waits for a neighbour, is in a system call, or works; and
//! since when. A stage that works on and on without finishing a step is stuck; one in a long system
//! call has a slow disk, and nothing is gained by killing it.
//!
//! A thread says once which stage it is ([`Progress::enter`], [`Progress::watch`]); what it calls
//! then says [`step`], [`wait`] and [`call`] without being handed anything. On other threads they do
//! nothing. A report costs a look at the clock and one store.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::io::Errno;

/// A part of the daemon that works by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Looks for files.
    Discovery,
    /// Reads files and makes batches.
    Lane,
    /// Hands everything from one stage to the next; the relay decides on it.
    Relay,
    /// Speaks with the broker.
    Link,
    /// Writes and reads the disk buffer.
    Spool,
    /// Writes state.db.
    State,
}

impl Stage {
    /// All of them, in the order in which a line meets them.
    pub const ALL: [Self; 6] = [
        Self::Discovery,
        Self::Lane,
        Self::Relay,
        Self::Link,
        Self::Spool,
        Self::State,
    ];

    /// Its name in status and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Discovery => "discovery",
            Self::Lane => "lane",
            Self::Relay => "relay",
            Self::Link => "link",
            Self::Spool => "spool",
            Self::State => "state",
        }
    }
}

/// What a stage does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It has not begun, has ended, or waits for a neighbour or for the time.
    Waiting,
    /// It is in a system call, for so long.
    Calling(Duration),
    /// It works, and finished its last step so long ago; time in system calls apart.
    Working(Duration),
}

impl Activity {
    /// For how long it has not come on.
    #[must_use]
    pub fn stalled(self) -> Duration {
        match self {
            Self::Waiting => Duration::ZERO,
            Self::Calling(time) | Self::Working(time) => time,
        }
    }
}

/// What all stages do. Clones are one record.
#[derive(Clone, Debug)]
pub struct Progress(Arc<Record>);

#[derive(Debug)]
struct Record {
    begun: Instant,
    /// What each does, in the two lowest bits, and since when: milliseconds since `begun`.
    stages: [AtomicU64; Stage::ALL.len()],
    io_errors: Mutex<BTreeMap<(Stage, &'static str), u64>>,
}

const WAITING: u64 = 0;
const CALLING: u64 = 1;
const WORKING: u64 = 2;

impl Default for Progress {
    fn default() -> Self {
        Self(Arc::new(Record {
            begun: Instant::now(),
            stages: Default::default(),
            io_errors: Mutex::default(),
        }))
    }
}

impl Progress {
    /// This thread works as `stage` until what is returned is dropped.
    #[must_use]
    pub fn enter(&self, stage: Stage) -> Entered {
        let here = Here {
            record: Arc::clone(&self.0),
            stage,
        };
        here.working_since(self.0.now());
        Entered(HERE.with(|place| place.replace(Some(here))))
    }

    /// The same future; whatever thread runs it works as `stage` meanwhile.
    pub fn watch<F>(&self, stage: Stage, future: F) -> Watched<F> {
        Watched {
            progress: self.clone(),
            stage,
            future: Box::pin(future),
        }
    }

    /// What a stage does now.
    #[must_use]
    pub fn of(&self, stage: Stage) -> Activity {
        let (what, since) = self.0.read(stage);
        let time = Duration::from_millis(self.0.now().saturating_sub(since));
        match what {
            WORKING => Activity::Working(time),
            CALLING => Activity::Calling(time),
            _ => Activity::Waiting,
        }
    }
}

impl Progress {
    /// How often system calls have failed, by stage and the error's name.
    #[must_use]
    pub fn io_errors(&self) -> BTreeMap<(Stage, &'static str), u64> {
        let io_errors = self.0.io_errors.lock();
        io_errors.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Record {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn read(&self, stage: Stage) -> (u64, u64) {
        let packed = self.stages[stage as usize].load(Ordering::Relaxed);
        (packed & 3, packed >> 2)
    }

    fn write(&self, stage: Stage, what: u64, since: u64) {
        self.stages[stage as usize].store(since << 2 | what, Ordering::Relaxed);
    }
}

/// Which stage this thread is.
#[derive(Clone, Debug)]
struct Here {
    record: Arc<Record>,
    stage: Stage,
}

impl Here {
    fn working_since(&self, since: u64) {
        self.record.write(self.stage, WORKING, since);
    }

    fn waits(&self) {
        self.record.write(self.stage, WAITING, 0);
    }
}

thread_local! {
    static HERE: RefCell<Option<Here>> = const { RefCell::new(None) };
}

fn here<T>(tell: impl FnOnce(&Here) -> T) -> Option<T> {
    HERE.with_borrow(|here| here.as_ref().map(tell))
}

/// A thread works as a stage; dropped, it is what it was before.
#[derive(Debug)]
pub struct Entered(Option<Here>);

impl Drop for Entered {
    fn drop(&mut self) {
        let left = HERE.with(|place| place.replace(self.0.take()));
        left.iter().for_each(Here::waits);
    }
}

/// The stage of this thread has finished a step and begins another.
pub fn step() {
    here(|here| here.working_since(here.record.now()));
}

/// Waits for a neighbour, or for the time. What comes after it is a new step.
pub fn wait<T>(waiting: impl FnOnce() -> T) -> T {
    here(Here::waits);
    let waited = waiting();
    step();
    waited
}

/// Makes a system call that may take its time.
pub fn call<T>(calling: impl FnOnce() -> T) -> T {
    let before = here(|here| {
        let (what, since) = here.record.read(here.stage);
        let now = here.record.now();
        // Within another call, that one goes on.
        (what == WORKING).then(|| {
            here.record.write(here.stage, CALLING, now);
            (since, now)
        })
    });
    let called = calling();
    if let Some((since, begun)) = before.flatten() {
        here(|here| here.working_since(since + here.record.now().saturating_sub(begun)));
    }
    called
}

/// A system call of this thread's stage has failed, and is tried again.
pub fn failed(error: &io::Error) {
    failed_with(error_name(error));
}

/// The same, for an error that is known by its name alone.
pub fn failed_with(name: &'static str) {
    here(|here| {
        let io_errors = here.record.io_errors.lock();
        let mut io_errors = io_errors.unwrap_or_else(PoisonError::into_inner);
        *io_errors.entry((here.stage, name)).or_default() += 1;
    });
}

/// A name of few, because each is a time series.
fn error_name(error: &io::Error) -> &'static str {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let names = [
        (Errno::IO, "EIO"),
        (Errno::NOSPC, "ENOSPC"),
        (Errno::DQUOT, "EDQUOT"),
        (Errno::ROFS, "EROFS"),
        (Errno::ACCESS, "EACCES"),
        (Errno::PERM, "EPERM"),
        (Errno::NOENT, "ENOENT"),
        (Errno::STALE, "ESTALE"),
        (Errno::MFILE, "EMFILE"),
        (Errno::NFILE, "ENFILE"),
        (Errno::NOMEM, "ENOMEM"),
        (Errno::LOOP, "ELOOP"),
        (Errno::NAMETOOLONG, "ENAMETOOLONG"),
        (Errno::NOTDIR, "ENOTDIR"),
        (Errno::TIMEDOUT, "ETIMEDOUT"),
    ];
    let known = names.iter().find(|(known, _)| Some(*known) == errno);
    match error.kind() {
        _ if known.is_some() => known.map_or("other", |(_, name)| name),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => "damaged",
        io::ErrorKind::UnexpectedEof => "short",
        _ => "other",
    }
}

/// A future that runs as a stage.
pub struct Watched<F> {
    progress: Progress,
    stage: Stage,
    future: Pin<Box<F>>,
}

impl<F> std::fmt::Debug for Watched<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Watched").field(&self.stage).finish()
    }
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let _entered = self.progress.enter(self.stage);
        self.future.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::thread;

    /// Waits until the lane has done what it does for a while.
    fn reaches(progress: &Progress, is: impl Fn(Activity) -> bool) {
        let until = Instant::now() + Duration::from_secs(60);
        while !is(progress.of(Stage::Lane)) {
            assert!(Instant::now() < until, "{:?}", progress.of(Stage::Lane));
            thread::yield_now();
        }
    }

    #[test]
    fn a_stage_stalls_only_while_it_works_or_calls() {
        let progress = Progress::default();
        let long = Duration::from_millis(50);
        let (go_on, told) = channel::<()>();
        let lane = {
            let progress = progress.clone();
            thread::spawn(move || {
                let _entered = progress.enter(Stage::Lane);
                let pause = || told.recv().expect("told");
                pause();
                call(pause);
                let after_call = progress.of(Stage::Lane);
                wait(pause);
                pause();
                after_call
            })
        };
        reaches(
            &progress,
            |is| matches!(is, Activity::Working(t) if t > long),
        );
        go_on.send(()).expect("there");
        reaches(
            &progress,
            |is| matches!(is, Activity::Calling(t) if t > long),
        );
        assert!(progress.of(Stage::Lane).stalled() > long);
        assert_eq!(progress.of(Stage::Spool), Activity::Waiting);
        go_on.send(()).expect("there");
        reaches(&progress, |is| is == Activity::Waiting);
        go_on.send(()).expect("there");
        reaches(&progress, |is| matches!(is, Activity::Working(_)));
        go_on.send(()).expect("there");
        // The time in the call is not counted as work; that before it is.
        let after_call = lane.join().expect("ended");
        assert!(matches!(after_call, Activity::Working(t) if t > long));
        assert_eq!(progress.of(Stage::Lane), Activity::Waiting);
    }

    #[test]
    fn a_call_in_a_call_is_one_and_a_step_begins_anew() {
        let progress = Progress::default();
        let _entered = progress.enter(Stage::Lane);
        let long = Duration::from_millis(20);
        call(|| {
            reaches(
                &progress,
                |is| matches!(is, Activity::Calling(t) if t > long),
            );
            call(|| ());
            assert!(matches!(progress.of(Stage::Lane), Activity::Calling(t) if t > long));
        });
        reaches(
            &progress,
            |is| matches!(is, Activity::Working(t) if t > long),
        );
        step();
        assert!(progress.of(Stage::Lane).stalled() <= long);
    }

    #[test]
    fn errors_are_counted_by_stage_and_name() {
        let progress = Progress::default();
        let full = || io::Error::from(Errno::NOSPC);
        failed(&full());
        {
            let _entered = progress.enter(Stage::Spool);
            failed(&full());
            failed(&full());
            failed(&io::Error::other("strange"));
        }
        let counted: Vec<_> = progress.io_errors().into_iter().collect();
        let spool = |name| (Stage::Spool, name);
        assert_eq!(counted, [(spool("ENOSPC"), 2), (spool("other"), 1)]);
    }

    #[test]
    fn a_future_is_a_stage_only_while_it_runs() {
        let progress = Progress::default();
        let inner = progress.clone();
        let mut ran = false;
        let link = async {
            assert!(matches!(inner.of(Stage::Link), Activity::Working(_)));
            assert!(matches!(inner.of(Stage::Relay), Activity::Working(_)));
            ran = true;
            std::future::pending::<()>().await;
        };
        let mut link = std::pin::pin!(progress.watch(Stage::Link, link));
        let mut context = Context::from_waker(std::task::Waker::noop());
        let relay = progress.enter(Stage::Relay);
        assert!(link.as_mut().poll(&mut context).is_pending());
        assert_eq!(progress.of(Stage::Link), Activity::Waiting);
        drop(relay);
        assert_eq!(progress.of(Stage::Relay), Activity::Waiting);
        assert!(ran);
    }
}
