//! A reload of the configuration: everything that is set otherwise goes to its stage. Only the broker
//! takes time: what is out to the one that there was is waited for first.

use std::collections::HashSet;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use super::{Pipeline, lane_options, limits, optional, queues, relay_options};
use crate::amqp::{self, Command};
use crate::config::{self, Config, WhenFull};
use crate::lane::{Input, Settings, Settled};
use crate::relay::Relay;
use crate::spool;
use crate::spool::worker::Order;
use crate::tail;
use crate::tail::discover::Sought;
use crate::tail::reload::Renewed;
use crate::telemetry::progress::{Progress, Stage};
use crate::telemetry::spell::Spell;
use crate::wire::Sender as WireSender;

/// So long what is out is waited for before it is sent again over the next link.
const SETTLE_FOR: Duration = Duration::from_secs(10);

/// A reload, as it is asked for.
#[derive(Debug)]
pub struct Reload {
    /// The configuration, or why there is none: what goes on then is what there was.
    pub config: Result<Box<Config>, String>,
    /// Told whether it is followed.
    pub done: oneshot::Sender<bool>,
}

/// Reloads, one after the other.
pub type Reloads = UnboundedReceiver<Reload>;

/// The way to the broker.
pub(super) struct Link {
    pub(super) commands: Option<UnboundedSender<Command>>,
    pub(super) events: UnboundedReceiver<amqp::Event>,
    pub(super) task: JoinHandle<()>,
}

impl Link {
    pub(super) fn start(settings: amqp::Settings, progress: &Progress) -> Self {
        let (commands, command_inputs) = unbounded_channel();
        let (tell_event, events) = unbounded_channel();
        let link = amqp::run(settings, command_inputs, tell_event);
        Self {
            commands: Some(commands),
            events,
            task: tokio::spawn(progress.watch(Stage::Link, link)),
        }
    }
}

/// The indexes of sources: each name has one for as long as the process runs, so that nothing that
/// bears one means another source after a reload. A name that came and went costs some hundred bytes.
pub(super) struct Sources {
    /// By index, as they were last.
    known: Vec<config::Source>,
    /// The indexes of those that there are, in the configuration's order.
    present: Vec<usize>,
    /// Names of which some scan was finished in an earlier run.
    scanned: HashSet<String>,
    reloads: u64,
}

impl Sources {
    pub(super) fn new(sources: &[config::Source], scanned: HashSet<String>) -> Self {
        Self {
            known: sources.to_vec(),
            present: (0..sources.len()).collect(),
            scanned,
            reloads: 0,
        }
    }

    /// What the lane is to know of `sources`, and what discovery is.
    fn renew(
        &mut self,
        sources: &[config::Source],
        sender: &WireSender,
    ) -> (Vec<Settled>, Vec<Sought>) {
        let before = std::mem::take(&mut self.present);
        self.present = sources.iter().map(|source| self.index(source)).collect();
        let kept = |indexes: &[usize], others: &[usize]| -> Vec<usize> {
            let kept = indexes.iter().filter(|index| others.contains(index));
            kept.copied().collect()
        };
        // A file belongs to the first that has it.
        let reordered = kept(&before, &self.present) != kept(&self.present, &before);
        let mut settled = Vec::with_capacity(sources.len());
        let mut sought = Vec::with_capacity(sources.len());
        for (source, &index) in sources.iter().zip(&self.present) {
            let known = std::mem::replace(&mut self.known[index], source.clone());
            let is_new = reordered || !before.contains(&index);
            let is_scanned = self.scanned.contains(&*source.name);
            settled.push(Settled {
                renewed: Renewed {
                    index,
                    source: tail_source(source, !is_scanned),
                    selection: source.selection.clone(),
                    selects_anew: is_new || !is_like(&known.selection, &source.selection),
                    treats_anew: !is_like(&known.splitter, &source.splitter)
                        || !is_like(&known.treatment, &source.treatment),
                },
                treatment: source.treatment.clone(),
                ranges_len_max: sender.ranges_len_max(&source.name),
            });
            sought.push(Sought {
                source: index,
                selection: source.selection.clone(),
                interval: source.poll_interval,
            });
        }
        self.reloads += 1;
        (settled, sought)
    }

    fn index(&mut self, source: &config::Source) -> usize {
        let mut known = self.known.iter();
        let index = known.position(|known| known.name == source.name);
        index.unwrap_or_else(|| {
            self.known.push(source.clone());
            self.known.len() - 1
        })
    }
}

/// Whether two settings are written alike. Patterns show as their text, and a key that is added shows
/// without being named here.
fn is_like(a: &impl Debug, b: &impl Debug) -> bool {
    format!("{a:?}") == format!("{b:?}")
}

/// What the watched set needs to know of a source.
pub(super) fn tail_source(source: &config::Source, first_scan: bool) -> tail::Source {
    tail::Source {
        name: Arc::clone(&source.name),
        from_end: source.from_end,
        splitter: Arc::clone(&source.splitter),
        ignore_older: source.ignore_older,
        poll_interval: source.poll_interval,
        first_scan,
    }
}

