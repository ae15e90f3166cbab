//! Ranges of settings, as data, and the rules between settings.
//!
//! [`Config::validate`] is the one gate: file, environment, command line and values made by the
//! program pass through it.

use std::fmt;

use super::address::{Reach, reach};
use super::duration::Span;
use super::settings::{Backend, Config, ServiceUrl};
use crate::network::Network;

/// The range of one setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The setting; `*` stands for every network.
    pub key: &'static str,
    /// What it counts.
    pub unit: Unit,
    /// The smallest value, in the unit (times in seconds).
    pub min: u64,
    /// The largest value, in the unit (times in seconds).
    pub max: u64,
}

/// What a setting counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Whole numbers of this thing.
    Of(&'static str),
    /// Time, written like `12h`.
    Time,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unit {
            Unit::Of(unit) => write!(f, "{} to {} {unit}", self.min, self.max),
            Unit::Time => {
                let (min, max) = (Span::from_seconds(self.min), Span::from_seconds(self.max));
                write!(f, "{min} to {max}")
            }
        }
    }
}

const fn count(key: &'static str, unit: &'static str, min: u64, max: u64) -> Rule {
    Rule {
        key,
        unit: Unit::Of(unit),
        min,
        max,
    }
}

const fn time(key: &'static str, min: Span, max: Span) -> Rule {
    Rule {
        key,
        unit: Unit::Time,
        min: min.seconds(),
        max: max.seconds(),
    }
}

const SECOND: Span = Span::from_seconds(1);
const YEAR: Span = Span::from_days(365);

/// The range of every setting that is a number or a time.
pub const RULES: &[Rule] = &[
    time("chain.*.poll", SECOND, Span::from_hours(1)),
    count("aggregator.min_members", "members", 2, 1_000),
    count("aggregator.max_members", "members", 2, 1_000),
    count("aggregator.indexes_per_member", "indexes", 1, 1_000),
    time("aggregator.formation", SECOND, YEAR),
    time("aggregator.cadence", SECOND, YEAR),
    time("aggregator.response", SECOND, Span::from_days(30)),
    // Members destroy their secret nonces after a day: a longer time to sign can not be used.
    time("aggregator.signing", SECOND, Span::from_days(1)),
    count("aggregator.depth", "blocks", 1, 100),
    count("aggregator.max_fee_rate", "sat/vB", 1, 10_000),
    count("aggregator.max_nonce_losses", "losses", 0, 100),
    count("aggregator.pow_bits", "bits", 0, 28),
    count("aggregator.stalled_rounds", "rounds", 1, 1_000),
    count("participant.min_members", "members", 2, 1_000),
    count("participant.max_members", "members", 2, 1_000),
    count("participant.max_fee_rate", "sat/vB", 1, 10_000),
    count("participant.max_cohorts", "cohorts", 1, 1_000),
    count("money.max_fee_sat", "sat", 1_000, 10_000_000),
    count("money.max_funding_sat", "sat", 1_000, 10_000_000_000),
    count("money.max_balance_sat", "sat", 1_000, 10_000_000_000),
    count("fees.*.floor", "sat/vB", 1, 1_000),
    count("fees.*.ceiling", "sat/vB", 1, 10_000),
    count("fees.*.fallback", "sat/vB", 1, 10_000),
    count("limits.relays", "relays", 1, 64),
    count("limits.store_mib", "MiB", 64, 1_048_576),
    count("limits.pow_bits", "bits", 0, 28),
    count("limits.subscribers", "subscribers", 0, 1_000_000),
];

/// A setting that is out of range or at odds with another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct Fault {
    /// The setting.
    pub key: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl Fault {
    fn new(key: &str, message: String) -> Self {
        Self {
            key: key.to_owned(),
            message,
        }
    }
}

/// Most relays in `relays`, and most aggregators in `participant.allowed_aggregators`.
const LIST_MAX: usize = 64;

/// Longest name of a node's RPC user.
const USER_MAX: usize = 100;

/// The rule of a key.
pub(super) fn rule_for(key: &str) -> Option<&'static Rule> {
    let general = match key.split('.').collect::<Vec<_>>().as_slice() {
        [group @ ("chain" | "fees"), _, last] => format!("{group}.*.{last}"),
        _ => key.to_owned(),
    };
    RULES.iter().find(|rule| rule.key == general)
}

/// Why a value is refused, if it is: its type or range. Says nothing of keys without a rule.
pub(super) fn fault_in_range(key: &str, value: &toml::Value) -> Option<String> {
    let rule = rule_for(key)?;
    let number = match (rule.unit, value) {
        (Unit::Of(_), toml::Value::Integer(number)) => u64::try_from(*number).ok(),
        (Unit::Of(_), _) => return Some(format!("{value} is not a whole number; use {rule}")),
        (Unit::Time, toml::Value::String(text)) => match text.parse::<Span>() {
            Ok(span) => Some(span.seconds()),
            Err(error) => return Some(format!("{error}; use {rule}")),
        },
        (Unit::Time, _) => {
            return Some(format!(
                "{value} is not a span of time; use {rule}, in quotes"
            ));
        }
    };
    match number {
        Some(number) if (rule.min..=rule.max).contains(&number) => None,
        _ => Some(format!("{value} is out of range; use {rule}")),
    }
}

