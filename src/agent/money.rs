//! The kill switch, and the one way by which transactions leave (DESIGN §6, rule 11).
//!
//! The switch is a file in the home: `money.stop`. That it is there stops money, whatever is in it; its text only tells
//! people who stopped it and when. The gate looks for it before every permit, so that it works at once, in a running
//! agent and across restarts. Nothing in this program removes it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use bitcoin::Transaction;
use serde::{Deserialize, Serialize};

use super::error::AgentError;
use super::events::What;
use super::node::{Machine, NodeId, NodeInput};
use super::runtime::Agent;
use crate::chain::{BroadcastError, ChainBackend};
use crate::config::{Home, HomeError, write_private};
use crate::network::Network;
use crate::protocol::aggregator::AggregatorInput;
use crate::protocol::fees::FeePolicy;
use crate::protocol::money::{KillSwitch, MoneyGate, MoneyPermit, MoneyRules};
use crate::protocol::participant::{ParticipantInput, SigningPolicy};
use crate::time::UnixTime;

/// Name of the kill switch in the home.
pub const STOP_FILE: &str = "money.stop";

/// The longest text of a switch that is read, in bytes.
const TEXT_MAX: u64 = 4_096;

/// What an agent may do with money.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MoneyOptions {
    /// Mainnet and the caps.
    pub rules: MoneyRules,
    /// Bounds of fee rates; the default ones for networks that are not in it.
    pub fees: BTreeMap<Network, FeePolicy>,
    /// Where the kill switch is; none for an agent that only [`MoneyGate::stop`] stops.
    pub switch: Option<StopFile>,
}

/// The kill switch of a home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopFile(PathBuf);

/// Who pulled the switch, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopNote {
    /// When; absent if the file does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<UnixTime>,
    /// Why, as the operator said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl StopFile {
    /// The switch of a home.
    #[must_use]
    pub fn in_home(home: &Home) -> Self {
        Self(home.root().join(STOP_FILE))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Pulls the switch. One that is pulled stays as it is: when money was stopped first is what counts.
    ///
    /// # Errors
    /// [`HomeError::Io`]: the file can not be written.
    pub fn pull(&self, at: UnixTime, reason: Option<&str>) -> Result<StopNote, HomeError> {
        if let Some(note) = self.note() {
            return Ok(note);
        }
        let note = StopNote {
            at: Some(at),
            reason: reason.map(str::to_owned),
        };
        let mut text = serde_json::to_string(&note).unwrap_or_default();
        text.push('\n');
        write_private(&self.0, text.as_bytes())?;
        Ok(note)
    }

    /// What the switch says, if it is pulled.
    #[must_use]
    pub fn note(&self) -> Option<StopNote> {
        if !self.is_pulled() {
            return None;
        }
        let short = std::fs::metadata(&self.0).is_ok_and(|found| found.len() <= TEXT_MAX);
        let text = short
            .then(|| std::fs::read_to_string(&self.0).ok())
            .flatten();
        // Whatever it holds, or if it can not be read: that it is there is what counts.
        let note = text.and_then(|text| serde_json::from_str(&text).ok());
        Some(note.unwrap_or(StopNote {
            at: None,
            reason: None,
        }))
    }
}

impl KillSwitch for StopFile {
    fn is_pulled(&self) -> bool {
        // A link that leads nowhere is there too; what can not be looked at counts as pulled.
        match std::fs::symlink_metadata(&self.0) {
            Ok(_) => true,
            Err(error) => error.kind() != ErrorKind::NotFound,
        }
    }
}

impl MoneyOptions {
    /// The bounds of fee rates on a network.
    #[must_use]
    pub fn fee_policy(&self, network: Network) -> FeePolicy {
        self.fees.get(&network).copied().unwrap_or_default()
    }

    /// The gate of these options.
    pub(super) fn gate(&self) -> MoneyGate {
        match &self.switch {
            Some(switch) => MoneyGate::new(self.rules, Box::new(switch.clone())),
            None => MoneyGate::without_switch(self.rules),
        }
    }
}

