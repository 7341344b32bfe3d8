//! A lane by itself: what it would hand over of one file, for whoever wants to look before anything
//! is published. Touches neither state nor broker.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{lane_options, tail, treatments};
use crate::batch::unpack;
use crate::config::Config;
use crate::lane::{FEW_UNACKNOWLEDGED, Input, Lane, Options, Output};
use crate::model::credit::{Credit, Permit};
use crate::model::{AgentId, Batch};
use crate::state::Loaded;
use crate::tail::Event;
use crate::tail::discover::{Found, Scan};
use crate::tail::report::{Condition, FileReport};
use crate::tail::watch::Hints;
use crate::wire::{Message, Sender};

/// After so long without a new byte nothing more is waited for.
const QUIET: Duration = Duration::from_hours(24);

/// What is to be looked at.
#[derive(Debug)]
pub struct Request {
    /// The file, and the source that it belongs to.
    pub found: Found,
    /// As at the source's first scan, which `read_from` speaks of.
    pub first_scan: bool,
    /// So many bytes of the file are read at most, and what is read with them.
    pub bytes_max: u64,
}

/// A message as it would be published.
#[derive(Debug)]
pub struct Previewed {
    /// Everything that goes out. The ids are made up.
    pub message: Message,
    /// Its body before compression.
    pub body: Vec<u8>,
}

/// How a file was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Read to its end. Behind its last line so many bytes wait for a line end.
    Read {
        /// Bytes.
        unfinished: u64,
    },
    /// Whoever took the messages wanted no more.
    Enough,
    /// As many bytes as allowed are read: so many.
    TooLong(u64),
    /// It could not be opened, or reading it failed; the log says why.
    Unreadable,
}

/// Reads a file as the daemon would that finds it for the first time, and gives each message to
/// `take` until that wants no more. Messages are as under load, where nothing is published before
/// it is full.
///
/// # Errors
/// A body cannot be unpacked.
pub fn preview(
    config: &Config,
    request: Request,
    take: impl FnMut(Previewed) -> bool,
) -> io::Result<Left> {
    let mut alone = Alone::new(config, request.first_scan, take);
    let scan = Scan {
        found: vec![request.found],
        ..Scan::default()
    };
    let now = Instant::now();
    alone.tell(Input::Scan(scan), now)?;
    let mut left = alone.work(now, request.bytes_max)?;
    if left.is_none() {
        // The end: what is open goes out, and what waits for more has waited.
        alone.load.clear();
        left = alone.work(now + QUIET, request.bytes_max)?;
    }
    Ok(left.unwrap_or_else(|| alone.at_rest(now)))
}

/// A lane whose neighbours say yes to everything.
struct Alone<T> {
    lane: Lane<Box<dyn Fn(Output)>>,
    outputs: Receiver<Output>,
    sender: Sender,
    /// While so much is out, a batch is closed only when it is full.
    load: Vec<Permit>,
    take: T,
    enough: bool,
    /// Up to where the messages account for the file.
    accounted: u64,
}

impl<T: FnMut(Previewed) -> bool> Alone<T> {
    fn new(config: &Config, first_scan: bool, take: T) -> Self {
        let agent = AgentId([0; 16]);
        let sender = Sender {
            agent,
            host: Arc::clone(&config.host),
        };
        let scanned: HashSet<String> = if first_scan {
            HashSet::new()
        } else {
            let names = config.sources.iter().map(|source| source.name.to_string());
            names.collect()
        };
        let nothing = Loaded {
            agent,
            files: Vec::new(),
            scanned,
            lost_bytes: 0,
            reset: false,
            spool_done: None,
        };
        let options = Options {
            linger: Duration::ZERO,
            lineless_linger: Duration::ZERO,
            ..lane_options(config)
        };
        let credit = Credit::new(usize::MAX, || {});
        let mut load = Vec::new();
        while credit.fewer_than(FEW_UNACKNOWLEDGED) {
            load.extend(credit.take(0));
        }
        let (tell, outputs) = channel();
        let send: Box<dyn Fn(Output)> = Box::new(move |output| {
            // Heard until the lane is dropped.
            let _ = tell.send(output);
        });
        let tail = tail(config, nothing);
        let len_max = |source: &str| sender.ranges_len_max(source);
        Self {
            lane: Lane::new(
                options,
                tail,
                treatments(config),
                len_max,
                Hints::default(),
                credit,
                send,
            ),
            outputs,
            sender,
            load,
            take,
            enough: false,
            accounted: 0,
        }
    }

    /// Reads until there is nothing to read any more, or a reason to stop.
    fn work(&mut self, now: Instant, bytes_max: u64) -> io::Result<Option<Left>> {
        loop {
            let worked = self.lane.step(now);
            self.receive(now)?;
            if self.enough {
                return Ok(Some(Left::Enough));
            }
            if !worked {
                return Ok(None);
            }
            let read = self.report(now).map_or(0, |file| file.read);
            if read > bytes_max {
                return Ok(Some(Left::TooLong(read)));
            }
        }
    }

    fn at_rest(&mut self, now: Instant) -> Left {
        match self.report(now) {
            Some(file) if file.condition != Condition::Unreadable => Left::Read {
                unfinished: file.read.saturating_sub(self.accounted),
            },
            Some(_) | None => Left::Unreadable,
        }
    }

    fn tell(&mut self, input: Input, now: Instant) -> io::Result<()> {
        self.lane.input(input, now);
        self.receive(now)
    }

    fn receive(&mut self, now: Instant) -> io::Result<()> {
        let outputs: Vec<Output> = self.outputs.try_iter().collect();
        for output in outputs {
            match output {
                Output::Tail(Event::Register(record)) => {
                    self.tell(Input::Registered(vec![record.id]), now)?;
                }
                Output::Batch(batch) => self.batch(&batch)?,
                // Nothing here is remembered or counted.
                Output::Tail(_) | Output::Lost(..) | Output::Full | Output::Stopped { .. } => {}
            }
        }
        Ok(())
    }

    fn batch(&mut self, batch: &Batch) -> io::Result<()> {
        let ends = batch.ranges.iter().map(|range| range.end);
        self.accounted = ends.fold(self.accounted, u64::max);
        if !self.enough {
            let message = self.sender.message(batch);
            let body = unpack(&batch.body, batch.coding)?;
            self.enough = !(self.take)(Previewed { message, body });
        }
        Ok(())
    }

    fn report(&mut self, now: Instant) -> Option<FileReport> {
        let (reply, mut answer) = oneshot::channel();
        self.lane.input(Input::Report(reply), now);
        answer.try_recv().ok()?.files.pop()
    }
}
