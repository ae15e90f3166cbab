//! Settings from file, environment and command line.
//!
//! Each source is a list of settings: a dotted key, a value, and where it was set. They are applied
//! one at a time, later sources over earlier ones, so that whatever is wrong with one is said of the
//! place it was set at. Then [`Config::validate`] looks at the whole.

use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::home::Home;
use super::rules::{fault_in_range, walk};
use super::settings::Config;

/// Environment variables that start like this are settings: `BTCR2_AGENT__PARTICIPANT__MAX_COHORTS`
/// sets `participant.max_cohorts`.
pub const ENVIRONMENT_PREFIX: &str = "BTCR2_AGENT__";

/// The largest configuration file read, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// Where a setting was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: it is the default.
    Default,
    /// In a file, at this line, from 1.
    File(PathBuf, usize),
    /// In this environment variable.
    Environment(String),
    /// On the command line.
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}, line {line}", path.display()),
            Self::Environment(variable) => f.write_str(variable),
            Self::CommandLine => f.write_str("command line"),
        }
    }
}

/// Why the settings can not be used. One line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file can not be read.
    #[error("cannot read {path}: {reason}", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// The file is not TOML.
    #[error("{origin}: not TOML: {message}")]
    Syntax {
        /// Where.
        origin: Origin,
        /// What the parser said.
        message: String,
    },
    /// A setting is unknown, malformed, out of range or at odds with another.
    #[error("{origin}: {key}: {message}")]
    Setting {
        /// Where it was set.
        origin: Origin,
        /// The setting.
        key: String,
        /// What is wrong and what is allowed.
        message: String,
    },
}

/// One setting, from one source.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// Its dotted key, like `participant.max_cohorts`.
    pub key: String,
    /// Its value.
    pub value: Given,
    /// Where it was set.
    pub origin: Origin,
}

/// A value as its source gave it.
#[derive(Debug, Clone, PartialEq)]
pub enum Given {
    /// A typed value of a file.
    Value(toml::Value),
    /// Text of the environment or the command line: a number, `true` or `false`, a word, or a list
    /// separated by commas, as the setting needs.
    Text(String),
}

impl Setting {
    /// A setting from the command line's `--set key=value`.
    ///
    /// # Errors
    /// [`ConfigError::Setting`] if there is no `=`.
    pub fn from_argument(argument: &str) -> Result<Self, ConfigError> {
        let Some((key, text)) = argument.split_once('=') else {
            return Err(ConfigError::Setting {
                origin: Origin::CommandLine,
                key: argument.to_owned(),
                message: "use key=value".to_owned(),
            });
        };
        Ok(Self::text(key.trim(), text, Origin::CommandLine))
    }

    /// A setting from the command line, of a flag of its own.
    #[must_use]
    pub fn from_flag(key: &str, text: &str) -> Self {
        Self::text(key, text, Origin::CommandLine)
    }

    fn text(key: &str, text: &str, origin: Origin) -> Self {
        Self {
            key: key.to_owned(),
            value: Given::Text(text.trim().to_owned()),
            origin,
        }
    }
}

impl Config {
    /// Reads the home's `config.toml` (where there is one), then the environment, then the settings
    /// of the command line.
    ///
    /// `environment` is what [`std::env::vars`] gives; variables without [`ENVIRONMENT_PREFIX`] are
    /// left alone.
    ///
    /// # Errors
    /// [`ConfigError`], one line.
    pub fn load(
        home: &Home,
        environment: impl IntoIterator<Item = (String, String)>,
        command_line: Vec<Setting>,
    ) -> Result<Self, ConfigError> {
        let path = home.config_path();
        let mut settings = match read_file(&path)? {
            Some(text) => settings_of_file(&text, &path)?,
            None => Vec::new(),
        };
        settings.extend(settings_of_environment(environment));
        settings.extend(command_line);
        Self::from_settings(settings)
    }

    /// The settings a text in the form of `config.toml` gives; `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError`], one line.
    pub fn from_toml(text: &str, path: &Path) -> Result<Self, ConfigError> {
        Self::from_settings(settings_of_file(text, path)?)
    }

