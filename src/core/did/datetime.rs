//! XML Schema dateTime with a time zone, as proofs and resolution options write it (spec.md §2.3, §2.7).

use std::fmt;
use std::str::FromStr;

use crate::time::UnixTime;

/// A moment between the years 1 and 9999, to the nanosecond; further digits are cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DateTime {
    /// Seconds since 1970-01-01T00:00:00Z.
    seconds: i64,
    nanos: u32,
}

/// Not `YYYY-MM-DDThh:mm:ss`, an optional fraction, and `Z` or `±hh:mm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a date and time with a time zone, like 2026-11-20T12:00:00Z")]
pub struct InvalidDateTime;

impl DateTime {
    /// The form the `versionTime` option has and metadata use: UTC, whole seconds, not before 1970.
    pub fn parse_utc_seconds(text: &str) -> Result<UnixTime, InvalidDateTime> {
        let time: Self = text.parse()?;
        // "YYYY-MM-DDThh:mm:ssZ" is the only form of 20 characters that ends in Z.
        if text.len() == 20 && text.ends_with('Z') {
            u64::try_from(time.seconds)
                .map(UnixTime)
                .map_err(|_| InvalidDateTime)
        } else {
            Err(InvalidDateTime)
        }
    }
}

impl From<UnixTime> for DateTime {
    fn from(time: UnixTime) -> Self {
        Self {
            seconds: i64::try_from(time.0).unwrap_or(i64::MAX),
            nanos: 0,
        }
    }
}

impl FromStr for DateTime {
    type Err = InvalidDateTime;

    fn from_str(text: &str) -> Result<Self, InvalidDateTime> {
        parse(text.as_bytes()).ok_or(InvalidDateTime)
    }
}

impl fmt::Display for DateTime {
    /// UTC, without a fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.seconds.div_euclid(86_400));
        let second = self.seconds.rem_euclid(86_400);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
        )
    }
}

fn parse(text: &[u8]) -> Option<DateTime> {
    let (head, rest) = text.split_at_checked(19)?;
    let [
        y0,
        y1,
        y2,
        y3,
        b'-',
        o0,
        o1,
        b'-',
        d0,
        d1,
        b'T',
        h0,
        h1,
        b':',
        m0,
        m1,
        b':',
        s0,
        s1,
    ] = *head
    else {
        return None;
    };
    let year = two(y0, y1)? * 100 + two(y2, y3)?;
    let (month, day) = (two(o0, o1)?, two(d0, d1)?);
    let (hour, minute, second) = (two(h0, h1)?, two(m0, m1)?, two(s0, s1)?);
    if year == 0 || !(1..=12).contains(&month) || day == 0 || day > days_in(year, month) {
        return None;
    }
    let (nanos, zone) = fraction(rest)?;
    // XML Schema writes the end of a day as 24:00:00 too.
    let midnight = hour == 24 && minute == 0 && second == 0 && nanos == 0;
    if (hour > 23 && !midnight) || minute > 59 || second > 59 {
        return None;
    }
    let local = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some(DateTime {
        seconds: local - offset(zone)?,
        nanos,
    })
}

/// Reads `.ddd`, if it is there; returns nanoseconds and what follows.
fn fraction(text: &[u8]) -> Option<(u32, &[u8])> {
    let Some(text) = text.strip_prefix(b".") else {
        return Some((0, text));
    };
    let count = text.iter().take_while(|b| b.is_ascii_digit()).count();
    let (digits, rest) = text.split_at_checked(count)?;
    let padded = digits.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanos = padded.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    (count > 0).then_some((nanos, rest))
}

/// Seconds east of UTC.
fn offset(zone: &[u8]) -> Option<i64> {
    match *zone {
        [b'Z'] => Some(0),
        [sign @ (b'+' | b'-'), h0, h1, b':', m0, m1] => {
            let (hours, minutes) = (two(h0, h1)?, two(m0, m1)?);
            let valid = minutes < 60 && (hours < 14 || (hours == 14 && minutes == 0));
            let seconds = hours * 3600 + minutes * 60;
            valid.then_some(if sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

fn two(tens: u8, ones: u8) -> Option<i64> {
    let digit = |b: u8| b.is_ascii_digit().then(|| i64::from(b - b'0'));
    Some(digit(tens)? * 10 + digit(ones)?)
}

const fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the Gregorian calendar. Years are counted from March, so that the leap day
/// is the last day of its year.
const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// The reverse of [`days_from_civil`].
const fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year_of_era;
    if month < 10 {
        (year, month + 3, day)
    } else {
        (year + 1, month - 9, day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        // `date -u -d @…` gave these.
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59Z", 951_868_799),
            ("2026-09-16T15:01:28Z", 1_789_570_888),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
        ] {
            assert_eq!(
                DateTime::parse_utc_seconds(text),
                Ok(UnixTime(seconds)),
                "{text}"
            );
            assert_eq!(DateTime::from(UnixTime(seconds)).to_string(), text);
        }
    }

    #[test]
    fn zones_and_fractions() {
        let at = |text: &str| text.parse::<DateTime>().unwrap();
        assert_eq!(at("2026-09-16T17:01:28+02:00"), at("2026-09-16T15:01:28Z"));
        assert_eq!(
            at("2026-09-16T14:31:28-00:30"),
            at("2026-09-16T15:01:28.000Z")
        );
        assert_eq!(at("2026-09-16T24:00:00Z"), at("2026-09-17T00:00:00Z"));
        assert!(at("2026-09-16T15:01:28.000000001Z") > at("2026-09-16T15:01:28Z"));
        assert!(at("1969-12-31T23:59:59.5Z") < at("1970-01-01T00:00:00Z"));
        assert_eq!(
            at("0001-01-01T00:00:00Z").to_string(),
            "0001-01-01T00:00:00Z"
        );
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "2026-09-16",
            "2026-09-16T15:01:28",
            "2026-09-16 15:01:28Z",
            "2026-02-29T00:00:00Z",
            "2100-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-04-00T00:00:00Z",
            "2026-04-01T24:00:01Z",
            "2026-04-01T00:60:00Z",
            "2026-04-01T00:00:60Z",
            "2026-04-01T00:00:00.Z",
            "2026-04-01T00:00:00z",
            "2026-04-01T00:00:00+14:01",
            "2026-04-01T00:00:00+0200",
            "0000-01-01T00:00:00Z",
            "+2026-04-01T00:00:00Z",
            "2026-04-01T00:00:00ZZ",
            "2026-04-01T0０:00:00Z",
        ] {
            assert_eq!(text.parse::<DateTime>(), Err(InvalidDateTime), "{text}");
        }
        for text in [
            "2026-09-16T17:01:28+02:00",
            "2026-09-16T15:01:28.0Z",
            "1969-12-31T23:59:59Z",
        ] {
            assert!(DateTime::parse_utc_seconds(text).is_err(), "{text}");
        }
    }
}
