//! Schedules with the five fields of cron, as in CronJobs.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

/// Maximum distance to the next time: a 29th of February on a given weekday recurs within this time.
const YEARS_MAX: i16 = 40;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    #[error("empty spec string")]
    Empty,
    #[error("expected exactly 5 fields, found {found}: [{fields}]")]
    Fields { found: usize, fields: String },
    #[error("unrecognized descriptor: {0}")]
    Descriptor(String),
    #[error("failed to parse duration {0}")]
    Duration(String),
    #[error("failed to parse int from {0}")]
    Number(String),
    #[error("too many hyphens: {0}")]
    Hyphens(String),
    #[error("too many slashes: {0}")]
    Slashes(String),
    #[error("beginning of range ({from}) below minimum ({min}): {text}")]
    Below { from: u32, min: u32, text: String },
    #[error("end of range ({to}) above maximum ({max}): {text}")]
    Above { to: u32, max: u32, text: String },
    #[error("beginning of range ({from}) beyond end of range ({to}): {text}")]
    Order { from: u32, to: u32, text: String },
    #[error("step of range should be a positive number: {0}")]
    Step(String),
}

/// A schedule of a CronJob, with the grammar of robfig/cron v3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule(Form);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    Fields(Box<Fields>),
    Every(SignedDuration),
}

/// One bit for each value that matches.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether both the day and the weekday must match. This is the case unless both fields are restricted.
    both_days: bool,
}

struct Bounds {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MINUTES: Bounds = bounds(0, 59, &[]);
const HOURS: Bounds = bounds(0, 23, &[]);
const DAYS: Bounds = bounds(1, 31, &[]);
const MONTHS: Bounds = bounds(
    1,
    12,
    &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ],
);
const WEEKDAYS: Bounds = bounds(0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]);

const fn bounds(min: u32, max: u32, names: &'static [&'static str]) -> Bounds {
    Bounds { min, max, names }
}

impl Schedule {
    /// Parses five fields, a name such as `@daily`, or `@every 1h30m`.
    ///
    /// # Errors
    /// The schedule is invalid.
    pub fn parse(text: &str) -> Result<Self, CronError> {
        if text.is_empty() {
            return Err(CronError::Empty);
        }
        let fields = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            _ if text.starts_with("@every ") => return every(text),
            _ if text.starts_with('@') => return Err(CronError::Descriptor(text.to_owned())),
            other => other,
        };
        let words: Vec<&str> = fields.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = words.as_slice() else {
            return Err(CronError::Fields {
                found: words.len(),
                fields: words.join(" "),
            });
        };
        let any = |field: &str| field.split(',').any(|part| matches!(part, "*" | "?"));
        Ok(Self(Form::Fields(Box::new(Fields {
            minutes: field(minutes, &MINUTES)?,
            hours: field(hours, &HOURS)?,
            days: field(days, &DAYS)?,
            months: field(months, &MONTHS)?,
            weekdays: field(weekdays, &WEEKDAYS)?,
            both_days: any(days) || any(weekdays),
        }))))
    }

    /// The first time after `after`; `None` if there is none in this century.
    ///
    /// A time that a clock change skips does not occur; a time that a clock change repeats occurs twice.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match &self.0 {
            Form::Every(period) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(*period).ok()
            }
            Form::Fields(fields) => fields.next(after, zone),
        }
    }
}

impl Fields {
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let minute = after.as_second().div_euclid(60).checked_add(1)?;
        let mut at = Timestamp::from_second(minute.checked_mul(60)?).ok()?;
        let last_year = zone.to_datetime(at).year().checked_add(YEARS_MAX)?;
        loop {
            let civil = zone.to_datetime(at);
            if civil.year() > last_year {
                return None;
            }
            at = if !has(self.months, civil.month()) {
                let first = civil.date().first_of_month();
                start_of(first.checked_add(1.month()).ok()?, at, zone)?
            } else if !self.fits_day(&civil) {
                start_of(civil.date().tomorrow().ok()?, at, zone)?
            } else if !has(self.hours, civil.hour()) {
                at.checked_add((60 - i64::from(civil.minute())).minutes())
                    .ok()?
            } else if !has(self.minutes, civil.minute()) {
                at.checked_add(1.minute()).ok()?
            } else {
                return Some(at);
            };
        }
    }

    fn fits_day(&self, civil: &DateTime) -> bool {
        let day = has(self.days, civil.day());
        let weekday = has(self.weekdays, civil.weekday().to_sunday_zero_offset());
        if self.both_days {
            day && weekday
        } else {
            day || weekday
        }
    }
}

fn has(bits: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| bits & (1 << value) != 0)
}

/// The first instant of a day. It is later than `at`, whatever the clock changes are.
fn start_of(day: Date, at: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let start = day.to_datetime(Time::midnight());
    let moment = zone.to_ambiguous_timestamp(start).compatible().ok()?;
    let later = at.checked_add(1.minute()).ok()?;
    Some(moment.max(later))
}

fn every(text: &str) -> Result<Schedule, CronError> {
    let bad = || CronError::Duration(text.to_owned());
    let rest = text.strip_prefix("@every ").ok_or_else(bad)?.trim();
    let (mut total, mut digits) = (0_i64, String::new());
    let mut chars = rest.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        let unit = match (c, chars.peek()) {
            ('h', _) => 3600,
            ('m', Some('s')) | ('n' | 'u' | 'µ', _) => return Err(bad()),
            ('m', _) => 60,
            ('s', _) => 1,
            _ => return Err(bad()),
        };
        let amount: i64 = digits.parse().map_err(|_| bad())?;
        digits.clear();
        total = amount
            .checked_mul(unit)
            .and_then(|seconds| total.checked_add(seconds))
            .ok_or_else(bad)?;
    }
    if !digits.is_empty() || rest.is_empty() {
        return Err(bad());
    }
    // As upstream: at most once per second.
    let period = SignedDuration::from_secs(total.max(1));
    Ok(Schedule(Form::Every(period)))
}

