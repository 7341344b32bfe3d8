//! The time in a parsed field.

use jiff::fmt::strtime::{self, BrokenDownTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::value::Value;

/// The years that `@timestamp` can show.
const YEARS: std::ops::RangeInclusive<i16> = 0..=9999;

/// Which field tells the time, and how it is written there.
#[derive(Clone, Debug)]
pub struct TimeField {
    /// Keys with dots between them.
    path: String,
    /// As strftime has it.
    format: String,
    /// The same before its offset, if it ends in one: `Z` is no offset to the library.
    before_offset: Option<String>,
}

/// A format that cannot tell a time.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// Not a format at all.
    #[error("not a time format: {0}")]
    Wrong(jiff::Error),
    /// Only that with `%Y` and the like is a moment.
    #[error("a time without a year cannot be told from last year's")]
    NoYear,
    /// Which time that is depends on a database.
    #[error("a time zone's name is not understood, only an offset (%z, %:z)")]
    ZoneName,
    /// No hour, no month, or something else is missing.
    #[error("does not tell a time: {0}")]
    Incomplete(jiff::Error),
}

impl TimeField {
    /// The time at `path` of the parsed fields, written as `format` says.
    ///
    /// # Errors
    /// What is written in this format is not a moment.
    pub fn new(path: &str, format: &str) -> Result<Self, FormatError> {
        // No two parts of it are the same, and an offset is told from none.
        let sample: Timestamp = Timestamp::constant(1_700_000_123, 456_000_000);
        let sample = sample.to_zoned(TimeZone::fixed(jiff::tz::offset(-7)));
        let written = strtime::format(format, &sample).map_err(FormatError::Wrong)?;
        let read = strtime::parse(format, &written).map_err(FormatError::Wrong)?;
        if read.iana_time_zone().is_some() || format.contains("%Q") || format.contains("%:Q") {
            return Err(FormatError::ZoneName);
        }
        if read.timestamp().is_none() && read.hour().is_none() {
            let without = read.to_datetime().err();
            let error = without.unwrap_or_else(|| jiff::Error::from_args(format_args!("no hour")));
            return Err(FormatError::Incomplete(error));
        }
        if let Err(error) = moment(&read) {
            let has_year = read.year().is_some() || read.iso_week_year().is_some();
            return Err(if has_year {
                FormatError::Incomplete(error)
            } else {
                FormatError::NoYear
            });
        }
        let offset = |sign| format.strip_suffix(sign).map(str::to_owned);
        Ok(Self {
            path: path.to_owned(),
            format: format.to_owned(),
            before_offset: offset("%:z").or_else(|| offset("%z")),
        })
    }

    /// When a line was written, as `@timestamp` shows it; or why that is not known, without a word
    /// of the line.
    pub(super) fn of(&self, fields: &Value<'_>) -> Result<String, &'static str> {
        let text = match fields.at(&self.path) {
            Some(Value::Text(text) | Value::Number(text)) => text,
            Some(_) => return Err("time of reading: the timestamp is no text or number"),
            None => return Err("time of reading: no timestamp in the line"),
        };
        let read = match (&self.before_offset, text.strip_suffix('Z')) {
            (Some(format), Some(text)) => strtime::parse(format, text.as_bytes()),
            _ => strtime::parse(&self.format, text.as_bytes()),
        };
        let time = read.and_then(|read| moment(&read));
        let time = time.map_err(|_| "time of reading: the timestamp is not in the format")?;
        if !YEARS.contains(&TimeZone::UTC.to_datetime(time).year()) {
            return Err("time of reading: the timestamp's year has not four digits");
        }
        Ok(time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
    }
}

/// In UTC where no offset is given.
fn moment(read: &BrokenDownTime) -> Result<Timestamp, jiff::Error> {
    if let Some(seconds) = read.timestamp() {
        // `%s%.f`: the library takes the seconds alone.
        let fraction = i64::from(read.subsec_nanosecond().unwrap_or(0));
        return seconds.checked_add(SignedDuration::from_nanos(fraction));
    }
    if read.offset().is_some() {
        return read.to_timestamp();
    }
    Ok(read.to_datetime()?.to_zoned(TimeZone::UTC)?.timestamp())
}