    /// Applies settings to the defaults, in order, and validates the whole.
    ///
    /// # Errors
    /// [`ConfigError::Setting`] with the origin of the setting at fault.
    pub fn from_settings(settings: Vec<Setting>) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        let mut origins = Vec::with_capacity(settings.len());
        for setting in settings {
            config = config.with(&setting)?;
            origins.push((setting.key, setting.origin));
        }
        config.validate().map_err(|fault| {
            // Where the setting was set; else where the one it is at odds with was.
            let exactly = origins.iter().rfind(|(key, _)| *key == fault.key);
            let other = || origins.iter().rfind(|(key, _)| fault.message.contains(key));
            let origin = exactly
                .or_else(other)
                .map_or(Origin::Default, |(_, origin)| origin.clone());
            ConfigError::Setting {
                origin,
                key: fault.key,
                message: fault.message,
            }
        })?;
        Ok(config)
    }

    /// A commented file for `init` that sets nothing: every setting with its meaning, range and
    /// default, ready to be uncommented.
    #[must_use]
    pub const fn default_toml() -> &'static str {
        include_str!("default.toml")
    }

    /// These settings, with one replaced.
    fn with(&self, setting: &Setting) -> Result<Self, ConfigError> {
        let refuse = |message: String| ConfigError::Setting {
            origin: setting.origin.clone(),
            key: setting.key.clone(),
            message: one_line(&message),
        };
        let mut table = toml::Table::try_from(self).map_err(|error| refuse(error.to_string()))?;
        let value = match &setting.value {
            Given::Value(value) => value.clone(),
            Given::Text(text) => typed(text, current(&table, &setting.key)),
        };
        if let Some(message) = fault_in_range(&setting.key, &value) {
            return Err(refuse(message));
        }
        if let Some(toml::Value::Boolean(_)) = current(&table, &setting.key)
            && !value.is_bool()
        {
            return Err(refuse(format!("{value} is neither true nor false")));
        }
        place(&mut table, &setting.key, value).map_err(&refuse)?;
        toml::Value::Table(table)
            .try_into()
            .map_err(|error: toml::de::Error| refuse(error.message().to_owned()))
    }
}

/// Reads a file of settings; `None` if there is none.
fn read_file(path: &Path) -> Result<Option<String>, ConfigError> {
    let unreadable = |reason: String| ConfigError::Unreadable {
        path: path.to_owned(),
        reason,
    };
    match std::fs::metadata(path) {
        Ok(found) if found.len() > FILE_MAX => {
            return Err(unreadable(format!("it is larger than {FILE_MAX} bytes")));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        _ => {}
    }
    std::fs::read_to_string(path)
        .map(Some)
        .map_err(|error| unreadable(error.to_string()))
}

/// Every setting of a file, in the order of its lines.
fn settings_of_file(text: &str, path: &Path) -> Result<Vec<Setting>, ConfigError> {
    let at = |offset: usize| Origin::File(path.to_owned(), line_of(text, offset));
    let syntax = |error: &toml::de::Error| ConfigError::Syntax {
        origin: at(error.span().map_or(0, |span| span.start)),
        message: one_line(error.message()),
    };
    let spanned = DeTable::parse(text).map_err(|error| syntax(&error))?;
    let table: toml::Table = toml::from_str(text).map_err(|error| syntax(&error))?;
    let mut places = Vec::new();
    collect_places(spanned.get_ref(), "", &mut places);
    if let Some((key, offset)) = places.iter().find(|(key, _)| key.contains('"')) {
        return Err(ConfigError::Setting {
            origin: at(*offset),
            key: key.clone(),
            message: "write the key without quotes".to_owned(),
        });
    }

    let mut settings = Vec::new();
    walk(&table, "", &mut |key, value| {
        let offset = places
            .iter()
            .find(|(place, _)| place == key)
            .map_or(0, |(_, offset)| *offset);
        settings.push((
            offset,
            Setting {
                key: key.to_owned(),
                value: Given::Value(value.clone()),
                origin: at(offset),
            },
        ));
    });
    settings.sort_by_key(|(offset, _)| *offset);
    Ok(settings.into_iter().map(|(_, setting)| setting).collect())
}

fn collect_places(table: &DeTable<'_>, prefix: &str, places: &mut Vec<(String, usize)>) {
    for (name, value) in table {
        // A name with a dot in it would read like two; no setting has one.
        let text = match name.get_ref() {
            text if text.contains('.') => format!("{text:?}"),
            text => text.to_string(),
        };
        let key = match prefix {
            "" => text,
            _ => format!("{prefix}.{text}"),
        };
        if let Some(inner) = value.get_ref().as_table() {
            collect_places(inner, &key, places);
        }
        places.push((key, name.span().start));
    }
}

fn settings_of_environment(
    environment: impl IntoIterator<Item = (String, String)>,
) -> Vec<Setting> {
    let mut settings: Vec<_> = environment
        .into_iter()
        .filter_map(|(variable, text)| {
            let name = variable.strip_prefix(ENVIRONMENT_PREFIX)?;
            let key = name.to_ascii_lowercase().replace("__", ".");
            Some(Setting::text(&key, &text, Origin::Environment(variable)))
        })
        .collect();
    // The environment has no order of its own: without one, messages would differ from run to run.
    settings.sort_by(|a, b| a.key.cmp(&b.key));
    settings
}

/// The present value of a setting, if it has one.
fn current<'t>(table: &'t toml::Table, key: &str) -> Option<&'t toml::Value> {
    let mut names = key.split('.');
    let first = table.get(names.next()?)?;
    names.try_fold(first, |value, name| value.as_table()?.get(name))
}