impl Config {
    /// Checks every range and every rule between settings.
    ///
    /// # Errors
    /// The first setting at fault.
    pub fn validate(&self) -> Result<(), Fault> {
        let fault = |key: &str, message: String| Err(Fault::new(key, message));
        self.check_ranges()?;

        let (a, p) = (&self.aggregator, &self.participant);
        if a.min_members > a.max_members {
            return fault(
                "aggregator.min_members",
                format!("is above aggregator.max_members, {}", a.max_members),
            );
        }
        if p.min_members > p.max_members {
            return fault(
                "participant.min_members",
                format!("is above participant.max_members, {}", p.max_members),
            );
        }
        let round = a.response.seconds() + a.signing.seconds();
        if round > a.cadence.seconds() {
            return fault(
                "aggregator.cadence",
                format!(
                    "is shorter than aggregator.response and aggregator.signing together, {}",
                    Span::from_seconds(round)
                ),
            );
        }
        if p.auto_join && p.allowed_aggregators.is_empty() {
            return fault(
                "participant.auto_join",
                "needs participant.allowed_aggregators: list whom to join without asking"
                    .to_owned(),
            );
        }
        if p.allowed_networks.is_empty() {
            return fault(
                "participant.allowed_networks",
                "is empty: list at least one network".to_owned(),
            );
        }
        self.check_list("participant.allowed_networks", &p.allowed_networks)?;
        self.check_list("participant.allowed_aggregators", &p.allowed_aggregators)?;
        self.check_list("relays", &self.relays)?;
        for relay in &self.relays {
            let onion = relay
                .to_url()
                .as_ref()
                .and_then(url::Url::host)
                .is_some_and(|host| reach(&host) == Reach::Onion);
            if onion && self.privacy.proxy.is_none() {
                return fault("relays", format!("{relay} needs privacy.proxy"));
            }
        }
        self.check_cas()?;
        self.check_money()?;
        Network::ALL
            .into_iter()
            .try_for_each(|network| self.check_chain(network))
    }

    fn check_ranges(&self) -> Result<(), Fault> {
        let table =
            toml::Table::try_from(self).map_err(|error| Fault::new("config", error.to_string()))?;
        let mut fault = Ok(());
        walk(&table, "", &mut |key, value| {
            if fault.is_ok()
                && let Some(message) = fault_in_range(key, value)
            {
                fault = Err(Fault::new(key, message));
            }
        });
        fault
    }

    fn check_list<T: PartialEq + fmt::Display>(&self, key: &str, list: &[T]) -> Result<(), Fault> {
        let fault = |message| Err(Fault::new(key, message));
        if list.len() > LIST_MAX {
            return fault(format!(
                "has {} entries; use at most {LIST_MAX}",
                list.len()
            ));
        }
        for (position, item) in list.iter().enumerate() {
            if list.iter().take(position).any(|earlier| earlier == item) {
                return fault(format!("lists {item} twice"));
            }
        }
        Ok(())
    }

    fn check_chain(&self, network: Network) -> Result<(), Fault> {
        let chain = self.chain.of(network);
        let fault = |key: &str, message: &str| {
            Err(Fault::new(
                &format!("chain.{network}.{key}"),
                message.to_owned(),
            ))
        };
        let given = [
            ("cookie_file", chain.cookie_file.is_some()),
            ("user", chain.user.is_some()),
            ("password_file", chain.password_file.is_some()),
        ];
        match (chain.backend, given.map(|(_, given)| given)) {
            (Backend::Bitcoind, [true, false, false] | [false, true, true]) => {}
            (Backend::Bitcoind, [false, false, false]) => {
                return fault(
                    "backend",
                    "needs cookie_file beside it: a file with the line user:password, like Bitcoin Core's .cookie; or user and password_file",
                );
            }
            (Backend::Bitcoind, [true, _, _]) => {
                return fault("cookie_file", "goes without user and password_file");
            }
            (Backend::Bitcoind, [_, true, _]) => return fault("user", "needs password_file"),
            (Backend::Bitcoind, _) => return fault("password_file", "needs user"),
            (Backend::Esplora, _) => {
                if let Some((key, _)) = given.into_iter().find(|(_, given)| *given) {
                    return fault(key, "is for backend = \"bitcoind\" only");
                }
            }
        }
        if chain.user.as_ref().is_some_and(|user| {
            user.is_empty()
                || user.len() > USER_MAX
                || user.contains(|c: char| c == ':' || c.is_control())
        }) {
            return fault("user", "is 1 to 100 characters without a colon");
        }
        self.check_list(&format!("chain.{network}.check"), &chain.check)?;
        let urls = chain.url.iter().map(|url| ("url", url));
        let checks = chain.check.iter().map(|url| ("check", url));
        for (key, url) in urls.chain(checks) {
            self.check_service(&format!("chain.{network}.{key}"), url)?;
        }
        if chain
            .url
            .as_ref()
            .is_some_and(|url| chain.check.contains(url))
        {
            return fault(
                "check",
                "names the server of url: a server always agrees with itself",
            );
        }
        if chain
            .http_proxy
            .as_ref()
            .is_some_and(|proxy| proxy.url().scheme() != "http")
        {
            return fault(
                "http_proxy",
                "is the address of an HTTP proxy, like http://127.0.0.1:8118",
            );
        }
        Ok(())
    }