/// The bits of a list of ranges.
fn field(text: &str, bounds: &Bounds) -> Result<u64, CronError> {
    text.split(',')
        .filter(|part| !part.is_empty())
        .try_fold(0, |bits, part| Ok(bits | range(part, bounds)?))
}

fn range(text: &str, bounds: &Bounds) -> Result<u64, CronError> {
    let mut halves = text.split('/');
    let ends = halves.next().unwrap_or_default();
    let step = halves.next();
    if halves.next().is_some() {
        return Err(CronError::Slashes(text.to_owned()));
    }
    let (from, mut to) = match ends.split_once('-') {
        _ if matches!(ends, "*" | "?") => (bounds.min, bounds.max),
        None => {
            let value = number(ends, bounds)?;
            (value, value)
        }
        Some((_, rest)) if rest.contains('-') => return Err(CronError::Hyphens(text.to_owned())),
        Some((from, to)) => (number(from, bounds)?, number(to, bounds)?),
    };
    let step = match step {
        None => 1,
        Some(step) => {
            // `5/15` starts at 5 and continues to the end of the range.
            if !ends.contains('-') {
                to = bounds.max;
            }
            number(step, &bounds_of_steps())?
        }
    };
    let text = || text.to_owned();
    match (from, to) {
        _ if from < bounds.min => Err(CronError::Below {
            from,
            min: bounds.min,
            text: text(),
        }),
        _ if to > bounds.max => Err(CronError::Above {
            to,
            max: bounds.max,
            text: text(),
        }),
        _ if from > to => Err(CronError::Order {
            from,
            to,
            text: text(),
        }),
        _ if step == 0 => Err(CronError::Step(text())),
        _ => {
            let step = usize::try_from(step).unwrap_or(usize::MAX);
            Ok((from..=to)
                .step_by(step)
                .fold(0, |bits, value| bits | 1 << value))
        }
    }
}

const fn bounds_of_steps() -> Bounds {
    bounds(0, u32::MAX, &[])
}

fn number(text: &str, bounds: &Bounds) -> Result<u32, CronError> {
    let named = bounds
        .names
        .iter()
        .position(|name| name.eq_ignore_ascii_case(text));
    if let Some(at) = named {
        return Ok(u32::try_from(at).unwrap_or(u32::MAX) + bounds.min);
    }
    text.parse().map_err(|_| CronError::Number(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(name: &str) -> TimeZone {
        jiff::tz::TimeZoneDatabase::bundled().get(name).unwrap()
    }

    /// The next times after a moment.
    fn times(text: &str, zone: &TimeZone, after: &str, count: usize) -> Vec<String> {
        let schedule = Schedule::parse(text).unwrap();
        let mut at: Timestamp = after.parse().unwrap();
        (0..count)
            .map(|_| {
                at = schedule.next(at, zone).unwrap();
                at.to_string()
            })
            .collect()
    }

    #[test]
    fn times_follow_the_fields() {
        let utc = TimeZone::UTC;
        for (text, expected) in [
            ("*/15 * * * *", "2026-01-01T00:15:00Z"),
            ("0 3 * * *", "2026-01-01T03:00:00Z"),
            ("30 8-10/2 * * MON", "2026-01-05T08:30:00Z"),
            ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
            ("0 0 13 * 5", "2026-01-02T00:00:00Z"),
            ("0 0 1,15 * ?", "2026-01-15T00:00:00Z"),
            ("5/20 * * feb-mar *", "2026-02-01T00:05:00Z"),
            ("@weekly", "2026-01-04T00:00:00Z"),
            ("@every 1h30m", "2026-01-01T01:30:10Z"),
        ] {
            let next = times(text, &utc, "2026-01-01T00:00:10.5Z", 1);
            assert_eq!(next, [expected], "{text}");
        }
        assert_eq!(
            Schedule::parse("0 0 30 2 *")
                .unwrap()
                .next(Timestamp::UNIX_EPOCH, &utc),
            None
        );
    }

    #[test]
    fn a_time_that_the_clock_leaves_out_does_not_come() {
        let berlin = zone("Europe/Berlin");
        assert_eq!(
            times("30 2 * * *", &berlin, "2026-03-28T12:00:00Z", 1),
            ["2026-03-30T00:30:00Z"]
        );
        assert_eq!(
            times("30 2 * * *", &berlin, "2026-10-24T12:00:00Z", 3),
            [
                "2026-10-25T00:30:00Z",
                "2026-10-25T01:30:00Z",
                "2026-10-26T01:30:00Z"
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, expected) in [
            ("", "empty spec string"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("@now", "unrecognized descriptor: @now"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            (
                "5-1 * * * *",
                "beginning of range (5) beyond end of range (1): 5-1",
            ),
            (
                "*/0 * * * *",
                "step of range should be a positive number: */0",
            ),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("x * * * *", "failed to parse int from x"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            ("@every 5", "failed to parse duration @every 5"),
        ] {
            assert_eq!(Schedule::parse(text).unwrap_err().to_string(), expected);
        }
    }
}
