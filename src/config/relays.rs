//! `relays.toml`: the relays the agent uses.

use std::path::{Path, PathBuf};

use crate::nostr::RelayUrl;
use crate::nostr::outbox::Budget;
use serde::Deserialize;
use toml::Spanned;

use super::address::{Reach, reach};
use super::home::Home;
use super::source::{line_of, one_line};
use crate::network::Network;

/// The most relays in a list.
pub const RELAYS_MAX: usize = 64;

/// The largest list read, in bytes.
const FILE_MAX: usize = 1 << 18;

/// The list of this program.
const EMBEDDED: &str = include_str!("../../relays.toml");

/// Who named a relay, which decides where it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provenance {
    /// The owner of this agent: in the home's own files or on the command line. Any address.
    ByHand,
    /// Anybody else: this program, an advert, a channel message. Public hosts over TLS only.
    Foreign,
}

/// A relay of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayEntry {
    /// Its address.
    pub url: RelayUrl,
    /// Events are asked from it.
    pub read: bool,
    /// Events are sent to it.
    pub write: bool,
    /// The networks it is used for.
    pub networks: Vec<Network>,
    /// How much it may be sent; none: as much as there is.
    pub budget: Option<Budget>,
}

/// Why a relay or a list of relays is refused. One line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The file can not be read.
    #[error("cannot read {path}: {reason}", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// The list is malformed.
    #[error("{file}, line {line}: {message}", file = .file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong and what is allowed.
        message: String,
    },
    /// A text is not the address of a relay.
    #[error("{text:?} is not the address of a relay: use wss://host or wss://host/path")]
    NotRelay {
        /// The text.
        text: String,
    },
    /// An address holds a user name or password.
    #[error("an address of a relay holds no user or password")]
    Credentials,
    /// A host is not public, and it was not named by hand.
    #[error(
        "{url} is on this machine or a private network: name it in the home's relays.toml or with --relay to allow it"
    )]
    Private {
        /// The address.
        url: String,
    },
    /// A host is not reached over TLS, and it was not named by hand.
    #[error(
        "{url} is not encrypted: use wss://, or name it in the home's relays.toml or with --relay"
    )]
    NotEncrypted {
        /// The address.
        url: String,
    },
    /// A relay that is neither read nor written.
    #[error("{url} is neither read nor written: leave it out")]
    Unused {
        /// The address.
        url: String,
    },
    /// A budget without meaning.
    #[error("{url}: per_minute and burst are numbers of events from 1 to 60000")]
    Budget {
        /// The address.
        url: String,
    },
    /// A burst without a budget.
    #[error("{url}: burst says how many of per_minute may go at once: give per_minute too")]
    BurstAlone {
        /// The address.
        url: String,
    },
    /// A relay that is listed twice.
    #[error("{url} is listed twice")]
    Twice {
        /// The address.
        url: String,
    },
}

/// Parses the address of a relay: ws or wss, with a host, without user, password or fragment.
pub(super) fn parse_url(text: &str) -> Result<RelayUrl, RelayError> {
    let refused = || RelayError::NotRelay {
        text: text.to_owned(),
    };
    let parsed = url::Url::parse(text).map_err(|_| refused())?;
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(RelayError::Credentials);
    }
    if parsed.fragment().is_some() || !parsed.has_host() {
        return Err(refused());
    }
    RelayUrl::parse(text).map_err(|_| refused())
}

impl RelayEntry {
    /// A relay for reading, writing and every network.
    ///
    /// # Errors
    /// [`RelayError`] if `text` is not an address, or not one that `provenance` allows.
    pub fn parse(text: &str, provenance: Provenance) -> Result<Self, RelayError> {
        let url = parse_url(text)?;
        provenance.check(&url)?;
        Ok(Self {
            url,
            read: true,
            write: true,
            networks: Network::ALL.to_vec(),
            budget: None,
        })
    }
}

impl Provenance {
    /// Refuses an address this provenance does not allow. Only the form of the host is judged: a
    /// public name can resolve to a private address, which the connection refuses.
    ///
    /// # Errors
    /// [`RelayError::Private`], [`RelayError::NotEncrypted`].
    pub fn check(self, url: &RelayUrl) -> Result<(), RelayError> {
        let text = || url.as_str().to_owned();
        if self == Self::ByHand {
            return Ok(());
        }
        match url
            .to_url()
            .as_ref()
            .and_then(url::Url::host)
            .map(|host| reach(&host))
        {
            Some(Reach::Public) => {}
            // An advert must not make every member open a Tor circuit.
            Some(Reach::Local | Reach::Onion) | None => {
                return Err(RelayError::Private { url: text() });
            }
        }
        if url.as_str().starts_with("wss://") {
            Ok(())
        } else {
            Err(RelayError::NotEncrypted { url: text() })
        }
    }
}

