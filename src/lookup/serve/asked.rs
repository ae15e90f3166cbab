//! What is asked for: a DID in a path, options in a query or a body.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use url::form_urlencoded;

use super::answer::{Refusal, Unsupported};
use crate::did::json::parse_strict;
use crate::did::{Did, ErrorCode};
use crate::resolver::{Failure, ResolutionOptions, Sidecar};

/// The method this server resolves.
const METHOD: &str = "btcr2";

/// Reads the path's last part, percent-decoded.
///
/// A DID of another method, and a DID URL with a path, query or fragment, are not wrong: they are not
/// resolved here.
pub(super) fn identifier(text: &str) -> Result<Did, Refusal> {
    let method = text
        .strip_prefix("did:")
        .and_then(|rest| rest.split_once(':'))
        .filter(|(method, id)| {
            let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            !method.is_empty() && !id.is_empty() && method.bytes().all(is_name)
        });
    if let Some((method, _)) = method
        && method != METHOD
    {
        return Err(Refusal::Unsupported(
            Unsupported::Method,
            format!("this server resolves did:{METHOD} only"),
        ));
    }
    let (did, rest) = match text.find(['/', '?', '#', ';']) {
        Some(end) => text.split_at_checked(end).unwrap_or((text, "")),
        None => (text, ""),
    };
    let did: Did = did.parse().map_err(Failure::from)?;
    if rest.is_empty() {
        Ok(did)
    } else {
        Err(Refusal::Unsupported(
            Unsupported::Feature,
            "DID URLs are not dereferenced here: ask for the DID, with options as query parameters"
                .to_owned(),
        ))
    }
}

/// Reads the options of a query.
pub(super) fn query(query: &str) -> Result<ResolutionOptions, Refusal> {
    let (mut id, mut time, mut min_conf) = (None, None, None);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let place = match name.as_ref() {
            "versionId" => &mut id,
            "versionTime" => &mut time,
            "minConf" => &mut min_conf,
            // Nothing is cached between requests that could be out of date.
            "noCache" => continue,
            "service" | "serviceType" | "relativeRef" | "hl" => {
                return Err(Refusal::Unsupported(
                    Unsupported::Feature,
                    "DID URLs are not dereferenced here".to_owned(),
                ));
            }
            "sidecar" => {
                return Err(invalid("a sidecar does not fit a URL: send it by POST").into());
            }
            _ => return Err(unknown().into()),
        };
        if place.replace(value).is_some() {
            return Err(invalid(format!("{name} is given twice")).into());
        }
    }
    Ok(ResolutionOptions::from_text(
        id.as_deref(),
        time.as_deref(),
        min_conf.as_deref(),
    )?)
}

/// Reads the body of a POST: the options themselves, or, as the upstream test suite's `input.json` has
/// it, an object with `resolutionOptions` and perhaps the `did`. An empty body has no options.
pub(super) fn body(bytes: &[u8], did: &Did) -> Result<(ResolutionOptions, Sidecar), Refusal> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok((ResolutionOptions::default(), Sidecar::default()));
    }
    let outer = Members::parse(bytes)?;
    let Some(wrapped) = outer.get(WRAPPED) else {
        return outer.options();
    };
    let own_did = |raw: &RawValue| {
        serde_json::from_str::<String>(raw.get()).is_ok_and(|text| text == did.as_str())
    };
    for (name, raw) in &outer.0 {
        match name.as_str() {
            WRAPPED => {}
            DID if own_did(raw) => {}
            DID => return Err(invalid("the body's did is another than the path's").into()),
            _ => return Err(unknown().into()),
        }
    }
    Members::parse(wrapped.get().as_bytes())?.options()
}

const WRAPPED: &str = "resolutionOptions";
const DID: &str = "did";
const SIDECAR: &str = "sidecar";

