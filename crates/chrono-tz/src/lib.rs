//! The time zones of timestamps in CEL (`getHours("Europe/Berlin")`), from the database that `jiff` has: the part
//! of the published `chrono-tz` that `cel` calls. The published crate has a database of its own, 1.2 MB of the
//! program.

use std::str::FromStr;

use chrono::{FixedOffset, MappedLocalTime, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeZone};
use jiff::civil::DateTime;
use jiff::tz::AmbiguousOffset;
use jiff::{Timestamp, tz};

/// A zone of the IANA database.
#[derive(Clone, Debug)]
pub struct Tz(tz::TimeZone);

/// Coordinated universal time.
pub const UTC: Tz = Tz(tz::TimeZone::UTC);

/// There is no zone of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownZone;

impl FromStr for Tz {
    type Err = UnknownZone;

    /// Upper and lower case are different.
    fn from_str(name: &str) -> Result<Self, UnknownZone> {
        let zone = tz::TimeZone::get(name).map_err(|_| UnknownZone)?;
        let exact = zone.iana_name() == Some(name) && !zone.is_unknown();
        exact.then_some(Self(zone)).ok_or(UnknownZone)
    }
}

/// The difference of a zone to universal time at some instant.
#[derive(Clone, Debug)]
pub struct ZoneOffset {
    zone: Tz,
    offset: FixedOffset,
}

impl Offset for ZoneOffset {
    fn fix(&self) -> FixedOffset {
        self.offset
    }
}

impl Tz {
    fn at(&self, offset: tz::Offset) -> ZoneOffset {
        let offset = FixedOffset::east_opt(offset.seconds()).unwrap_or(Offset::fix(&chrono::Utc));
        let zone = self.clone();
        ZoneOffset { zone, offset }
    }
}

impl TimeZone for Tz {
    type Offset = ZoneOffset;

    fn from_offset(offset: &ZoneOffset) -> Self {
        offset.zone.clone()
    }

    fn offset_from_local_date(&self, local: &NaiveDate) -> MappedLocalTime<ZoneOffset> {
        self.offset_from_local_datetime(&local.and_time(NaiveTime::MIN))
    }

    fn offset_from_local_datetime(&self, local: &NaiveDateTime) -> MappedLocalTime<ZoneOffset> {
        // As a time without a zone, the local time has the seconds of universal time.
        let local: DateTime = tz::TimeZone::UTC.to_datetime(instant(local));
        match self.0.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } => MappedLocalTime::Single(self.at(offset)),
            AmbiguousOffset::Gap { .. } => MappedLocalTime::None,
            AmbiguousOffset::Fold { before, after } => {
                MappedLocalTime::Ambiguous(self.at(before), self.at(after))
            }
        }
    }

    fn offset_from_utc_date(&self, utc: &NaiveDate) -> ZoneOffset {
        self.offset_from_utc_datetime(&utc.and_time(NaiveTime::MIN))
    }

    fn offset_from_utc_datetime(&self, utc: &NaiveDateTime) -> ZoneOffset {
        self.at(self.0.to_offset(instant(utc)))
    }
}

/// The instant in universal time; the last that `jiff` knows, for years above 9999, and the first for years before
/// -9999.
fn instant(utc: &NaiveDateTime) -> Timestamp {
    let seconds = utc.and_utc().timestamp();
    let (first, last) = (Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
    Timestamp::from_second(seconds.clamp(first, last)).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn local(zone: &str, seconds: i64) -> String {
        let zone: Tz = zone.parse().unwrap();
        let time = DateTime::from_timestamp(seconds, 0).unwrap();
        time.with_timezone(&zone).fixed_offset().to_rfc3339()
    }

    #[test]
    fn a_zone_has_its_summer_time() {
        // 2026-01-15T12:00:00Z and 2026-07-15T12:00:00Z.
        let (winter, summer) = (1_768_478_400, 1_784_116_800);
        assert_eq!(local("Europe/Berlin", winter), "2026-01-15T13:00:00+01:00");
        assert_eq!(local("Europe/Berlin", summer), "2026-07-15T14:00:00+02:00");
        assert_eq!(
            local("America/New_York", winter),
            "2026-01-15T07:00:00-05:00"
        );
        assert_eq!(local("Asia/Kolkata", winter), "2026-01-15T17:30:00+05:30");
        assert_eq!(local("UTC", winter), "2026-01-15T12:00:00+00:00");
        assert_eq!(
            UTC.offset_from_utc_date(&NaiveDate::MIN)
                .fix()
                .local_minus_utc(),
            0
        );
    }

    #[test]
    fn unknown_names_are_errors() {
        for name in [
            "",
            "europe/berlin",
            "Mars/Base",
            "Etc/Unknown",
            "Local",
            "+01:00",
        ] {
            assert_eq!(name.parse::<Tz>().unwrap_err(), UnknownZone, "{name}");
        }
    }

    #[test]
    fn local_times_can_be_missing_and_ambiguous() {
        let zone: Tz = "Europe/Berlin".parse().unwrap();
        let at = |month, day, hour| {
            let date = NaiveDate::from_ymd_opt(2026, month, day).unwrap();
            let offset = zone.offset_from_local_datetime(&date.and_hms_opt(hour, 30, 0).unwrap());
            offset.map(|offset| offset.fix().local_minus_utc() / 3600)
        };
        assert_eq!(at(3, 29, 2), MappedLocalTime::None);
        assert_eq!(at(10, 25, 2), MappedLocalTime::Ambiguous(2, 1));
        assert_eq!(at(10, 25, 3), MappedLocalTime::Single(1));
        let day = NaiveDate::from_ymd_opt(2026, 7, 1).unwrap();
        let offset = zone.offset_from_local_date(&day).unwrap();
        assert_eq!(offset.fix().local_minus_utc(), 7200);
        assert_eq!(Tz::from_offset(&offset).0, zone.0);
    }

    /// The years of `chrono` reach further than those of `jiff`.
    #[test]
    fn years_without_end_have_an_offset() {
        let zone: Tz = "Europe/Berlin".parse().unwrap();
        for time in [NaiveDateTime::MIN, NaiveDateTime::MAX] {
            assert!(zone.offset_from_utc_datetime(&time).fix().local_minus_utc() > 0);
            assert!(zone.offset_from_local_datetime(&time).single().is_some());
        }
    }
}