/// What cannot be changed while the daemon runs, and is.
fn fixed(running: &Config, wanted: &Config) -> Vec<&'static str> {
    let host = running.host != wanted.host;
    let paths: [(&str, &Path, &Path); 3] = [
        ("agent.state_dir", &running.state_dir, &wanted.state_dir),
        ("agent.control", &running.control, &wanted.control),
        (
            "spool.dir",
            &running.spool.directory,
            &wanted.spool.directory,
        ),
    ];
    let paths = paths
        .iter()
        .filter(|(_, running, wanted)| running != wanted);
    let mut fixed: Vec<_> = paths.map(|(key, _, _)| *key).collect();
    fixed.extend(host.then_some("agent.host"));
    fixed
}

/// Another link is to take the place of the one that there is.
pub(super) struct Relinking {
    /// When what is out is not waited for any longer.
    pub(super) until: Instant,
}

impl Pipeline {
    pub(super) fn reload(&mut self, reload: Reload) {
        let followed = reload.config.and_then(|config| self.follow(*config));
        match &followed {
            Ok(()) => info!("configuration reloaded"),
            Err(error) => {
                error!(%error, "the new configuration is not used; the one before it stays in force");
            }
        }
        self.meter.counts.reload_failures += u64::from(followed.is_err());
        let is_followed = followed.is_ok();
        self.memory.reloaded(followed);
        // Who asked may be gone.
        let _ = reload.done.send(is_followed);
    }

    /// Sets everything as `config` says, or nothing.
    fn follow(&mut self, config: Config) -> Result<(), String> {
        let fixed = fixed(&self.config, &config);
        if !fixed.is_empty() {
            let (keys, verb) = (
                fixed.join(", "),
                if fixed.len() > 1 { "do" } else { "does" },
            );
            return Err(format!(
                "{keys} {verb} not change while fantail runs: restart it, or set the old value"
            ));
        }
        for warning in &config.warnings {
            warn!(warning = warning.in_one_line(), "doubtful configuration");
        }
        if config.sources.is_empty() {
            warn!("no [[source]] is configured; running idle");
        }
        let (settled, sought) = self.sources.renew(&config.sources, &self.sender);
        let settings = Settings {
            options: lane_options(&config),
            limits: limits(&config),
            sources: settled,
            reload: self.sources.reloads,
        };
        // A lane that has ended needs no settings.
        let _ = self.lane.send(Input::Reload(Box::new(settings)));
        self.waker.reload(self.sources.reloads, sought);
        self.credit.resize(config.max_in_flight);
        self.reading.resize(config.max_in_flight);
        let drop_oldest = config.spool.when_full == WhenFull::DropOldest;
        let limits = spool_options(&config);
        self.store.order(Order::Limits(limits, drop_oldest));
        self.memory.configured(&config);
        self.config = config;
        self.reload_link();
        Ok(())
    }

    fn reload_link(&mut self) {
        if self.config.broker == self.linked {
            if self.relinking.take().is_some() {
                self.act(Relay::stay);
            }
            self.relay.configure(relay_options(&self.config));
        } else if self.relinking.is_none() {
            info!("the broker's settings are others; waiting for what is out");
            let until = Instant::now() + SETTLE_FOR;
            self.relinking = Some(Relinking { until });
            self.act(Relay::settle);
        }
    }

    /// Takes another link as soon as nothing is out over the one that there is, or that is waited for
    /// in vain.
    pub(super) fn relink_if_settled(&mut self) {
        let Some(relinking) = &self.relinking else {
            return;
        };
        let settled = self.relay.is_settled() || !self.relay.can_progress();
        if settled || Instant::now() >= relinking.until {
            self.relink();
        }
    }

    fn relink(&mut self) {
        self.relinking = None;
        let settings = self.config.broker.clone();
        self.linked = settings.clone();
        // It ends when nobody gives it commands any more.
        let before = std::mem::replace(&mut self.link, Link::start(settings, &self.progress));
        self.links_before.retain(|link| !link.is_finished());
        self.links_before.push(before.task);
        self.memory.relinked();
        self.meter.unlinked();
        (self.blocked, self.failure) = (false, Spell::default());
        self.optional = optional(&self.config);
        self.absent.retain(|queue| self.optional.contains(queue));
        let (options, queues) = (relay_options(&self.config), queues(&self.config));
        self.act(|relay, now, actions| relay.relinked(options, queues, now, actions));
    }

    /// A stop: the link that there is stays.
    pub(super) fn abandon_relinking(&mut self) {
        if self.relinking.take().is_some() {
            self.act(Relay::stay);
        }
    }

    /// When it has waited long enough.
    pub(super) fn relinking_until(&self) -> Option<Instant> {
        self.relinking.as_ref().map(|relinking| relinking.until)
    }
}

/// Where the spool is and how large it may become.
pub(crate) fn spool_options(config: &Config) -> spool::Options {
    let spool = &config.spool;
    spool::Options {
        directory: spool.directory.clone(),
        bytes_max: spool.bytes_max,
        segment_bytes: spool.segment_bytes,
        free_min: spool.free_min,
    }
}
