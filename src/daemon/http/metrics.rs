//! The metrics: what the daemon knows of itself, as Prometheus reads it. Never a path.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use super::exposition::Exposition;
use super::exposition::Kind::{Counter, Gauge, Histogram};
use super::process;
use crate::pipeline::meter::{ACK_BUCKETS, Counts};
use crate::pipeline::{LaneMeasures, Measures, SourceReport};
use crate::status::{BrokerState, FileState, Status};
use crate::telemetry::progress::{Progress, Stage};

/// The states of files, in the order in which they are told.
const STATES: [(FileState, &str); 6] = [
    (FileState::Active, "active"),
    (FileState::Rotated, "rotated"),
    (FileState::Deleted, "deleted"),
    (FileState::Compressed, "compressed"),
    (FileState::Unreadable, "unreadable"),
    (FileState::SetAside, "set_aside"),
];
/// Reasons that are told before anything happened for them: only so can a first increase be seen.
const LOST: [&str; 4] = ["drop_oldest", "damaged", "truncated", "deleted"];
const REPUBLISHED: [&str; 3] = ["connection", "nack", "topology"];
const RECONNECTS: [&str; 7] = [
    "login",
    "password",
    "files",
    "certificate",
    "access",
    "too_large",
    "other",
];

/// Everything. Without `measures` (the pipeline does not answer) what is known all the same; `lane`
/// is what the lane said last.
pub(super) fn exposed(
    measures: Option<&Measures>,
    lane: &LaneMeasures,
    progress: &Progress,
) -> String {
    let mut out = Exposition::default();
    out.family("fantail_build_info", Gauge, "The version that runs.");
    out.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    if let Some(measures) = measures {
        reading(&mut out, lane);
        publishing(&mut out, &measures.counts);
        files(&mut out, &measures.status);
        broker(&mut out, &measures.status);
        configuration(&mut out, measures);
    }
    stages(&mut out, progress);
    process::expose(&mut out);
    out.into_text()
}

/// Counters fit into a double up to 2^53.
fn number(count: u64) -> f64 {
    count as f64
}

