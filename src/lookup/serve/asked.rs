//! What is asked for: a DID in a path, options in a query or a body.

use serde_json::Value;
use url::form_urlencoded;

use super::answer::{Refusal, RequestError};
use crate::did::{Did, ErrorCode};
use crate::did::json::parse_strict;
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
        return Err(Refusal::Request(
            RequestError::MethodNotSupported,
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
        Err(Refusal::Request(
            RequestError::FeatureNotSupported,
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
                return Err(Refusal::Request(
                    RequestError::FeatureNotSupported,
                    "DID URLs are not dereferenced here".to_owned(),
                ));
            }
            "sidecar" => {
                return Err(invalid("a sidecar does not fit a URL: send it by POST").into());
            }
            // An option that is not understood could be one that matters.
            _ => {
                return Err(invalid(
                    "an option is unknown: versionId, versionTime and minConf are known",
                )
                .into());
            }
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
    let value = parse_strict(bytes).map_err(|error| invalid(format!("the body: {error}")))?;
    let Some(wrapped) = value.get("resolutionOptions") else {
        return Ok(ResolutionOptions::from_json(&value)?);
    };
    match value.get("did") {
        None => {}
        Some(Value::String(other)) if other == did.as_str() => {}
        Some(_) => {
            return Err(invalid("the body's did is another than the path's").into());
        }
    }
    Ok(ResolutionOptions::from_json(wrapped)?)
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
    const DID: &str = "did:btcr2:k1q5p27vtztzx8sc4aqgkhfpu45wq28kkgh8cz7lsxf4qf3hmfylj2zfgq08ltl";

    fn did() -> Did {
        DID.parse().unwrap()
    }

    fn said<T: std::fmt::Debug>(outcome: Result<T, Refusal>) -> String {
        match outcome {
            Err(Refusal::Failure(failure)) => failure.code.to_string(),
            Err(Refusal::Request(error, _)) => format!("{error:?}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn dids_other_methods_and_did_urls_are_told_apart() {
        assert_eq!(identifier(DID).unwrap(), did());
        for (text, expected) in [
            (String::new(), "INVALID_DID"),
            ("garbage".to_owned(), "INVALID_DID"),
            ("did:".to_owned(), "INVALID_DID"),
            ("did:btcr2:".to_owned(), "INVALID_DID"),
            ("did:btcr2:k1".to_owned(), "INVALID_DID"),
            (DID.to_uppercase(), "INVALID_DID"),
            (format!("{DID}q"), "INVALID_DID"),
            ("did:key".to_owned(), "INVALID_DID"),
            ("did:Key:z6Mk".to_owned(), "INVALID_DID"),
            ("did:key:z6Mk".to_owned(), "MethodNotSupported"),
            ("did:key:z6Mk#z6Mk".to_owned(), "MethodNotSupported"),
            (format!("{DID}#initialKey"), "FeatureNotSupported"),
            (format!("{DID}/path"), "FeatureNotSupported"),
            (format!("{DID}?versionId=2"), "FeatureNotSupported"),
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
            ("versionId=1&versionTime=2026-11-20T12:00:00Z", "INVALID_OPTIONS"),
            ("versionId=one", "INVALID_OPTIONS"),
            ("versionid=1", "INVALID_OPTIONS"),
            ("minConf=0", "INVALID_OPTIONS"),
            ("sidecar={}", "INVALID_OPTIONS"),
            ("service=files", "FeatureNotSupported"),
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
            format!(r#"{{"did":"{DID}","resolutionOptions":{bare}}}"#),
        ] {
            assert_eq!(body(text.as_bytes(), &did()).unwrap().0, wanted, "{text}");
        }
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
            let _ = identifier(&format!("{DID}{text}"));
            let _ = query(&text);
            let _ = body(text.as_bytes(), &did());
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = body(&bytes, &did());
        }
    }
}
