//! Time as a value. The core never reads a clock: whoever drives it passes the time in.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Seconds since 1970-01-01T00:00:00Z, as Nostr and Bitcoin count them.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// This time plus `seconds`; stays at the end of time instead of wrapping.
    #[must_use]
    pub const fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// This time minus `seconds`; stays at zero instead of wrapping.
    #[must_use]
    pub const fn minus(self, seconds: u64) -> Self {
        Self(self.0.saturating_sub(seconds))
    }

    /// Reads a date of HTTP (RFC 9110 §5.6.7), in any of its three forms.
    #[must_use]
    pub fn from_http_date(text: &str) -> Option<Self> {
        let at = httpdate::parse_http_date(text.trim()).ok()?;
        Some(Self(at.duration_since(UNIX_EPOCH).ok()?.as_secs()))
    }

    /// Writes a date of HTTP, `Sun, 06 Nov 1994 08:49:37 GMT`. What is later than the year 9999, of which there are no
    /// dates, is written as its end.
    #[must_use]
    pub fn to_http_date(self) -> String {
        const LAST: u64 = 253_402_300_799;
        httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(self.0.min(LAST)))
    }

    /// Seconds from `earlier` to this time, zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dates_of_http_are_read_and_written() {
        for (text, at) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            // The example of RFC 9110.
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Tue, 29 Feb 2000 12:00:00 GMT", 951_825_600),
            ("Thu, 31 Dec 2026 23:59:59 GMT", 1_798_761_599),
            ("Mon, 01 Mar 2100 00:00:00 GMT", 4_107_542_400),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 253_402_300_799),
        ] {
            assert_eq!(UnixTime::from_http_date(text), Some(UnixTime(at)), "{text}");
            assert_eq!(UnixTime(at).to_http_date(), text);
        }
        // The obsolete forms, which have to be read.
        for text in ["Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(
                UnixTime::from_http_date(text),
                Some(UnixTime(784_111_777)),
                "{text}"
            );
        }
        for text in [
            "",
            "yesterday",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 9999999999999999999 08:49:37 GMT",
        ] {
            assert_eq!(UnixTime::from_http_date(text), None, "{text}");
        }
        let last = UnixTime(253_402_300_799);
        assert_eq!(UnixTime(u64::MAX).to_http_date(), last.to_http_date());
    }

    proptest! {
        #[test]
        fn every_second_is_read_as_written(at in 0u64..253_402_300_800) {
            let at = UnixTime(at);
            prop_assert_eq!(UnixTime::from_http_date(&at.to_http_date()), Some(at));
        }

        #[test]
        fn no_date_panics(text in "\\PC{0,40}", at: u64) {
            let _ = UnixTime::from_http_date(&text);
            prop_assert!(UnixTime(at).to_http_date().ends_with(" GMT"));
        }
    }
}
