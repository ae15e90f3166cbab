//! Amounts, times and keys as people read them.

use bech32::{Bech32, Hrp};

use crate::keys::NostrKey;
use crate::time::UnixTime;

/// Groups digits by thousands: `1,234,567`.
#[must_use]
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// An amount: `12,345 sat`.
#[must_use]
pub fn sat(amount: u64) -> String {
    format!("{} sat", thousands(amount))
}

/// A length of time in its two largest units: `3 h 5 min`.
#[must_use]
pub fn duration(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (length, name) in UNITS {
        let number = rest / length;
        rest %= length;
        if number > 0 {
            parts.push(format!("{number} {name}"));
        } else if !parts.is_empty() {
            // `1 d 0 h 5 min` reads as `1 d`: what follows a zero does not matter.
            break;
        }
        if parts.len() == 2 {
            break;
        }
    }
    if parts.is_empty() {
        "0 s".to_owned()
    } else {
        parts.join(" ")
    }
}

/// How far away a time is: `in 3 h`, `2 min ago`, `now`.
#[must_use]
pub fn relative(now: UnixTime, time: UnixTime) -> String {
    match (time.since(now), now.since(time)) {
        (0, 0) => "now".to_owned(),
        (0, ago) => format!("{} ago", duration(ago)),
        (ahead, _) => format!("in {}", duration(ahead)),
    }
}

/// A point in time: `2026-11-20 23:21:05 UTC`.
#[must_use]
pub fn absolute(time: UnixTime) -> String {
    // Days since the epoch to a Gregorian date, in eras of 400 years that begin on 1 March
    // (Howard Hinnant, "chrono-compatible low-level date algorithms"). Years end at 9999.
    let seconds = time.0.min(253_402_300_799);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// A point in time and how far away it is.
#[must_use]
pub fn when(now: UnixTime, time: UnixTime) -> String {
    format!("{} ({})", absolute(time), relative(now, time))
}

/// A key in its NIP-19 form.
#[must_use]
pub fn npub(key: NostrKey) -> String {
    // 32 bytes always fit; the hex form is as good if they did not.
    bech32::encode::<Bech32>(Hrp::parse_unchecked("npub"), &key.to_bytes())
        .unwrap_or_else(|_| key.to_string())
}

/// Beginning and end of a key's NIP-19 form, for tables.
#[must_use]
pub fn short_npub(key: NostrKey) -> String {
    let full = npub(key);
    match (full.get(..12), full.get(full.len().saturating_sub(5)..)) {
        (Some(start), Some(end)) => format!("{start}…{end}"),
        _ => full,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(thousands(number), text);
        }
        assert_eq!(sat(u64::MAX), "18,446,744,073,709,551,615 sat");
    }

    #[test]
    fn durations_have_two_units_at_most() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3725, "1 h 2 min"),
            (86_405, "1 d"),
            (86_400 * 9 + 3600 * 5, "9 d 5 h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!(relative(UnixTime(100), UnixTime(40)), "1 min ago");
        assert_eq!(relative(UnixTime(40), UnixTime(100)), "in 1 min");
        assert_eq!(relative(UnixTime(40), UnixTime(40)), "now");
    }

    #[test]
    fn dates_known_answers() {
        // From `date -u -d @…`.
        for (time, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_230_768_000, "2009-01-01 00:00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
            (253_402_300_799, "9999-12-31 23:59:59 UTC"),
            (u64::MAX, "9999-12-31 23:59:59 UTC"),
        ] {
            assert_eq!(absolute(UnixTime(time)), text);
        }
    }

    #[test]
    fn npub_known_answer() {
        // The example of NIP-19.
        let key = "7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e";
        let key: NostrKey = key.parse().unwrap();
        assert_eq!(
            npub(key),
            "npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg"
        );
        assert_eq!(short_npub(key), "npub10elfcs4…vjptg");
    }
}
