//! Which form of the answer a client wants: the `Accept` header (RFC 9110 §12.5.1), for the media types
//! of DID documents and of DID Resolution results.

/// What an answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// The whole DID Resolution result.
    Result,
    /// The DID document alone.
    Document,
}

/// A form this server can answer in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Representation {
    /// Its `Content-Type`.
    pub media_type: &'static str,
    /// What it holds.
    pub content: Content,
    name: &'static str,
    /// The JSON-LD profile that has to be asked for.
    profile: Option<&'static str>,
}

const fn result(media_type: &'static str, name: &'static str) -> Representation {
    Representation {
        media_type,
        content: Content::Result,
        name,
        profile: None,
    }
}

const fn document(name: &'static str) -> Representation {
    Representation {
        media_type: name,
        content: Content::Document,
        name,
        profile: None,
    }
}

/// The profile by which older clients ask for a result.
const RESOLUTION_PROFILE: &str = "https://w3id.org/did-resolution";

/// The form of every answer whose client has no wish, and of every failure.
pub(super) const RESOLUTION_RESULT: Representation =
    result("application/did-resolution", "application/did-resolution");

/// Every form, the preferred first.
const REPRESENTATIONS: [Representation; 7] = [
    RESOLUTION_RESULT,
    Representation {
        profile: Some(RESOLUTION_PROFILE),
        ..result(
            "application/ld+json;profile=\"https://w3id.org/did-resolution\"",
            "application/ld+json",
        )
    },
    result("application/json", "application/json"),
    document("application/did"),
    document("application/did+ld+json"),
    document("application/did+json"),
    document("application/ld+json"),
];

/// The media types that can be asked for, for messages.
pub(super) fn media_types() -> String {
    REPRESENTATIONS.map(|form| form.media_type).join(", ")
}

/// The form to answer in; `None` if every one is ruled out.
///
/// `accept` is the value of the header, several joined by commas; `None` and an empty one accept
/// anything. The highest quality wins, then the place in the header, then our own preference: clients
/// of the Universal Resolver list the result before the document, without qualities.
pub(super) fn choose(accept: Option<&str>) -> Option<Representation> {
    let ranges: Vec<Range<'_>> = split_outside_quotes(accept.unwrap_or(""), ',')
        .filter_map(Range::parse)
        .collect();
    if ranges.is_empty() {
        let nothing_said = accept.is_none_or(|accept| accept.trim().is_empty());
        return nothing_said.then_some(RESOLUTION_RESULT);
    }
    let mut best: Option<(u16, usize, Representation)> = None;
    for form in REPRESENTATIONS {
        // What the most specific range says of a form goes before what wildcards say of it.
        let ranked = ranges
            .iter()
            .enumerate()
            .filter_map(|(place, range)| Some((range.specificity(&form)?, place, range.quality)))
            .max_by_key(|(specificity, place, _)| (*specificity, std::cmp::Reverse(*place)));
        let Some((_, place, quality)) = ranked.filter(|(_, _, quality)| *quality > 0) else {
            continue;
        };
        let better = best.is_none_or(|(best_quality, best_place, _)| {
            quality > best_quality || (quality == best_quality && place < best_place)
        });
        if better {
            best = Some((quality, place, form));
        }
    }
    best.map(|(_, _, form)| form)
}

/// One media range of an `Accept` header.
struct Range<'a> {
    name: &'a str,
    /// Whether it names the resolution profile.
    resolution: bool,
    /// In thousandths.
    quality: u16,
}

impl<'a> Range<'a> {
    /// A malformed range counts as not written; a malformed quality as none.
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = split_outside_quotes(text, ';').map(str::trim);
        let name = parts.next().filter(|name| name.contains('/'))?;
        let mut range = Self {
            name,
            resolution: false,
            quality: 1000,
        };
        for parameter in parts {
            let Some((key, value)) = parameter.split_once('=') else {
                continue;
            };
            let (key, value) = (key.trim(), value.trim().trim_matches('"'));
            if key.eq_ignore_ascii_case("q") {
                range.quality = quality(value)?;
            } else if key.eq_ignore_ascii_case("profile") {
                range.resolution = value.split(' ').any(|uri| uri == RESOLUTION_PROFILE);
            }
        }
        Some(range)
    }

    /// How exactly this range names a form; `None` if it does not.
    fn specificity(&self, form: &Representation) -> Option<u8> {
        if self.name == "*/*" {
            Some(0)
        } else if self.name.eq_ignore_ascii_case("application/*") {
            Some(1)
        } else if self.name.eq_ignore_ascii_case(form.name)
            && self.resolution == form.profile.is_some()
        {
            Some(2)
        } else {
            None
        }
    }
}

