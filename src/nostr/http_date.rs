//! Dates of HTTP (RFC 9110 §5.6.7, `Sat, 21 Nov 2026 06:02:40 GMT`): how a relay tells its time.

use crate::time::UnixTime;

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Reads a date in the fixed form, the only one that is written today. The day of the week is not
/// compared.
#[must_use]
pub fn read(text: &str) -> Option<UnixTime> {
    let (_, date) = text.trim().split_once(", ")?;
    let mut parts = date.split(' ');
    let day: u64 = parts.next()?.parse().ok()?;
    let name = parts.next()?;
    let month = MONTHS.iter().position(|month| *month == name)?;
    let year: u64 = parts.next()?.parse().ok()?;
    let mut clock = parts.next()?.split(':').map(str::parse::<u64>);
    let mut field = || clock.next()?.ok();
    let (hour, minute, second) = (field()?, field()?, field()?);
    let fits = (1..=31).contains(&day)
        && (1970..=9999).contains(&year)
        && hour < 24
        && minute < 60
        && second <= 60
        && parts.next() == Some("GMT");
    if !fits {
        return None;
    }
    let days = days_before(year, month) + day - 1;
    Some(UnixTime(
        days * 86_400 + hour * 3_600 + minute * 60 + second,
    ))
}

/// Writes a date. Years beyond 9999 do not occur.
#[must_use]
pub fn write(at: UnixTime) -> String {
    let (days, seconds) = (at.0 / 86_400, at.0 % 86_400);
    let (mut year, mut month) = (1970 + days / 366, 0);
    while days_before(year + 1, 0) <= days {
        year += 1;
    }
    while month < 11 && days_before(year, month + 1) <= days {
        month += 1;
    }
    let week = usize::try_from(days % 7).unwrap_or(0);
    format!(
        "{}, {:02} {} {year} {:02}:{:02}:{:02} GMT",
        DAYS.get(week).copied().unwrap_or_default(),
        days - days_before(year, month) + 1,
        MONTHS.get(month).copied().unwrap_or_default(),
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60,
    )
}

/// Days from 1970-01-01 to the first of a month, counted from 0, of a year from 1970 on.
fn days_before(year: u64, month: usize) -> u64 {
    const LENGTHS: [u64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let leaps = |year: u64| year / 4 - year / 100 + year / 400;
    let is_leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let before = year.saturating_sub(1);
    let whole = (year.saturating_sub(1970)) * 365 + leaps(before) - leaps(1969);
    let months: u64 = LENGTHS.iter().take(month).sum();
    whole + months + u64::from(is_leap && month > 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_dates() {
        for (text, at) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            // The example of RFC 9110.
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Tue, 29 Feb 2000 12:00:00 GMT", 951_825_600),
            ("Thu, 31 Dec 2026 23:59:59 GMT", 1_798_761_599),
            ("Mon, 01 Mar 2100 00:00:00 GMT", 4_107_542_400),
        ] {
            assert_eq!(read(text), Some(UnixTime(at)), "{text}");
            assert_eq!(write(UnixTime(at)), text);
        }
        for text in [
            "",
            "yesterday",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 9999999999999999999 08:49:37 GMT",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_second_is_read_as_written(at in 0u64..253_402_300_800) {
            prop_assert_eq!(read(&write(UnixTime(at))), Some(UnixTime(at)));
        }

        #[test]
        fn nothing_panics(text in "\\PC{0,40}") {
            let _ = read(&text);
        }
    }
}