/// The members of a JSON object, not yet read: a sidecar may be longer than a text that is read as a
/// whole, and is held to the rules of JSON piece by piece.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Members<'a> {
    fn parse(text: &'a [u8]) -> Result<Self, Refusal> {
        serde_json::from_slice(text)
            .map_err(|error| invalid(format!("the body is refused: {error}")).into())
    }

    fn get(&self, name: &str) -> Option<&'a RawValue> {
        let found = self.0.iter().find(|(member, _)| member == name);
        found.map(|(_, raw)| *raw)
    }

    fn options(&self) -> Result<(ResolutionOptions, Sidecar), Refusal> {
        let mut rest = Map::new();
        for (name, raw) in &self.0 {
            match name.as_str() {
                SIDECAR => {}
                "versionId" | "versionTime" | "minConf" => {
                    let value = parse_strict(raw.get())
                        .map_err(|error| invalid(format!("{name}: {error}")))?;
                    rest.insert(name.clone(), value);
                }
                "noCache" => {}
                _ => return Err(unknown().into()),
            }
        }
        let (options, _) = ResolutionOptions::from_json(&Value::Object(rest))?;
        let sidecar = self.get(SIDECAR).map(|raw| Sidecar::parse(raw.get()));
        Ok((options, sidecar.transpose()?.unwrap_or_default()))
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(String, &RawValue)> = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if members.iter().any(|(other, _)| *other == name) {
                        return Err(A::Error::custom("a name occurs twice"));
                    }
                    if members.len() == MAX_MEMBERS {
                        return Err(A::Error::custom(
                            "it has more members than there are options",
                        ));
                    }
                    members.push((name, map.next_value()?));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// More than there are options.
const MAX_MEMBERS: usize = 16;

fn unknown() -> Failure {
    // An option that is not understood could be one that matters.
    invalid(
        "an option is unknown: versionId, versionTime, minConf and, in a POST, sidecar are known",
    )
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::InvalidOptions, message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::resolver::VersionChoice;
    use crate::time::UnixTime;

    /// The first DID of the vectors.
    const ALICE: &str = "did:btcr2:k1q5p27vtztzx8sc4aqgkhfpu45wq28kkgh8cz7lsxf4qf3hmfylj2zfgq08ltl";

    fn did() -> Did {
        ALICE.parse().unwrap()
    }

    fn said<T: std::fmt::Debug>(outcome: Result<T, Refusal>) -> String {
        match outcome {
            Err(Refusal::Failure(failure)) => failure.code.to_string(),
            Err(Refusal::Unsupported(error, _)) => format!("{error:?}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn dids_other_methods_and_did_urls_are_told_apart() {
        assert_eq!(identifier(ALICE).unwrap(), did());
        for (text, expected) in [
            (String::new(), "INVALID_DID"),
            ("garbage".to_owned(), "INVALID_DID"),
            ("did:".to_owned(), "INVALID_DID"),
            ("did:btcr2:".to_owned(), "INVALID_DID"),
            ("did:btcr2:k1".to_owned(), "INVALID_DID"),
            (ALICE.to_uppercase(), "INVALID_DID"),
            (format!("{ALICE}q"), "INVALID_DID"),
            ("did:key".to_owned(), "INVALID_DID"),
            ("did:Key:z6Mk".to_owned(), "INVALID_DID"),
            ("did:key:z6Mk".to_owned(), "Method"),
            ("did:key:z6Mk#z6Mk".to_owned(), "Method"),
            (format!("{ALICE}#initialKey"), "Feature"),
            (format!("{ALICE}/path"), "Feature"),
            (format!("{ALICE}?versionId=2"), "Feature"),
            ("did:btcr2:k1#initialKey".to_owned(), "INVALID_DID"),
            ("did:btcr2:\u{e9}\0".to_owned(), "INVALID_DID"),
        ] {
            assert_eq!(said(identifier(&text)), expected, "{text}");
        }
    }

    #[test]
    fn queries_hold_known_options_once() {
        assert_eq!(query("").unwrap(), ResolutionOptions::default());
        let options = query("versionTime=2026-11-20T12%3A00%3A00Z&minConf=1&noCache=true").unwrap();
        assert_eq!(
            options,
            ResolutionOptions {
                version: Some(VersionChoice::Time(UnixTime(1_795_176_000))),
                min_conf: 1
            }
        );
        for (text, expected) in [
            ("versionId=1&versionId=1", "INVALID_OPTIONS"),
            (
                "versionId=1&versionTime=2026-11-20T12:00:00Z",
                "INVALID_OPTIONS",
            ),
            ("versionId=one", "INVALID_OPTIONS"),
            ("versionid=1", "INVALID_OPTIONS"),
            ("minConf=0", "INVALID_OPTIONS"),
            ("sidecar={}", "INVALID_OPTIONS"),
            ("service=files", "Feature"),
        ] {
            assert_eq!(said(query(text)), expected, "{text}");
        }
    }

    #[test]
    fn bodies_are_the_options_or_hold_them() {
        let wanted = ResolutionOptions {
            version: Some(VersionChoice::Id(3)),
            min_conf: 2,
        };
        let bare = r#"{"versionId":"3","minConf":2}"#;
        for text in [
            bare.to_owned(),
            format!("\n{bare}\n"),
            format!(r#"{{"resolutionOptions":{bare}}}"#),
            format!(r#"{{"did":"{ALICE}","resolutionOptions":{bare}}}"#),
        ] {
            assert_eq!(body(text.as_bytes(), &did()).unwrap().0, wanted, "{text}");
        }
        let update = r#"{"sidecar":{"updates":[{"a":1}]},"noCache":"true"}"#;
        let (_, sidecar) = body(update.as_bytes(), &did()).unwrap();
        assert_eq!(sidecar.updates().len(), 1);
        for text in ["", " \n"] {
            let (options, sidecar) = body(text.as_bytes(), &did()).unwrap();
            assert_eq!(options, ResolutionOptions::default());
            assert!(sidecar.is_empty());
        }
        for text in [
            "[]",
            "null",
            "{",
            r#"{"versionId":3}"#,
            r#"{"versionId":"3","versionId":"3"}"#,
            r#"{"resolutionOptions":null}"#,
            r#"{"did":"did:btcr2:k1q","resolutionOptions":{}}"#,
            r#"{"did":null,"resolutionOptions":{}}"#,
            r#"{"versionid":"3"}"#,
            r#"{"versionId":"3","resolutionOptions":{}}"#,
            r#"{"sidecar":{"updates":{}}}"#,
            r#"{"sidecar":{"updates":[{"a":1,"a":2}]}}"#,
            &"[".repeat(100_000),
            "\u{feff}{}",
        ] {
            let said = said(body(text.as_bytes(), &did()));
            assert_eq!(said, "INVALID_OPTIONS", "{text:.60}");
        }
    }

    proptest! {
        #[test]
        fn foreign_texts_never_panic(text in "\\PC{0,120}") {
            let _ = identifier(&text);
            let _ = identifier(&format!("{ALICE}{text}"));
            let _ = query(&text);
            let _ = body(text.as_bytes(), &did());
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = body(&bytes, &did());
        }
    }
}
