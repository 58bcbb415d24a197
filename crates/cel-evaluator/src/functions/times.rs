//! Timestamps and durations.

use jiff::civil;
use jiff::tz::{Offset, TimeZone, TimeZoneDatabase};

use crate::arithmetic::is_in_range;
use crate::call::Style::Member;
use crate::call::{FunctionResult, Table, failed, no_overload, nominal};
use crate::error::EvaluationError;
use crate::meter::Meter;
use crate::value::{Time, Value};

pub(super) const TABLE: Table = &[
    ("getFullYear", Member, year, nominal),
    ("getMonth", Member, month, nominal),
    ("getDayOfYear", Member, day_of_year, nominal),
    ("getDayOfMonth", Member, day_of_month, nominal),
    ("getDate", Member, date, nominal),
    ("getDayOfWeek", Member, day_of_week, nominal),
    ("getHours", Member, hours, nominal),
    ("getMinutes", Member, minutes, nominal),
    ("getSeconds", Member, seconds, nominal),
    ("getMilliseconds", Member, milliseconds, nominal),
];

const NANOS_PER_MILLISECOND: i64 = 1_000_000;
const NANOS_PER_SECOND: i64 = 1_000 * NANOS_PER_MILLISECOND;
const NANOS_PER_MINUTE: i64 = 60 * NANOS_PER_SECOND;
const NANOS_PER_HOUR: i64 = 60 * NANOS_PER_MINUTE;

pub(super) fn to_duration(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Duration(nanoseconds)] => Ok(Value::Duration(*nanoseconds)),
        [Value::Int(nanoseconds)] => Ok(Value::Duration(*nanoseconds)),
        [Value::String(text)] => nanoseconds(text).map(Value::Duration).ok_or_else(|| {
            failed("type conversion error from 'string' to 'google.protobuf.Duration'")
        }),
        _ => no_overload(),
    }
}

/// The nanoseconds of a duration as Go writes it: `1h15m30.5s`.
pub fn nanoseconds(text: &str) -> Option<i64> {
    let (is_negative, mut rest) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at_checked(digits)?;
        let letters = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(letters)?;
        let unit: i64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => NANOS_PER_MILLISECOND,
            "s" => NANOS_PER_SECOND,
            "m" => NANOS_PER_MINUTE,
            "h" => NANOS_PER_HOUR,
            _ => return None,
        };
        total = total.checked_add(scaled(number, i128::from(unit))?)?;
        rest = after;
    }
    i64::try_from(if is_negative { -total } else { total }).ok()
}

/// A decimal number times a unit, rounded down.
fn scaled(number: &str, unit: i128) -> Option<i128> {
    const FRACTION_DIGITS: usize = 18;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || whole.len() > FRACTION_DIGITS + 2 {
        return None;
    }
    let digits = |text: &str| match text {
        "" => Some(0),
        text => text.parse::<i128>().ok(),
    };
    let fraction = &fraction[..fraction.len().min(FRACTION_DIGITS)];
    let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    Some(digits(whole)? * unit + digits(fraction)? * unit / scale)
}

pub(super) fn to_timestamp(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Timestamp(time)] => Ok(Value::Timestamp(*time)),
        [Value::Int(seconds)] => {
            let moment = jiff::Timestamp::from_second(*seconds).ok();
            let moment = moment.filter(|moment| is_in_range(*moment));
            let moment = moment.ok_or(EvaluationError::TimestampOverflow)?;
            Ok(Value::Timestamp(Time {
                moment,
                offset_seconds: 0,
            }))
        }
        [Value::String(text)] => {
            let time = Time::parse(text).ok_or_else(|| {
                failed("type conversion error from 'string' to 'google.protobuf.Timestamp'")
            })?;
            if !is_in_range(time.moment) {
                return Err(EvaluationError::TimestampOverflow);
            }
            Ok(Value::Timestamp(time))
        }
        _ => no_overload(),
    }
}

impl Time {
    /// The moment in a text of RFC 3339.
    pub fn parse(text: &str) -> Option<Self> {
        let (date, rest) = text.split_at_checked(10)?;
        let (clock, zone) = rest.strip_prefix('T')?.split_at_checked(8)?;
        let number = |text: &str, from: usize, length: usize| -> Option<i16> {
            let digits = text.get(from..from + length)?;
            let all = digits.bytes().all(|byte| byte.is_ascii_digit());
            all.then(|| digits.parse().ok())?
        };
        let has =
            |text: &str, at: usize, separator: u8| text.as_bytes().get(at) == Some(&separator);
        if !(has(date, 4, b'-') && has(date, 7, b'-') && has(clock, 2, b':') && has(clock, 5, b':'))
        {
            return None;
        }
        let (nanoseconds, zone) = fraction(zone)?;
        let small = |number: i16| i8::try_from(number).ok();
        let local = civil::DateTime::new(
            number(date, 0, 4)?,
            small(number(date, 5, 2)?)?,
            small(number(date, 8, 2)?)?,
            small(number(clock, 0, 2)?)?,
            small(number(clock, 3, 2)?)?,
            small(number(clock, 6, 2)?)?,
            nanoseconds,
        );
        let offset_seconds = offset(zone)?;
        let offset = Offset::from_seconds(offset_seconds).ok()?;
        let moment = offset.to_timestamp(local.ok()?).ok()?;
        Some(Self {
            moment,
            offset_seconds,
        })
    }
}