/// A weight in thousandths: 0 to 1 with at most three decimals.
fn quality(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let thousandths: u16 = format!("{decimals:0<3}").parse().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1000),
        _ => None,
    }
}

fn split_outside_quotes(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    text.split(move |c| {
        if escaped {
            escaped = false;
        } else if quoted && c == '\\' {
            escaped = true;
        } else if c == '"' {
            quoted = !quoted;
        } else if c == separator {
            return !quoted;
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LD_RESULT: &str = "application/ld+json;profile=\"https://w3id.org/did-resolution\"";

    fn chosen(accept: &str) -> &'static str {
        choose(Some(accept)).map_or("none", |form| form.media_type)
    }

    #[test]
    fn every_media_type_is_answered_with_itself() {
        for form in REPRESENTATIONS {
            assert_eq!(choose(Some(form.media_type)), Some(form));
            let shouted = form.name.to_ascii_uppercase();
            let profile = form
                .profile
                .map_or(String::new(), |uri| format!("; Profile=\"{uri}\""));
            assert_eq!(
                choose(Some(&format!(" {shouted}{profile} ; q=0.1 "))),
                Some(form)
            );
        }
        use Content::{Document, Result};
        assert_eq!(
            REPRESENTATIONS.map(|form| form.content),
            [
                Result, Result, Result, Document, Document, Document, Document
            ]
        );
    }

    #[test]
    fn who_has_no_wish_gets_the_result() {
        assert_eq!(choose(None), Some(RESOLUTION_RESULT));
        for accept in [
            "",
            " ",
            "*/*",
            "application/*",
            "text/html,application/xhtml+xml,*/*;q=0.8",
        ] {
            assert_eq!(chosen(accept), "application/did-resolution", "{accept}");
        }
    }

    #[test]
    fn quality_goes_first_then_the_place_in_the_header() {
        for (accept, expected) in [
            // What clients of the Universal Resolver send, now and in the past.
            (
                "application/did-resolution,application/did",
                "application/did-resolution",
            ),
            (
                "application/ld+json;profile=\"https://w3id.org/did-resolution\",application/did+ld+json",
                LD_RESULT,
            ),
            (
                "application/did,application/did-resolution",
                "application/did",
            ),
            ("application/did, */*", "application/did"),
            (
                "application/did;q=0.5, application/did+json;q=0.51",
                "application/did+json",
            ),
            (
                "application/did+json;q=0.9, application/json",
                "application/json",
            ),
            (
                "application/did;q=0, application/did+json",
                "application/did+json",
            ),
            // A wildcard does not bring back what was ruled out.
            ("application/did-resolution;q=0, */*;q=0.1", LD_RESULT),
            ("text/html, application/ld+json", "application/ld+json"),
            (
                "application/ld+json;profile=\"http://www.w3.org/ns/json-ld#compacted\"",
                "application/ld+json",
            ),
            (
                "application/ld+json;profile=\"a,b;c \\\" https://w3id.org/did-resolution\", application/did;q=0.1",
                LD_RESULT,
            ),
        ] {
            assert_eq!(chosen(accept), expected, "{accept}");
        }
    }

    #[test]
    fn what_is_not_there_is_not_replaced() {
        for accept in [
            "text/html",
            "application/did+cbor",
            "application/did-url-dereferencing",
            "application/did;q=0",
            "application/did;q=2",
            "application/did;q=0.1234",
            "*/*;q=0",
            "application/did-resolution;q=0, application/json;q=0, application/did+xml",
            "nonsense",
            ",;,",
        ] {
            assert_eq!(chosen(accept), "none", "{accept}");
        }
    }

    proptest! {
        #[test]
        fn foreign_headers_never_panic(accept in "\\PC{0,100}") {
            let _ = choose(Some(&accept));
        }

        #[test]
        fn headers_of_the_right_letters_never_panic(accept in "[a-z*/;,=\"\\\\ 0-9.q]{0,60}") {
            let _ = choose(Some(&accept));
        }
    }
}