/// The relays of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayList {
    entries: Vec<RelayEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    relay: Vec<Spanned<Row>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    url: String,
    #[serde(default = "yes")]
    read: bool,
    #[serde(default = "yes")]
    write: bool,
    networks: Option<Vec<Network>>,
    per_minute: Option<u32>,
    burst: Option<u32>,
}

const fn yes() -> bool {
    true
}

impl RelayList {
    /// The home's own list where it has one, else the list of this program.
    ///
    /// # Errors
    /// [`RelayError`] with file and line.
    pub fn load(home: &Home) -> Result<Self, RelayError> {
        let path = home.relays_path();
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text, &path, Provenance::ByHand),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::embedded(),
            Err(error) => Err(RelayError::Unreadable {
                path,
                reason: error.to_string(),
            }),
        }
    }

    /// The list of this program.
    ///
    /// # Errors
    /// None: a test parses it.
    pub fn embedded() -> Result<Self, RelayError> {
        Self::parse(EMBEDDED, Path::new("relays.toml"), Provenance::Foreign)
    }

    /// The text of this program's list, for `init` and for people.
    #[must_use]
    pub const fn embedded_text() -> &'static str {
        EMBEDDED
    }

    /// Parses a list; `path` is for messages.
    ///
    /// # Errors
    /// [`RelayError::Malformed`] with the line.
    pub fn parse(text: &str, path: &Path, provenance: Provenance) -> Result<Self, RelayError> {
        let at = |offset: usize, message: String| RelayError::Malformed {
            file: path.to_owned(),
            line: line_of(text, offset),
            message,
        };
        if text.len() > FILE_MAX {
            return Err(at(0, format!("the list has more than {FILE_MAX} bytes")));
        }
        let file: File = toml::from_str(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            at(offset, one_line(error.message()))
        })?;
        if file.relay.len() > RELAYS_MAX {
            let message = format!("{} relays; use at most {RELAYS_MAX}", file.relay.len());
            return Err(at(0, message));
        }
        let mut entries: Vec<RelayEntry> = Vec::with_capacity(file.relay.len());
        for row in file.relay {
            let offset = row.span().start;
            let entry = row
                .into_inner()
                .check(provenance, &entries)
                .map_err(|error| at(offset, error.to_string()))?;
            entries.push(entry);
        }
        Ok(Self { entries })
    }

    /// The relays named by hand instead of a list, for reading, writing and every network.
    #[must_use]
    pub fn by_hand(urls: impl IntoIterator<Item = RelayUrl>) -> Self {
        let entries = urls
            .into_iter()
            .map(|url| RelayEntry {
                url,
                read: true,
                write: true,
                networks: Network::ALL.to_vec(),
                budget: None,
            })
            .collect();
        Self { entries }
    }

    /// Every relay of the list.
    #[must_use]
    pub fn entries(&self) -> &[RelayEntry] {
        &self.entries
    }

    /// The relays of a network.
    pub fn of(&self, network: Network) -> impl Iterator<Item = &RelayEntry> {
        self.entries
            .iter()
            .filter(move |entry| entry.networks.contains(&network))
    }
}

impl Row {
    fn check(
        self,
        provenance: Provenance,
        before: &[RelayEntry],
    ) -> Result<RelayEntry, RelayError> {
        let mut entry = RelayEntry::parse(&self.url, provenance)?;
        if before.iter().any(|other| other.url == entry.url) {
            return Err(RelayError::Twice { url: self.url });
        }
        if !self.read && !self.write {
            return Err(RelayError::Unused { url: self.url });
        }
        entry.read = self.read;
        entry.write = self.write;
        if let Some(networks) = self.networks {
            entry.networks = networks;
        }
        let url = || self.url.clone();
        entry.budget = match (self.per_minute, self.burst) {
            (None, None) => None,
            (None, Some(_)) => return Err(RelayError::BurstAlone { url: url() }),
            (Some(per_minute), burst) => {
                let burst = burst.unwrap_or(per_minute);
                if !(1..=60_000).contains(&per_minute) || !(1..=60_000).contains(&burst) {
                    return Err(RelayError::Budget { url: url() });
                }
                Some(Budget { per_minute, burst })
            }
        };
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, provenance: Provenance) -> Result<RelayList, String> {
        RelayList::parse(text, Path::new("relays.toml"), provenance).map_err(|e| e.to_string())
    }