/// The nanoseconds of a fraction of a second, and the text after it.
fn fraction(text: &str) -> Option<(i32, &str)> {
    let Some(rest) = text.strip_prefix('.') else {
        return Some((0, text));
    };
    let end = rest.find(|c: char| !c.is_ascii_digit())?;
    let digits = &rest[..end];
    if digits.is_empty() {
        return None;
    }
    let nine: String = digits.chars().chain("000000000".chars()).take(9).collect();
    Some((nine.parse().ok()?, &rest[end..]))
}

/// The seconds of a zone: `Z` or `+02:00`.
fn offset(zone: &str) -> Option<i32> {
    if zone == "Z" {
        return Some(0);
    }
    let sign = match zone.as_bytes() {
        [b'+', _, _, b':', _, _] => 1,
        [b'-', _, _, b':', _, _] => -1,
        _ => return None,
    };
    let part = |from: usize| -> Option<i32> {
        let digits = zone.get(from..from + 2)?;
        let all = digits.bytes().all(|byte| byte.is_ascii_digit());
        all.then(|| digits.parse().ok())?
    };
    let (hours, minutes) = (part(1)?, part(4)?);
    (hours <= 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

/// Seconds without an exponent: `5400s`.
pub(super) fn printed_duration(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let total = nanoseconds.unsigned_abs();
    let unit = NANOS_PER_SECOND.unsigned_abs();
    let text = format!("{sign}{}.{:09}", total / unit, total % unit);
    let trimmed = text.trim_end_matches('0').trim_end_matches('.');
    format!("{trimmed}s")
}

/// RFC 3339 in the zone that the time was written in.
pub(super) fn printed_time(time: Time) -> String {
    let offset = Offset::from_seconds(time.offset_seconds).unwrap_or(Offset::UTC);
    let local = offset.to_datetime(time.moment);
    let mut text = format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
        local.year(),
        local.month(),
        local.day(),
        local.hour(),
        local.minute(),
        local.second()
    );
    if local.subsec_nanosecond() != 0 {
        let digits = format!("{:09}", local.subsec_nanosecond());
        text.push('.');
        text.push_str(digits.trim_end_matches('0'));
    }
    let seconds = time.offset_seconds;
    if seconds == 0 {
        text.push('Z');
    } else {
        let sign = if seconds < 0 { '-' } else { '+' };
        let minutes = seconds.abs() / 60;
        text.push_str(&format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60));
    }
    text
}

/// The date and time of day in the zone of the second argument, UTC without one.
fn local(arguments: &[Value]) -> Result<civil::DateTime, EvaluationError> {
    match arguments {
        [Value::Timestamp(time)] => Ok(Offset::UTC.to_datetime(time.moment)),
        [Value::Timestamp(time), Value::String(zone)] => {
            Ok(time.moment.to_zoned(time_zone(zone)?).datetime())
        }
        _ => Err(EvaluationError::NoOverload),
    }
}

/// A zone by its name, or by its distance to UTC: `02:00`, `-08:30`.
fn time_zone(name: &str) -> Result<TimeZone, EvaluationError> {
    let unknown = || failed(format!("unknown time zone {name}"));
    let Some((hours, minutes)) = name.split_once(':') else {
        if name.is_empty() || name == "UTC" {
            return Ok(TimeZone::UTC);
        }
        return TimeZoneDatabase::bundled().get(name).map_err(|_| unknown());
    };
    let hours: i32 = hours.parse().map_err(|_| unknown())?;
    let minutes: i32 = minutes.parse().map_err(|_| unknown())?;
    let in_range = (-24..=24).contains(&hours) && (0..60).contains(&minutes);
    if !in_range {
        return Err(unknown());
    }
    let sign = if name.starts_with('-') { -1 } else { 1 };
    let seconds = hours * 3600 + sign * minutes * 60;
    let offset = Offset::from_seconds(seconds).map_err(|_| unknown())?;
    Ok(TimeZone::fixed(offset))
}

fn part(arguments: &[Value], read: fn(civil::DateTime) -> i64) -> FunctionResult {
    local(arguments).map(|local| Value::Int(read(local)))
}

fn year(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    part(arguments, |local| i64::from(local.year()))
}

fn month(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    part(arguments, |local| i64::from(local.month()) - 1)
}

fn day_of_year(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    part(arguments, |local| i64::from(local.day_of_year()) - 1)
}

fn day_of_month(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    part(arguments, |local| i64::from(local.day()) - 1)
}

fn date(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    part(arguments, |local| i64::from(local.day()))
}

fn day_of_week(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    part(arguments, |local| {
        i64::from(local.weekday().to_sunday_zero_offset())
    })
}

fn hours(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Duration(nanoseconds)] => Ok(Value::Int(nanoseconds / NANOS_PER_HOUR)),
        _ => part(arguments, |local| i64::from(local.hour())),
    }
}

fn minutes(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Duration(nanoseconds)] => Ok(Value::Int(nanoseconds / NANOS_PER_MINUTE)),
        _ => part(arguments, |local| i64::from(local.minute())),
    }
}

fn seconds(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Duration(nanoseconds)] => Ok(Value::Int(nanoseconds / NANOS_PER_SECOND)),
        _ => part(arguments, |local| i64::from(local.second())),
    }
}

fn milliseconds(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Duration(nanoseconds)] => Ok(Value::Int(nanoseconds / NANOS_PER_MILLISECOND)),
        _ => part(arguments, |local| i64::from(local.millisecond())),
    }
}