/// Hands a transaction to the network. Nothing else in the agent does: a permit is used up by it.
///
/// # Errors
/// [`BroadcastError`], with the node's reason.
pub async fn send(
    permit: MoneyPermit,
    backend: &ChainBackend,
    tx: &Transaction,
) -> Result<(), BroadcastError> {
    tracing::debug!(network = %permit.network(), txid = %tx.compute_txid(), "sent to the chain");
    backend.broadcast(tx).await
}

impl Agent {
    /// Stops money until the agent is started again; who wants it to outlast that pulls the switch of the home before.
    pub fn stop_money(&mut self, reason: Option<&str>) {
        self.gate.stop();
        if !std::mem::replace(&mut self.money_told, true) {
            let reason = reason.map(str::to_owned);
            tracing::warn!(?reason, "money is stopped");
            self.emit(None, What::MoneyStopped { reason });
        }
    }

    /// Notices a switch that was pulled, also while nobody asks for a permit, and tells the cohorts this agent
    /// aggregates: they collect no signatures.
    pub(super) fn look_at_switch(&mut self) -> Result<(), AgentError> {
        if !self.gate.is_stopped() || self.money_synced {
            return Ok(());
        }
        self.stop_money(None);
        self.money_synced = true;
        self.tell_money()
    }

    /// Tells every cohort this agent aggregates whether the gate permits money, where that is news.
    pub(super) fn tell_money(&mut self) -> Result<(), AgentError> {
        let news: Vec<(NodeId, bool)> = self
            .nodes
            .values()
            .filter(|node| !node.is_over())
            .filter_map(|node| match &node.machine {
                Machine::Aggregator(machine) => {
                    let permitted = self.gate.permit(node.terms().network).is_ok();
                    (machine.money_is_permitted() != permitted).then_some((node.id, permitted))
                }
                Machine::Participant(_) => None,
            })
            .collect();
        for (id, permitted) in news {
            let input = AggregatorInput::Money { permitted };
            self.feed(id, NodeInput::Aggregator(input))?;
        }
        Ok(())
    }

    /// What is signed on a network without asking: the written policy within the bounds of the network's fee rates.
    pub(super) fn policy_on(&self, network: Network) -> SigningPolicy {
        SigningPolicy {
            max_fee_rate: self.spending_fees(network).ceiling,
            ..self.policy
        }
    }