/// Text of environment or command line as the kind of value the setting has now.
fn typed(text: &str, now: Option<&toml::Value>) -> toml::Value {
    let word = || toml::Value::String(text.to_owned());
    match now {
        Some(toml::Value::Array(_)) => toml::Value::Array(
            text.split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(|item| toml::Value::String(item.to_owned()))
                .collect(),
        ),
        Some(toml::Value::Integer(_)) => text.parse().map_or_else(|_| word(), toml::Value::Integer),
        Some(toml::Value::Boolean(_)) => text.parse().map_or_else(|_| word(), toml::Value::Boolean),
        // Every setting that may be absent is a text.
        _ => word(),
    }
}

/// Puts a value at a dotted key.
fn place(table: &mut toml::Table, key: &str, value: toml::Value) -> Result<(), String> {
    let mut names: Vec<&str> = key.split('.').collect();
    let last = names.pop().filter(|name| !name.is_empty());
    let Some(last) = last else {
        return Err("a setting needs a name".to_owned());
    };
    let mut table = table;
    for name in names {
        let inner = table
            .entry(name)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()));
        table = match inner {
            toml::Value::Table(inner) => inner,
            _ => return Err(format!("{name} is a setting, not a group of settings")),
        };
    }
    match (table.get(last), &value) {
        // A group without settings changes nothing, if there is such a group.
        (Some(toml::Value::Table(_)), toml::Value::Table(given)) if given.is_empty() => {}
        (Some(toml::Value::Table(_)), _) => {
            return Err("is a group of settings: write it as a table".to_owned());
        }
        _ => {
            table.insert(last.to_owned(), value);
        }
    }
    Ok(())
}

/// The line of a byte offset, from 1.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    before.filter(|byte| **byte == b'\n').count() + 1
}

