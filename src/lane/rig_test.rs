//! A lane on real files, with a clock of the test's own and neighbours that say yes: what the tests of
//! the lane have in common. What came out is theirs to judge.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime};

use super::{Input, Lane, Options, Output, Settings, Settled};
use crate::lines::Splitter;
use crate::model::credit::Credit;
use crate::model::{Batch, Confirmed, FileId, FileRecord, Mark};
use crate::tail::descriptors::Limits;
use crate::tail::discover::{Memory, Pattern, Scan, Selection, scan};
use crate::tail::reload::Renewed;
use crate::tail::watch::Hints;
use crate::tail::{Event, Source, Tail};
use crate::treat::Treatment;

type Send = Box<dyn Fn(Output)>;

/// What matches, by a pattern below a directory.
fn matching(directory: &tempfile::TempDir, include: &str) -> Selection {
    let glob = directory.path().join(include);
    let include = Pattern::parse(glob.to_str().expect("UTF-8")).expect("a glob");
    Selection {
        include: vec![include],
        exclude: vec![],
        compressed: true,
        follow_links: false,
    }
}

/// A lane, and everybody that it deals with.
pub(super) struct Driven {
    pub(super) directory: tempfile::TempDir,
    pub(super) selection: Selection,
    pub(super) source: Source,
    pub(super) options: Options,
    pub(super) treatment: Treatment,
    pub(super) limits: Limits,
    /// Bytes of the window.
    pub(super) window: usize,
    /// Seconds by which the clock on the wall is wrong.
    pub(super) wrong: Arc<AtomicI64>,
    pub(super) now: Instant,
    lane: Option<Lane<Send>>,
    outputs: Receiver<Output>,
    news: VecDeque<Output>,
    pub(super) memory: Memory,
    /// What is durable.
    pub(super) records: HashMap<FileId, FileRecord>,
    scanned: bool,
    /// Whether descriptors are kept over a crash, as systemd does,
    pub(super) keeps: bool,
    /// and those that are.
    pub(super) kept: HashMap<FileId, File>,
    /// The number of the last reload.
    reloads: u64,
    /// There is a source.
    present: bool,
    /// In batches that were taken, and not confirmed yet.
    pub(super) reached: HashMap<FileId, (Mark, bool)>,
}