    #[test]
    fn budgets_are_read_and_checked() {
        let budget = |fields: &str| {
            let text = format!("[[relay]]\nurl = \"wss://a.example\"\n{fields}");
            parse(&text, Provenance::ByHand).map(|list| list.entries()[0].budget)
        };
        let is = |per_minute, burst| Ok(Some(Budget { per_minute, burst }));
        assert_eq!(budget(""), Ok(None));
        assert_eq!(budget("per_minute = 60"), is(60, 60));
        assert_eq!(budget("per_minute = 60\nburst = 5"), is(60, 5));
        for wrong in ["per_minute = 0", "per_minute = 60\nburst = 0", "burst = 5"] {
            let refused = budget(wrong).unwrap_err();
            assert!(refused.contains("per_minute"), "{refused}");
        }
    }

    #[test]
    fn the_embedded_list_is_public_and_serves_every_network_but_regtest() {
        let list = RelayList::embedded().unwrap();
        assert!(list.entries().len() >= 4);
        for network in Network::ALL {
            let writable = list.of(network).filter(|relay| relay.write).count();
            match network {
                Network::Regtest => assert_eq!(writable, 0),
                _ => assert!(writable >= 4, "{network}"),
            }
        }
    }

    #[test]
    fn an_entry_has_defaults_and_settings() {
        let list = parse(
            "[[relay]]\nurl = \"wss://a.example\"\n\
             [[relay]]\nurl = \"wss://b.example/\"\nread = false\nnetworks = [\"signet\"]\n",
            Provenance::ByHand,
        )
        .unwrap();
        let [a, b] = list.entries() else {
            panic!("{list:?}")
        };
        assert_eq!(
            (a.read, a.write, &*a.networks),
            (true, true, &Network::ALL[..])
        );
        assert_eq!(
            (b.read, b.write, &*b.networks),
            (false, true, &[Network::Signet][..])
        );
        assert_eq!(list.of(Network::Regtest).count(), 1);
    }

    #[test]
    fn local_and_unencrypted_relays_are_taken_by_hand_only() {
        for (url, why) in [
            ("ws://127.0.0.1:7777", "private network"),
            ("wss://192.168.1.4", "private network"),
            ("wss://localhost", "private network"),
            ("wss://[::1]", "private network"),
            ("wss://abcdef.onion", "private network"),
            ("ws://relay.example.com", "not encrypted"),
        ] {
            let text = format!("\n[[relay]]\nurl = {url:?}\n");
            let error = parse(&text, Provenance::Foreign).unwrap_err();
            assert!(error.starts_with("relays.toml, line 2: "), "{error}");
            assert!(error.contains(why) && error.contains(url), "{error}");
            assert_eq!(parse(&text, Provenance::ByHand).unwrap().entries().len(), 1);
        }
        assert!(RelayEntry::parse("wss://relay.example.com", Provenance::Foreign).is_ok());
    }

    #[test]
    fn malformed_lists_say_line_and_remedy() {
        let row = "[[relay]]\nurl = \"wss://a.example\"\n";
        for (text, line, words) in [
            (
                format!("{row}\n[[relay]]\nurl = \"wss://a.example/\"\n"),
                4,
                "listed twice",
            ),
            (format!("{row}raed = true\n"), 3, "unknown field `raed`"),
            (format!("{row}read = 1\n"), 3, "expected a boolean"),
            (
                format!("{row}read = false\nwrite = false\n"),
                1,
                "neither read nor written",
            ),
            (format!("{row}networks = [\"mainnet\"]\n"), 3, "`bitcoin`"),
            (
                "[[relay]]\nread = true\n".to_owned(),
                1,
                "missing field `url`",
            ),
            (
                "[[relay]]\nurl = \"https://a.example\"\n".to_owned(),
                1,
                "use wss://host",
            ),
            (
                "[[relay]]\nurl = \"wss://u:p@a.example\"\n".to_owned(),
                1,
                "no user or password",
            ),
            ("[[relay]]\nurl = \"\"\n".to_owned(), 1, "use wss://host"),
            ("relays = []\n".to_owned(), 1, "unknown field `relays`"),
            ("\n\n[[relay\n".to_owned(), 3, ""),
        ] {
            let error = parse(&text, Provenance::ByHand).unwrap_err();
            assert!(
                error.starts_with(&format!("relays.toml, line {line}: ")),
                "{error}\n{text}"
            );
            assert!(error.contains(words), "{error}");
            assert!(!error.contains('\n'), "one line: {error}");
            assert!(!error.contains("u:p"), "no secrets: {error}");
        }
        let many = (0..65).map(|n| format!("[[relay]]\nurl = \"wss://r{n}.example\"\n"));
        let error = parse(&many.collect::<String>(), Provenance::ByHand).unwrap_err();
        assert!(error.contains("use at most 64"), "{error}");
    }
}
