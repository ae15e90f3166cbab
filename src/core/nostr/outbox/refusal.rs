//! Why a relay refused an event, from its words.

use serde::{Deserialize, Serialize};

/// A refusal, by what can be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Refusal {
    /// Too many events: wait, with everything for this relay.
    RateLimited,
    /// Authentication is wanted, and there was none or it was not enough (NIP-42).
    AuthRequired,
    /// Proof of work of so many bits is wanted (NIP-13); 0: it did not say how many.
    ProofOfWork(u8),
    /// Its clock and ours differ too much: `created_at` is too early or too late for it.
    Clock,
    /// The event has expired (NIP-40).
    Expired,
    /// The event is larger than it takes.
    TooLarge,
    /// It calls the event malformed: a fault of ours, or a relay with rules of its own.
    Invalid,
    /// It does not want this kind or this author.
    Blocked,
    /// Anything else; mostly a passing trouble of the relay.
    Other,
}

/// What a relay's answer to an event means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It has the event.
    Has,
    /// It does not take it.
    Refuses(Refusal),
}

/// Reads a negative answer. Relays write `prefix: text` (NIP-01), strfry also `ERROR: prefix: text`.
#[must_use]
pub fn classify(text: &str) -> Verdict {
    let text = text.trim().to_ascii_lowercase();
    let bare = text.strip_prefix("error:").unwrap_or(&text).trim_start();
    let (prefix, rest) = bare.split_once(':').unwrap_or(("", bare));
    let refusal = match prefix.trim() {
        "duplicate" => return Verdict::Has,
        "rate-limited" => Refusal::RateLimited,
        "auth-required" => Refusal::AuthRequired,
        "pow" => Refusal::ProofOfWork(first_number(rest)),
        _ if rest.contains("too large") || rest.contains("too big") => Refusal::TooLarge,
        "invalid" if rest.contains("created_at") => Refusal::Clock,
        "invalid" if rest.contains("expired") => Refusal::Expired,
        "invalid" => Refusal::Invalid,
        "blocked" | "restricted" | "mute" | "unsupported" => Refusal::Blocked,
        _ if bare.contains("already have") => return Verdict::Has,
        _ if bare.contains("rate limit") || bare.contains("slow down") => Refusal::RateLimited,
        _ if bare.contains("web of trust") || bare.contains("not permitted") => Refusal::Blocked,
        _ => Refusal::Other,
    };
    Verdict::Refuses(refusal)
}

fn first_number(text: &str) -> u8 {
    text.split(|c: char| !c.is_ascii_digit())
        .find_map(|digits| digits.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_real_relays() {
        for (text, expected) in [
            ("duplicate: have this event", Verdict::Has),
            (
                "rate-limited: slow down there chief",
                Verdict::Refuses(Refusal::RateLimited),
            ),
            (
                "ERROR: rate-limited: x",
                Verdict::Refuses(Refusal::RateLimited),
            ),
            (
                "ERROR: auth-required: relay needs serviceUrl to be configured before AUTH can work",
                Verdict::Refuses(Refusal::AuthRequired),
            ),
            (
                "pow: 28 bits needed. (9)",
                Verdict::Refuses(Refusal::ProofOfWork(28)),
            ),
            (
                "pow: difficulty 25>=30 not met",
                Verdict::Refuses(Refusal::ProofOfWork(25)),
            ),
            ("pow: more", Verdict::Refuses(Refusal::ProofOfWork(0))),
            (
                "invalid: created_at too late",
                Verdict::Refuses(Refusal::Clock),
            ),
            ("invalid: event expired", Verdict::Refuses(Refusal::Expired)),
            (
                "invalid: ephemeral event expired",
                Verdict::Refuses(Refusal::Expired),
            ),
            (
                "invalid: event too large: 70000",
                Verdict::Refuses(Refusal::TooLarge),
            ),
            ("invalid: bad signature", Verdict::Refuses(Refusal::Invalid)),
            (
                "blocked: kind 8327 not permitted",
                Verdict::Refuses(Refusal::Blocked),
            ),
            (
                "restricted: members only",
                Verdict::Refuses(Refusal::Blocked),
            ),
            (
                "blocked: not in our web of trust",
                Verdict::Refuses(Refusal::Blocked),
            ),
            (
                "not in our web of trust",
                Verdict::Refuses(Refusal::Blocked),
            ),
            (
                "error: could not connect to the database",
                Verdict::Refuses(Refusal::Other),
            ),
            ("", Verdict::Refuses(Refusal::Other)),
        ] {
            assert_eq!(classify(text), expected, "{text}");
        }
    }
}