impl Driven {
    /// One source; to be started.
    pub(super) fn new(include: &str, splitter: Splitter) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (_, outputs) = channel();
        Self {
            selection: matching(&directory, include),
            directory,
            source: Source {
                name: "app".into(),
                from_end: false,
                splitter: Arc::new(splitter),
                ignore_older: None,
                poll_interval: Duration::from_secs(1),
                first_scan: true,
            },
            options: Options {
                linger: Duration::ZERO,
                ..Options::default()
            },
            treatment: Treatment::default(),
            limits: Limits::default(),
            window: 1 << 20,
            wrong: Arc::default(),
            now: Instant::now(),
            lane: None,
            outputs,
            news: VecDeque::new(),
            memory: Memory::default(),
            records: HashMap::new(),
            scanned: false,
            keeps: false,
            kept: HashMap::new(),
            reloads: 0,
            present: true,
            reached: HashMap::new(),
        }
    }

    /// A start with what is durable; what was not confirmed is forgotten.
    pub(super) fn start(&mut self) {
        let (sender, outputs) = channel();
        let send: Send = Box::new(move |output| {
            let _ = sender.send(output);
        });
        let source = Source {
            first_scan: !self.scanned,
            ..self.source.clone()
        };
        let records = self.records.values().cloned().collect();
        let wrong = Arc::clone(&self.wrong);
        let tail = Tail::new("host".into(), vec![source], records)
            .within(self.limits)
            .by_clock(move || {
                let seconds = wrong.load(Ordering::Relaxed);
                let by = Duration::from_secs(seconds.unsigned_abs());
                let now = SystemTime::now();
                if seconds < 0 { now - by } else { now + by }
            })
            .inheriting(self.kept(), self.now);
        self.outputs = outputs;
        self.lane = Some(Lane::new(
            self.options.clone(),
            tail,
            vec![self.treatment.clone()],
            |_| 500,
            Hints::default(),
            Credit::new(self.window, || {}),
            send,
        ));
        let paths = self.records.values();
        let paths = paths.map(|record| record.path.as_path().to_path_buf());
        self.memory = Memory::new(paths.collect());
        self.reached.clear();
        self.news.clear();
        (self.reloads, self.present) = (0, true);
    }

    /// What a new process is given of what is kept.
    fn kept(&self) -> Vec<(FileId, File)> {
        let copy = |(id, file): (&FileId, &File)| (*id, file.try_clone().expect("a descriptor"));
        self.kept.iter().map(copy).collect()
    }

    pub(super) fn lane(&mut self) -> &mut Lane<Send> {
        self.lane.as_mut().expect("started")
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Tells the lane, and hears what it has to say.
    pub(super) fn tell(&mut self, input: Input) {
        let now = self.now;
        self.lane().input(input, now);
        self.hear();
    }

    /// One quantum of work. Whether there was any.
    pub(super) fn turn(&mut self) -> bool {
        let now = self.now;
        let worked = self.lane().step(now);
        self.hear();
        worked
    }

    /// Lets the lane work by itself until it ends.
    pub(super) fn run(&mut self, inputs: &Receiver<Input>) {
        self.lane.take().expect("started").run(inputs);
        self.news.extend(self.outputs.try_iter());
    }

    /// What a scan sees now.
    pub(super) fn look(&mut self) -> Scan {
        let selections = std::slice::from_ref(&self.selection);
        let selections = if self.present { selections } else { &[] };
        let reload = self.reloads;
        Scan {
            reload,
            ..scan(selections, &mut self.memory)
        }
    }

    /// A reload with the settings as they are now; `treats_anew` tells whether they are others for
    /// lines. Without the source it belongs to no configuration any more.
    pub(super) fn reload(&mut self, present: bool, treats_anew: bool) {
        self.reloads += 1;
        let source = Settled {
            renewed: Renewed {
                index: 0,
                source: self.source.clone(),
                selection: self.selection.clone(),
                selects_anew: !self.present,
                treats_anew,
            },
            treatment: self.treatment.clone(),
            ranges_len_max: 500,
        };
        self.present = present;
        let settings = Settings {
            options: self.options.clone(),
            limits: self.limits,
            sources: present.then_some(source).into_iter().collect(),
            reload: self.reloads,
        };
        self.tell(Input::Reload(Box::new(settings)));
    }

    /// The next thing that the lane brought forth.
    pub(super) fn next(&mut self) -> Option<Output> {
        self.news.pop_front()
    }

    /// A batch was taken: what it says of files is to be confirmed.
    pub(super) fn accept(&mut self, batch: &Batch) {
        for range in &batch.ranges {
            let reached = (range.end_mark(), range.eof);
            self.reached.insert(range.file, reached);
        }
    }

    /// Makes durable what was reached.
    pub(super) fn settle(&mut self) -> Vec<Confirmed> {
        let mut confirmed = Vec::new();
        for (file, (mark, eof)) in self.reached.drain() {
            if let Some(record) = self.records.get_mut(&file) {
                (record.confirmed, record.ended) = (mark, eof);
                confirmed.push(Confirmed { file, mark, eof });
            }
        }
        confirmed
    }

    fn hear(&mut self) {
        while let Ok(output) = self.outputs.try_recv() {
            let mut registered = None;
            match &output {
                Output::Tail(Event::Register(record)) => {
                    self.records.insert(record.id, record.clone());
                    registered = Some(record.id);
                }
                Output::Tail(Event::Identified(id, identity)) => {
                    if let Some(record) = self.records.get_mut(id) {
                        record.identity = *identity;
                    }
                }
                Output::Tail(Event::Forget(id)) => {
                    assert!(self.records.remove(id).is_some(), "forgotten twice");
                }
                Output::Tail(Event::Scanned(_)) => self.scanned = true,
                Output::Tail(Event::Unlinked(id, file)) if self.keeps => {
                    let file = file.try_clone().expect("a descriptor");
                    assert!(self.kept.insert(*id, file).is_none(), "kept twice");
                }
                Output::Tail(Event::Unlinked(..)) => {}
                Output::Tail(Event::Released(id)) => {
                    assert_eq!(self.kept.remove(id).is_some(), self.keeps);
                }
                Output::Tail(Event::Resumed(_))
                | Output::Lost(..)
                | Output::Full
                | Output::Stopped { .. }
                | Output::Batch(_) => {}
            }
            self.news.push_back(output);
            if let Some(id) = registered {
                self.tell(Input::Registered(vec![id]));
            }
        }
    }
}