    fn check_money(&self) -> Result<(), Fault> {
        let money = &self.money;
        if money.max_funding_sat > money.max_balance_sat {
            return Err(Fault::new(
                "money.max_funding_sat",
                format!("is above money.max_balance_sat, {}", money.max_balance_sat),
            ));
        }
        for network in Network::ALL {
            let fee = self.fees.of(network);
            for (key, value, other, limit) in [
                ("floor", fee.floor, "ceiling", fee.ceiling),
                ("floor", fee.floor, "fallback", fee.fallback),
                ("fallback", fee.fallback, "ceiling", fee.ceiling),
            ] {
                if value > limit {
                    return Err(Fault::new(
                        &format!("fees.{network}.{key}"),
                        format!("is above fees.{network}.{other}, {limit}"),
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_cas(&self) -> Result<(), Fault> {
        let cas = &self.cas;
        self.check_list("cas.gateways", &cas.gateways)?;
        for gateway in &cas.gateways {
            self.check_service("cas.gateways", gateway)?;
        }
        match (&cas.rpc, &cas.rpc_auth_file) {
            (Some(rpc), _) => self.check_service("cas.rpc", rpc),
            (None, Some(_)) => Err(Fault::new(
                "cas.rpc_auth_file",
                "needs cas.rpc beside it: credentials go to that node only".to_owned(),
            )),
            (None, None) => Ok(()),
        }
    }

    fn check_service(&self, key: &str, url: &ServiceUrl) -> Result<(), Fault> {
        let fault = |message: &str| Err(Fault::new(key, message.to_owned()));
        match url.url().host().map(|host| reach(&host)) {
            // On the way, anybody could change what the server seems to say.
            Some(Reach::Public) if url.url().scheme() == "http" => {
                fault("a public server needs https")
            }
            Some(Reach::Onion) if self.privacy.proxy.is_none() => {
                fault("an onion service needs privacy.proxy")
            }
            _ => Ok(()),
        }
    }
}

/// Hands every value that is not a table to `each`, with its dotted key; empty tables too.
pub(super) fn walk(table: &toml::Table, prefix: &str, each: &mut impl FnMut(&str, &toml::Value)) {
    for (key, value) in table {
        let key = match prefix {
            "" => key.clone(),
            _ => format!("{prefix}.{key}"),
        };
        match value {
            toml::Value::Table(inner) if !inner.is_empty() => walk(inner, &key, each),
            _ => each(&key, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_every_number_has_a_rule() {
        let default = Config::default();
        assert_eq!(default.validate(), Ok(()));
        let table = toml::Table::try_from(&default).unwrap();
        let mut ruled = std::collections::BTreeSet::new();
        walk(&table, "", &mut |key, value| {
            let is_time = value
                .as_str()
                .is_some_and(|text| text.parse::<Span>().is_ok());
            match rule_for(key) {
                Some(rule) => {
                    ruled.insert(rule.key);
                }
                None => assert!(!value.is_integer() && !is_time, "{key} has no rule"),
            }
        });
        let unused: Vec<_> = RULES.iter().filter(|r| !ruled.contains(r.key)).collect();
        assert!(unused.is_empty(), "rules of no setting: {unused:?}");
    }

    #[test]
    fn every_rule_holds_at_its_ends_and_not_beyond() {
        for rule in RULES {
            let key = rule.key.replace('*', "signet");
            let value = |number: u64| match rule.unit {
                Unit::Of(_) => toml::Value::Integer(i64::try_from(number).unwrap()),
                Unit::Time => toml::Value::String(format!("{number}s")),
            };
            assert_eq!(fault_in_range(&key, &value(rule.min)), None, "{key}");
            assert_eq!(fault_in_range(&key, &value(rule.max)), None, "{key}");
            let above = fault_in_range(&key, &value(rule.max + 1)).unwrap();
            assert!(above.contains(&rule.to_string()), "{above}");
            if rule.min > 0 {
                assert!(
                    fault_in_range(&key, &value(rule.min - 1)).is_some(),
                    "{key}"
                );
            }
        }
    }

    #[test]
    fn settings_made_by_the_program_pass_the_same_gate() {
        let mut config = Config::default();
        config.limits.relays = 65;
        let fault = config.validate().unwrap_err();
        assert_eq!(
            fault.to_string(),
            "limits.relays: 65 is out of range; use 1 to 64 relays"
        );
        let mut config = Config::default();
        config.chain.testnet4.poll = Span::from_hours(2);
        assert_eq!(config.validate().unwrap_err().key, "chain.testnet4.poll");
    }
}
