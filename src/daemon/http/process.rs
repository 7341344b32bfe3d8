//! What the kernel says of this process, under the names that Prometheus' clients agreed on.

use std::fs;

use super::exposition::{Exposition, Kind};
use crate::sys;

/// Fields of `/proc/self/stat` behind the command's name (proc(5) counts from 1, the name being 2).
const UTIME: usize = 14;
const STIME: usize = 15;
const STARTTIME: usize = 22;
const VSIZE: usize = 23;
const RSS: usize = 24;

pub(super) fn expose(out: &mut Exposition) {
    if let Some(stat) = Stat::read() {
        let ticks = ticks_per_second();
        let cpu = (stat.field(UTIME) + stat.field(STIME)) / ticks;
        out.single(
            "process_cpu_seconds_total",
            Kind::Counter,
            "Processor time of user and system, in seconds.",
            cpu,
        );
        let resident = stat.field(RSS) * page_size();
        out.single(
            "process_resident_memory_bytes",
            Kind::Gauge,
            "Memory that is resident.",
            resident,
        );
        out.single(
            "process_virtual_memory_bytes",
            Kind::Gauge,
            "Memory that is mapped.",
            stat.field(VSIZE),
        );
        if let Some(booted) = booted() {
            let started = booted + stat.field(STARTTIME) / ticks;
            out.single(
                "process_start_time_seconds",
                Kind::Gauge,
                "When the process began, in seconds since 1970.",
                started,
            );
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One is the look itself.
        let open = open.count().saturating_sub(1);
        out.single(
            "process_open_fds",
            Kind::Gauge,
            "Descriptors that are open.",
            open as f64,
        );
    }
    let most = sys::open_files_limit();
    out.single(
        "process_max_fds",
        Kind::Gauge,
        "Descriptors that may be open.",
        most.map_or(f64::INFINITY, |most| most as f64),
    );
}

struct Stat(Vec<f64>);

impl Stat {
    fn read() -> Option<Self> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        // A name may hold blanks and parentheses.
        let (_, behind) = text.rsplit_once(')')?;
        let fields = behind.split_ascii_whitespace();
        Some(Self(
            fields.map(|field| field.parse().unwrap_or(0.0)).collect(),
        ))
    }

    fn field(&self, number: usize) -> f64 {
        self.0.get(number - 3).copied().unwrap_or(0.0)
    }
}

/// When the machine began, in seconds since 1970.
fn booted() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

fn page_size() -> f64 {
    rustix::param::page_size() as f64
}