fn truth(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

fn reading(out: &mut Exposition, lane: &LaneMeasures) {
    let per_source = |out: &mut Exposition, count: fn(&SourceReport) -> u64| {
        for source in &lane.sources {
            out.sample(&[("source", &source.name)], number(count(source)));
        }
    };
    out.family(
        "fantail_read_bytes_total",
        Counter,
        "Bytes read from log files; what is read again counts again.",
    );
    per_source(out, |source| source.count.bytes);
    out.family("fantail_read_lines_total", Counter, "Lines read.");
    per_source(out, |source| source.count.read);
    out.family(
        "fantail_dropped_lines_total",
        Counter,
        "Lines that filters dropped.",
    );
    for source in &lane.sources {
        for (reason, count) in [
            ("keep", source.count.dropped_by_keep),
            ("drop", source.count.dropped_by_drop),
        ] {
            let labels = [("source", &*source.name), ("reason", reason)];
            out.sample(&labels, number(count));
        }
    }
    out.family(
        "fantail_damaged_archives_total",
        Counter,
        "Compressed files that could not be unpacked.",
    );
    per_source(out, |source| source.damaged_archives);
    out.single(
        "fantail_deleted_held_bytes",
        Gauge,
        "Bytes on disk that deleted files take up until they are read and confirmed.",
        number(lane.deleted_bytes),
    );
}

fn publishing(out: &mut Exposition, counts: &Counts) {
    let reasons =
        |out: &mut Exposition, known: &[&'static str], counted: &BTreeMap<&'static str, u64>| {
            for reason in known {
                let count = counted.get(reason).copied().unwrap_or_default();
                out.sample(&[("reason", reason)], number(count));
            }
        };
    out.family(
        "fantail_lost_bytes_total",
        Counter,
        "Bytes that could not be delivered: a lower bound.",
    );
    reasons(out, &LOST, &counts.lost_bytes);
    for (name, help, count) in [
        (
            "fantail_published_messages_total",
            "Messages published, repeats included.",
            counts.published_messages,
        ),
        (
            "fantail_published_bytes_total",
            "Bytes of the bodies of messages published, repeats included.",
            counts.published_bytes,
        ),
        (
            "fantail_acknowledged_lines_total",
            "Lines that the broker acknowledged.",
            counts.acknowledged_lines,
        ),
        (
            "fantail_returns_total",
            "Messages that were routed to no queue.",
            counts.returns,
        ),
        (
            "fantail_state_resets_total",
            "Damaged state databases that were set aside.",
            counts.state_resets,
        ),
    ] {
        out.single(name, Counter, help, number(count));
    }
    out.family(
        "fantail_republished_messages_total",
        Counter,
        "Messages whose lines were sent again: the connection was lost, a queue gave a nack, or the topology was not as it must be.",
    );
    reasons(out, &REPUBLISHED, &counts.republished);
    out.family(
        "fantail_nacks_total",
        Counter,
        "Refusals by a queue; without its name where the broker did not give it.",
    );
    out.sample(
        &[("queue", "")],
        number(counts.nacks.get("").copied().unwrap_or_default()),
    );
    for (queue, count) in counts.nacks.iter().filter(|(queue, _)| !queue.is_empty()) {
        out.sample(&[("queue", queue)], number(*count));
    }
    out.family(
        "fantail_reconnects_total",
        Counter,
        "Connections that were lost or did not come about.",
    );
    reasons(out, &RECONNECTS, &counts.reconnects);
    acks(out, counts);
    out.single(
        "fantail_last_confirm_timestamp_seconds",
        Gauge,
        "When marks moved last, in seconds since 1970; 0 before the first time.",
        counts.confirmed_at.map_or(0.0, seconds),
    );
}

fn acks(out: &mut Exposition, counts: &Counts) {
    out.family(
        "fantail_publish_to_ack_seconds",
        Histogram,
        "From publishing a message to its acknowledgement.",
    );
    let mut sum = 0;
    let bounds = ACK_BUCKETS.iter().map(f64::to_string);
    let bounds = bounds.chain(std::iter::once("+Inf".to_owned()));
    for (bound, count) in bounds.zip(counts.acks.buckets) {
        sum += count;
        out.suffixed("_bucket", &[("le", &bound)], number(sum));
    }
    out.suffixed("_sum", &[], counts.acks.sum_s);
    out.suffixed("_count", &[], number(sum));
}

/// What the files of one source have in common.
#[derive(Clone, Copy, Default)]
struct Files {
    oldest_s: u64,
    /// By [`STATES`].
    counts: [u64; STATES.len()],
}

fn files(out: &mut Exposition, status: &Status) {
    let mut by_source: HashMap<&str, Files> = HashMap::new();
    for file in status.files.iter().flatten() {
        let files = by_source.entry(&file.source).or_default();
        let oldest = file.oldest_unconfirmed_s.unwrap_or_default();
        files.oldest_s = files.oldest_s.max(oldest);
        let state = STATES.iter().position(|(state, _)| *state == file.state);
        state.into_iter().for_each(|state| files.counts[state] += 1);
    }
    // What the lane does not say is not known, which is not nothing.
    let known = || status.sources.iter().filter(|_| status.files.is_some());
    let of = |name: &str| by_source.get(name).copied().unwrap_or_default();
    out.family(
        "fantail_lag_bytes",
        Gauge,
        "Bytes on disk that are not confirmed.",
    );
    for source in known() {
        let labels = [("source", &*source.name)];
        out.sample(&labels, number(source.lag.unwrap_or_default()));
    }
    out.family(
        "fantail_lag_seconds",
        Gauge,
        "How long the oldest byte that is not confirmed has been known.",
    );
    for source in known() {
        let labels = [("source", &*source.name)];
        out.sample(&labels, number(of(&source.name).oldest_s));
    }
    out.family("fantail_files", Gauge, "Log files that are known.");
    for source in known() {
        for ((_, state), count) in STATES.iter().zip(of(&source.name).counts) {
            let labels = [("source", &*source.name), ("state", state)];
            out.sample(&labels, number(count));
        }
    }
}

fn broker(out: &mut Exposition, status: &Status) {
    let state = status.broker.state;
    let connected = matches!(state, BrokerState::Connected | BrokerState::Blocked);
    for (name, help, value) in [
        (
            "fantail_broker_connected",
            "Whether there is a connection.",
            truth(connected),
        ),
        (
            "fantail_broker_blocked",
            "Whether the broker takes nothing for the time being.",
            truth(state == BrokerState::Blocked),
        ),
        (
            "fantail_spool_bytes",
            "Bytes in the spool.",
            number(status.spool.bytes),
        ),
        (
            "fantail_spool_limit_bytes",
            "Bytes that the spool may have.",
            number(status.spool.limit_bytes),
        ),
    ] {
        out.single(name, Gauge, help, value);
    }
    out.family(
        "fantail_queue_missing",
        Gauge,
        "Whether the last check did not find the queue; not told before one looked.",
    );
    for queue in &status.queues {
        if let Some(present) = queue.present {
            out.sample(&[("queue", &queue.name)], truth(!present));
        }
    }
    out.family(
        "fantail_topology_drift",
        Gauge,
        "Whether a queue is otherwise than configured.",
    );
    for queue in &status.queues {
        out.sample(&[("object", &queue.name)], truth(queue.drift.is_some()));
    }
}

fn configuration(out: &mut Exposition, measures: &Measures) {
    let config = &measures.status.config;
    out.single(
        "fantail_config_last_reload_successful",
        Gauge,
        "Whether the configuration that was read last is in force.",
        truth(config.reload_error.is_none()),
    );
    let loaded: Option<Timestamp> = config.loaded_at.parse().ok();
    out.single(
        "fantail_config_last_reload_success_timestamp_seconds",
        Gauge,
        "When the configuration in force was read, in seconds since 1970.",
        loaded.map_or(0.0, seconds),
    );
    out.single(
        "fantail_config_reload_failures_total",
        Counter,
        "Configurations that were read and could not be used.",
        number(measures.counts.reload_failures),
    );
}

fn stages(out: &mut Exposition, progress: &Progress) {
    out.family(
        "fantail_io_errors_total",
        Counter,
        "System calls that failed and were tried again.",
    );
    let counted = progress.io_errors();
    for stage in [Stage::Discovery, Stage::Lane, Stage::Spool, Stage::State] {
        let labels = [("stage", stage.as_str()), ("error", "EIO")];
        let count = counted.get(&(stage, "EIO")).copied().unwrap_or_default();
        out.sample(&labels, number(count));
    }
    for ((stage, error), count) in counted {
        if error != "EIO" {
            let labels = [("stage", stage.as_str()), ("error", error)];
            out.sample(&labels, number(count));
        }
    }
    out.family(
        "fantail_stage_stalled_seconds",
        Gauge,
        "How long a stage has not come on although it does not wait for another.",
    );
    for stage in Stage::ALL {
        let stalled = progress.of(stage).stalled().as_secs_f64();
        out.sample(&[("stage", stage.as_str())], stalled);
    }
}

fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}