    /// Has a member follow the policy, and an aggregator the cap on fees, if its log does not say that it does.
    pub(super) fn state_policy(&mut self, id: NodeId) -> Result<(), AgentError> {
        let Some(node) = self.nodes.get(&id) else {
            return Ok(());
        };
        let policy = self.policy_on(node.terms().network);
        let max_fee = self.gate.rules().max_fee;
        match &node.machine {
            Machine::Participant(machine) if machine.stated_policy() != Some(policy) => {
                let input = ParticipantInput::Policy(policy);
                self.feed(id, NodeInput::Participant(input)).map(drop)
            }
            Machine::Aggregator(machine) if machine.max_fee() != Some(max_fee) => {
                let sat = max_fee.to_sat();
                let input = AggregatorInput::MaxFee { sat };
                self.feed(id, NodeInput::Aggregator(input)).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Whether a cohort's transactions may be signed now; says why not in the log. What is not signed is not said to
    /// have failed: the session waits, as it does for a member that is away.
    pub(super) fn may_sign(&self, id: NodeId) -> bool {
        let Some(network) = self.nodes.get(&id).map(|node| node.terms().network) else {
            return false;
        };
        let refused = self.gate.permit(network).err();
        if let Some(refused) = refused {
            tracing::warn!(cohort = %id.0.short(), %refused, "not signed");
        }
        refused.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::runtime::Internal;

    #[test]
    fn a_file_that_is_there_stops_whatever_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::locate(Some(dir.path()), None).unwrap();
        let switch = StopFile::in_home(&home);
        assert!(!switch.is_pulled());
        assert_eq!(switch.note(), None);

        let note = switch
            .pull(UnixTime(1_700_000_000), Some("a leak"))
            .unwrap();
        assert!(switch.is_pulled());
        assert_eq!(switch.note(), Some(note.clone()));
        assert_eq!(
            std::fs::read_to_string(dir.path().join("money.stop")).unwrap(),
            "{\"at\":1700000000,\"reason\":\"a leak\"}\n"
        );
        // Pulled twice: the first time counts.
        assert_eq!(switch.pull(UnixTime(1_800_000_000), None).unwrap(), note);

        for text in ["", "off", "{\"at\":", "{\"reason\":7}"] {
            std::fs::write(switch.path(), text).unwrap();
            assert!(switch.is_pulled(), "{text:?}");
            let empty = StopNote {
                at: None,
                reason: None,
            };
            assert_eq!(switch.note(), Some(empty), "{text:?}");
        }
        std::fs::remove_file(switch.path()).unwrap();
        std::fs::create_dir(switch.path()).unwrap();
        assert!(switch.is_pulled(), "a directory of that name");
    }

    #[cfg(unix)]
    #[test]
    fn what_can_not_be_looked_at_counts_as_pulled() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        // A path through a file: not "not found", and not to be looked at.
        assert!(StopFile(file.join(STOP_FILE)).is_pulled());
        let link = dir.path().join(STOP_FILE);
        std::os::unix::fs::symlink(dir.path().join("nowhere"), &link).unwrap();
        assert!(StopFile(link).is_pulled());
    }

    /// The path of every transaction of a cohort: signals, their repetition and replacement.
    #[tokio::test]
    async fn a_cohort_s_transaction_is_sent_within_the_gate_only() {
        use crate::protocol::terms::{CohortBeacon, Salt, Terms};
        use crate::store::Role;

        let options =
            || crate::agent::AgentOptions::alone(std::sync::Arc::new(|| UnixTime(1_800_000_000)));
        let tx = Transaction {
            version: bitcoin::transaction::Version::TWO,
            lock_time: bitcoin::absolute::LockTime::ZERO,
            input: Vec::new(),
            output: Vec::new(),
        };
        let mut agent = Agent::start(options()).unwrap().0;
        let terms = Terms::with_defaults(
            agent.identity_key(),
            Network::Regtest,
            CohortBeacon::Smt,
            Salt::from_bytes([7; 16]),
            UnixTime(1_800_003_600),
        );
        let id = agent.create_cohort(terms, Vec::new()).unwrap();
        let id = (id, Role::Aggregator);
        let answer = |agent: &mut Agent| {
            agent.broadcast(id, tx.clone());
            match agent.next_internal() {
                Some(Internal::Broadcast { error, .. }) => error.unwrap(),
                _ => panic!("no answer"),
            }
        };
        // What the gate permits at most is in the machine, which offers and climbs to nothing above.
        let Machine::Aggregator(machine) = &agent.nodes[&id].machine else {
            panic!("another role");
        };
        assert_eq!(machine.max_fee(), Some(MoneyRules::default().max_fee));
        // The gate is open: what is missing is a chain.
        let error = answer(&mut agent);
        assert!(error.contains("chain"), "{error}");
        assert!(agent.may_sign(id));
        agent.stop_money(None);
        let error = answer(&mut agent);
        assert!(error.contains("money is stopped"), "{error}");
        assert!(!agent.may_sign(id));
    }

    /// Rule 11: a new path that spends has to take a permit. The compiler checks that [`send`] gets one; this checks
    /// that nobody goes around it.
    #[test]
    fn nothing_in_the_agent_sends_a_transaction_but_through_the_gate() {
        fn look(dir: &Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    look(&path, found);
                } else if path.extension().is_some_and(|e| e == "rs") {
                    let text = std::fs::read_to_string(&path).unwrap();
                    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
                    let compact: String = code.split_whitespace().collect();
                    let sends = compact.contains("backend.broadcast(");
                    if sends {
                        found.push(path.file_name().unwrap().to_string_lossy().into_owned());
                    }
                }
            }
        }
        let mut found = Vec::new();
        let agent = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/agent");
        look(&agent, &mut found);
        assert_eq!(found, ["money.rs"]);
    }
}