pub(super) fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::duration::Span;
    use super::super::rules::{RULES, rule_for};
    use super::super::settings::{Backend, BeaconChoice, WhenNoUpdate};
    use super::*;
    use crate::network::Network;

    fn parse(text: &str) -> Result<Config, String> {
        Config::from_toml(text, Path::new("config.toml")).map_err(|error| error.to_string())
    }

    fn environment(variables: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        variables.iter().map(owned).collect()
    }

    /// The default file with every commented setting in force.
    fn uncommented() -> String {
        let active = |line: &str| match line.strip_prefix('#') {
            Some(rest) if !rest.is_empty() && !rest.starts_with([' ', '#']) => rest.to_owned(),
            _ => line.to_owned(),
        };
        Config::default_toml()
            .lines()
            .map(|line| active(line) + "\n")
            .collect()
    }

    #[test]
    fn the_default_file_sets_nothing_and_uncommented_it_says_the_defaults() {
        assert_eq!(parse(Config::default_toml()), Ok(Config::default()));
        assert_eq!(
            toml::from_str::<toml::Table>(Config::default_toml()),
            Ok(toml::Table::new())
        );

        assert_eq!(parse(&uncommented()), Ok(Config::default()));
        let shown: toml::Table = toml::from_str(&uncommented()).unwrap();
        let defaults = toml::Table::try_from(Config::default()).unwrap();
        assert_eq!(
            shown, defaults,
            "every setting that has a default is shown with it"
        );
    }

    #[test]
    fn the_default_file_states_every_range() {
        let text = Config::default_toml();
        for rule in RULES {
            let name = rule.key.rsplit('.').next().unwrap();
            let described = text.split("\n\n").any(|paragraph| {
                let words = paragraph.replace("\n# ", " ");
                words.contains(name) && words.contains(&rule.to_string())
            });
            assert!(described, "{}: {rule}", rule.key);
        }
    }

    #[test]
    fn a_file_sets_what_it_says_and_nothing_else() {
        let npub = "npub180cvv07tjdrrgpa0j7j7tmnyl2yr6yr7l8j4s3evf6u64th6gkwsyjh6w6";
        let text = format!(
            "network = \"mutinynet\"\n\
             relays = [\"ws://127.0.0.1:7777\", \"wss://relay.example\"]\n\
             [participant]\n\
             when_no_update = \"idle\"\n\
             allowed_aggregators = [\"{npub}\"]\n\
             auto_join = true\n\
             [chain.regtest]\n\
             backend = \"bitcoind\"\n\
             cookie_file = \"/var/lib/bitcoin/regtest/.cookie\"\n\
             poll = \"2s\"\n"
        );
        let config = parse(&text).unwrap();
        let mut expected = Config {
            network: Network::Mutinynet,
            relays: config.relays.clone(),
            ..Config::default()
        };
        expected.participant.when_no_update = WhenNoUpdate::Idle;
        expected.participant.auto_join = true;
        // NIP-19's own example of this key.
        expected.participant.allowed_aggregators = vec![
            "3bf0c63fcb93463407af97a5e5ee64fa883d107ef9e558472c4eb9aaaefa459d"
                .parse()
                .unwrap(),
        ];
        expected.chain.regtest.backend = Backend::Bitcoind;
        expected.chain.regtest.cookie_file = Some("/var/lib/bitcoin/regtest/.cookie".into());
        expected.chain.regtest.poll = Span::from_seconds(2);
        assert_eq!(config, expected);
        assert_eq!(config.relays.len(), 2);
        assert_eq!(
            config.chain.of(Network::Regtest).url_for(Network::Regtest),
            "http://127.0.0.1:18443"
        );
        assert_eq!(
            config.chain.of(Network::Signet).url_for(Network::Signet),
            "https://mempool.space/signet/api"
        );
        // What is written reads back as what it was.
        assert_eq!(parse(&toml::to_string(&config).unwrap()), Ok(config));
    }

    #[test]
    fn malformed_files_say_line_key_and_what_is_allowed() {
        let list = format!("relays = [{}]", "\"wss://a.example\",".repeat(2));
        for (text, expected) in [
            (
                "netwrok = \"signet\"",
                "line 1: netwrok: unknown field `netwrok`, expected one of `network`",
            ),
            (
                "\nnetwork = \"mainnet\"",
                "line 2: network: unknown variant `mainnet`, expected one of `bitcoin`, `signet`",
            ),
            ("network = 3", "line 1: network: "),
            (
                "[participant]\nmax_member = 5",
                "line 2: participant.max_member: unknown field `max_member`",
            ),
            (
                "[participant]\nmax_members = 1001",
                "line 2: participant.max_members: 1001 is out of range; use 2 to 1000 members",
            ),
            ("[participant]\nmax_members = 1", "use 2 to 1000 members"),
            (
                "[participant]\nmax_members = -5",
                "-5 is out of range; use 2 to 1000 members",
            ),
            (
                "[participant]\nmax_members = \"ten\"",
                "\"ten\" is not a whole number; use 2 to 1000 members",
            ),
            (
                "[participant]\nmax_members = 5.0",
                "5.0 is not a whole number; use 2 to 1000 members",
            ),
            (
                "[participant]\nmax_fee_rate = nan",
                "nan is not a whole number; use 1 to 10000 sat/vB",
            ),
            (
                "[participant]\nauto_join = 1",
                "line 2: participant.auto_join: 1 is neither true nor false",
            ),
            (
                "[participant]\nauto_join = true",
                "line 2: participant.auto_join: needs participant.allowed_aggregators",
            ),
            (
                "[participant]\nmin_members = 60",
                "line 2: participant.min_members: is above participant.max_members, 50",
            ),
            (
                "[aggregator]\nmax_members = 3\nmin_members = 4",
                "line 3: aggregator.min_members: is above aggregator.max_members, 3",
            ),
            (
                "[participant]\nwhen_no_update = \"nothing\"",
                "expected `no-update` or `idle`",
            ),
            (
                "[participant]\nallowed_networks = []",
                "line 2: participant.allowed_networks: is empty",
            ),
            (
                "[participant]\nallowed_networks = [\"signet\", \"signet\"]",
                "lists signet twice",
            ),
            (
                "[participant]\nallowed_aggregators = [\"npub1x\"]",
                "is not a public key: use npub1",
            ),
            (
                "[participant]\nallowed_aggregators = [\"nsec1abc\"]",
                "a secret key does not belong here",
            ),
            (
                "[aggregator]\nsigning = \"2 hours\"",
                "\"2 hours\" is not a span of time: use a whole number and s, m, h or d, like \"12h\"; use 1s to 1d",
            ),
            (
                "[aggregator]\nsigning = 7200",
                "7200 is not a span of time; use 1s to 1d, in quotes",
            ),
            ("[aggregator]\nsigning = \"25h\"", "use 1s to 1d"),
            (
                "[aggregator]\ncadence = \"13h\"",
                "line 2: aggregator.cadence: is shorter than aggregator.response and aggregator.signing together, 14h",
            ),
            (
                "[aggregator]\nresponse = \"23h\"",
                "line 2: aggregator.cadence: is shorter than",
            ),
            (
                "[aggregator]\nbeacon = \"singleton\"",
                "expected `smt` or `cas`",
            ),
            ("relays = \"wss://a.example\"", "line 1: relays: "),
            (
                "relays = [\"a.example\"]",
                "line 1: relays: \"a.example\" is not the address of a relay: use wss://host",
            ),
            ("relays = [\"ws://abc.onion\"]", "needs privacy.proxy"),
            (&list, "lists wss://a.example twice"),
            (
                "[chain.mainnet]\npoll = \"1s\"",
                "chain.mainnet.poll: unknown field `mainnet`, expected one of `bitcoin`",
            ),
            (
                "[chain.mainnet]",
                "line 1: chain.mainnet: unknown field `mainnet`",
            ),
            ("[chian]", "line 1: chian: unknown field `chian`"),
            (
                "[chain.signet]\nurl = \"ftp://a.example\"",
                "use https://host",
            ),
            (
                "[chain.signet]\nurl = \"http://a.example\"",
                "line 2: chain.signet.url: a public server needs https",
            ),
            (
                "[chain.signet]\nurl = \"https://u:p@a.example\"",
                "an address holds no user or password",
            ),
            (
                "[chain.signet]\nbackend = \"electrum\"",
                "expected `esplora` or `bitcoind`",
            ),
            (
                "[chain.signet]\nbackend = \"bitcoind\"",
                "line 2: chain.signet.backend: needs cookie_file",
            ),
            (
                "[chain.signet]\ncookie_file = \"x\"",
                "is for backend = \"bitcoind\" only",
            ),
            ("[privacy]\nproxy = \"localhost\"", "like 127.0.0.1:9050"),
            ("[limits]\nstore_mib = 1", "use 64 to 1048576 MiB"),
            (
                "participant = 5",
                "line 1: participant: is a group of settings",
            ),
            (
                "network.name = \"signet\"",
                "network is a setting, not a group",
            ),
            (
                "\"participant.auto_join\" = true",
                "write the key without quotes",
            ),
            (
                "network = \"signet\"\nnetwork = \"signet\"",
                "config.toml, line 2: not TOML: duplicate key",
            ),
            ("network = signet", "config.toml, line 1: not TOML: "),
            ("[participant", "config.toml, line 1: not TOML: "),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.starts_with("config.toml, line "), "{error}");
            assert!(
                error.contains(expected),
                "{text:?}:\n  {error}\n  {expected}"
            );
            assert!(!error.contains('\n'), "one line: {error}");
            assert!(
                !error.contains("u:p") && !error.contains("nsec1"),
                "no secrets: {error}"
            );
        }
    }

    #[test]
    fn later_sources_go_before_earlier_ones_and_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::locate(Some(dir.path()), None).unwrap();
        assert_eq!(Config::load(&home, [], vec![]), Ok(Config::default()));

        std::fs::write(
            home.config_path(),
            "[participant]\nmax_cohorts = 1\nmax_members = 11\nmin_members = 5\n",
        )
        .unwrap();
        let variables = environment(&[
            ("PATH", "/bin"),
            ("BTCR2_AGENT_HOME", "/elsewhere"),
            ("BTCR2_AGENT__PARTICIPANT__MAX_COHORTS", "2"),
            ("BTCR2_AGENT__PARTICIPANT__MAX_MEMBERS", " 12 "),
            (
                "BTCR2_AGENT__PARTICIPANT__ALLOWED_NETWORKS",
                "signet, regtest",
            ),
            ("BTCR2_AGENT__AGGREGATOR__INVITE_ONLY", "true"),
            ("BTCR2_AGENT__CHAIN__SIGNET__URL", "http://127.0.0.1:3002/"),
        ]);
        let flags = || {
            vec![
                Setting::from_argument("participant.max_members=13").unwrap(),
                Setting::from_flag("aggregator.beacon", "cas"),
                Setting::from_argument("privacy.proxy=127.0.0.1:9050").unwrap(),
            ]
        };
        let config = Config::load(&home, variables.clone(), flags()).unwrap();
        let participant = &config.participant;
        assert_eq!(participant.min_members, 5);
        assert_eq!(participant.max_cohorts, 2);
        assert_eq!(participant.max_members, 13);
        assert_eq!(
            participant.allowed_networks,
            [Network::Signet, Network::Regtest]
        );
        assert!(config.aggregator.invite_only);
        assert_eq!(config.aggregator.beacon, BeaconChoice::Cas);
        assert_eq!(
            config.chain.signet.url_for(Network::Signet),
            "http://127.0.0.1:3002"
        );
        assert_eq!(
            config.privacy.proxy,
            Some("127.0.0.1:9050".parse().unwrap())
        );

        let refused = |variables: &[(&str, &str)], flags: &[&str]| {
            let flags = flags.iter().map(|f| Setting::from_argument(f).unwrap());
            Config::load(&home, environment(variables), flags.collect())
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            refused(&[("BTCR2_AGENT__PARTICIPANT__MAX_COHORTS", "NaN")], &[]),
            "BTCR2_AGENT__PARTICIPANT__MAX_COHORTS: participant.max_cohorts: \
             \"NaN\" is not a whole number; use 1 to 1000 cohorts"
        );
        assert!(
            refused(&[("BTCR2_AGENT__PARTICPANT__MAX_COHORTS", "5")], &[]).starts_with(
                "BTCR2_AGENT__PARTICPANT__MAX_COHORTS: particpant.max_cohorts: unknown field"
            )
        );
        assert_eq!(
            refused(&[], &["limits.pow_bits=25"]),
            "command line: limits.pow_bits: 25 is out of range; use 0 to 24 bits"
        );
        // The file's setting is at odds with the command line's: the place to look is the file.
        let error = refused(&[], &["participant.max_members=4"]);
        assert!(
            error.ends_with(
                "config.toml, line 4: participant.min_members: is above participant.max_members, 4"
            ),
            "{error}"
        );
        let error = refused(&[], &["participant.auto_join=yes"]);
        assert!(
            error.contains("\"yes\" is neither true nor false"),
            "{error}"
        );
        assert!(Setting::from_argument("participant.auto_join").is_err());
        assert!(refused(&[], &["=5"]).contains("a setting needs a name"));
    }

    #[test]
    fn an_unreadable_file_is_not_a_missing_one() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::locate(Some(dir.path()), None).unwrap();
        std::fs::create_dir(home.config_path()).unwrap();
        let error = Config::load(&home, [], vec![]).unwrap_err().to_string();
        assert!(
            error.starts_with("cannot read ") && error.contains("config.toml"),
            "{error}"
        );
    }

    #[test]
    fn chain_rules_hold_for_every_network() {
        for network in Network::ALL {
            assert!(rule_for(&format!("chain.{network}.poll")).is_some());
            let error = parse(&format!("[chain.{network}]\npoll = \"2h\"\n")).unwrap_err();
            assert!(error.contains("use 1s to 1h"), "{error}");
            let default = Config::default();
            let url = default.chain.of(network).url_for(network);
            let local = network == Network::Regtest;
            assert_eq!(url.starts_with("http://127.0.0.1"), local, "{url}");
            assert_eq!(url.starts_with("https://"), !local, "{url}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_settings_or_one_line(text in "[a-z\\[\\]{}=\"'.,#0-9\n -]{0,80}") {
            if let Err(error) = parse(&text) {
                assert!(error.starts_with("config.toml, line "), "{error}");
                assert!(!error.contains('\n'), "{error}");
            }
        }

        #[test]
        fn any_argument_is_a_setting_or_one_line(key in "[a-z_.\"]{0,30}", text in ".{0,30}") {
            let setting = Setting::from_flag(&key, &text);
            if let Err(error) = Config::from_settings(vec![setting]) {
                let error = error.to_string();
                assert!(error.starts_with("command line: "), "{error}");
                assert!(!error.contains('\n'), "{error}");
            }
        }
    }
}
