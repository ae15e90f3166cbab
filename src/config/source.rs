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
mod tests;
