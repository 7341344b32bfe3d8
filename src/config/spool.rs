//! `[spool]`: where batches wait on disk, how many, and what happens when that is full.

use std::path::{Path, PathBuf};

use super::raw::{Problem, Spot, Table, parse_size};
use super::within;
use crate::spool::FreeMin;

const BYTES_MAX: u64 = 1 << 30;
const SEGMENT_BYTES: u64 = 64 << 20;
/// Five in a hundred.
const FREE_MIN: FreeMin = FreeMin::PartsPerMillion(50_000);
/// Less would be headers and footers.
const BYTES_LEAST: u64 = 64 << 10;
const SEGMENT_BYTES_LEAST: u64 = 4 << 10;

/// `[spool]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spool {
    /// Its directory.
    pub directory: PathBuf,
    /// Bytes of all segments together.
    pub bytes_max: u64,
    /// What must stay free on its file system.
    pub free_min: FreeMin,
    /// Bytes after which a segment is closed.
    pub segment_bytes: u64,
    /// What happens when nothing more fits.
    pub when_full: WhenFull,
}

/// What happens when nothing more fits into the spool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Reading stops: the files themselves are the buffer.
    #[default]
    Block,
    /// The oldest segment is given up.
    DropOldest,
}

const WHEN_FULL: &[(&str, WhenFull)] = &[
    ("block", WhenFull::Block),
    ("drop_oldest", WhenFull::DropOldest),
];

pub(super) fn spool(table: &mut Table<'_>, state_dir: &Path, problems: &mut Vec<Problem>) -> Spool {
    let directory = directory(table, state_dir, problems);
    let bytes_max = within(
        table.size("max_bytes", problems),
        BYTES_LEAST,
        u64::MAX,
        BYTES_MAX,
        problems,
    );
    let segment = table.size("segment_bytes", problems);
    if let Some(spot) = segment.as_ref().filter(|spot| spot.value > bytes_max) {
        let text = format!("a segment larger than the spool, which has {bytes_max} bytes");
        let advice =
            "a quarter of `max_bytes` is used; a segment is what is given back or given up at once";
        let problem = spot.problem(text).advise(advice.to_owned());
        problems.push(problem.as_warning());
    }
    let segment_bytes = within(
        segment,
        SEGMENT_BYTES_LEAST,
        u64::MAX,
        SEGMENT_BYTES,
        problems,
    );
    let free_min = match table.string("min_free", problems) {
        Some(spot) => free_min(&spot, problems).unwrap_or(FREE_MIN),
        None => FREE_MIN,
    };
    let when_full = table.choice("when_full", WHEN_FULL, problems);
    Spool {
        directory,
        bytes_max,
        free_min,
        segment_bytes,
        when_full: when_full.unwrap_or_default(),
    }
}

pub(super) fn directory(
    table: &mut Table<'_>,
    state_dir: &Path,
    problems: &mut Vec<Problem>,
) -> PathBuf {
    match table.string("dir", problems) {
        Some(spot) if !spot.value.is_empty() => PathBuf::from(spot.value),
        _ => state_dir.join("spool"),
    }
}

/// Part of the file system, or bytes.
fn free_min(spot: &Spot<String>, problems: &mut Vec<Problem>) -> Option<FreeMin> {
    let Some(percent) = spot.value.trim().strip_suffix('%') else {
        let bytes = parse_size(&spot.value);
        if bytes.is_none() {
            let problem = spot.problem(format!("not a part and not a size: {:?}", spot.value));
            problems.push(problem.advise("write \"5%\" or \"10GiB\"".to_owned()));
        }
        return bytes.map(FreeMin::Bytes);
    };
    let parts = parts_per_million(percent.trim_end());
    match parts {
        Some(parts) if parts < 1_000_000 => Some(FreeMin::PartsPerMillion(parts)),
        Some(_) => {
            let problem = spot.problem("nothing would ever fit".to_owned());
            problems.push(problem.advise("write less than \"100%\"".to_owned()));
            None
        }
        None => {
            let problem = spot.problem(format!("not a part: {:?}", spot.value));
            problems.push(problem.advise("write \"5%\" or \"2.5%\"".to_owned()));
            None
        }
    }
}

/// Of a number of percent with up to four digits behind the point.
fn parts_per_million(percent: &str) -> Option<u32> {
    let (whole, part) = percent.split_once('.').unwrap_or((percent, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 4 {
        return None;
    }
    let part: u32 = format!("{part:0<4}").parse().ok()?;
    let whole: u32 = whole.parse().ok()?;
    whole.checked_mul(10_000)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::load_text;

    #[test]
    fn every_key_of_the_spool_is_used() {
        let config = load_text(
            "[agent]\nstate_dir = \"/s\"\n[spool]\ndir = \"/d/${APP}\"\nmax_bytes = \"10GiB\"\n\
             min_free = \"2.5%\"\nsegment_bytes = \"8MiB\"\nwhen_full = \"drop_oldest\"\n",
        );
        let spool = config.expect("valid").spool;
        assert_eq!(
            spool,
            Spool {
                directory: "/d/shop".into(),
                bytes_max: 10 << 30,
                free_min: FreeMin::PartsPerMillion(25_000),
                segment_bytes: 8 << 20,
                when_full: WhenFull::DropOldest,
            }
        );
        let default = load_text("[agent]\nstate_dir = \"/s\"\n").expect("valid");
        assert_eq!(default.spool.directory, Path::new("/s/spool"));
        assert_eq!(default.spool.when_full, WhenFull::Block);
    }

    #[test]
    fn what_must_stay_free_is_a_part_or_a_size() {
        let told = |text: &str| load_text(&format!("[spool]\nmin_free = \"{text}\"\n"));
        for (text, free_min) in [
            ("5%", FreeMin::PartsPerMillion(50_000)),
            ("0%", FreeMin::PartsPerMillion(0)),
            ("0.0001 %", FreeMin::PartsPerMillion(1)),
            ("10GiB", FreeMin::Bytes(10 << 30)),
            ("0", FreeMin::Bytes(0)),
        ] {
            assert_eq!(
                told(text).expect("valid").spool.free_min,
                free_min,
                "{text}"
            );
        }
        for text in [
            "",
            "%",
            "-1%",
            "5.%",
            "1.23456%",
            "100%",
            "99999999999%",
            "a lot",
        ] {
            let error = told(text).expect_err(text);
            assert!(error.contains("fantail.toml:2:12: "), "{error}");
        }
    }

    #[test]
    fn a_segment_larger_than_the_spool_is_a_warning() {
        let config = load_text("[spool]\nmax_bytes = \"1MiB\"\nsegment_bytes = \"2MiB\"\n");
        let warnings = config.expect("valid").warnings;
        assert_eq!(warnings.len(), 1);
        let told = warnings[0].to_string();
        assert!(told.contains(":3:17: a segment larger"), "{told}");
        // The default is none of the operator's doing.
        let config = load_text("[spool]\nmax_bytes = \"1MiB\"\n");
        assert!(config.expect("valid").warnings.is_empty());
    }
}
