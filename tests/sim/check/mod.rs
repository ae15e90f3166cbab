//! The rules of DESIGN §6, checked after every step. `docs/simulator.md` has the table.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::{OutPoint, Transaction, Txid};
use btcr2_core::beacon::address::beacon_script;
use btcr2_core::hash::{SmtIndex, UpdateHash, sha256};
use btcr2_core::keys::{NostrKey, PartialSignature};
use btcr2_core::protocol::aggregator::{AggregatorInput, FINAL_DEPTH, Phase};
use btcr2_core::protocol::effect::{Artifact, LabelOrder, Outcome, Report, Step};
use btcr2_core::protocol::evidence::Fault;
use btcr2_core::protocol::message::{
    Announced, Entries, FallbackRequest, Message, Partials, Response, RoundCause,
};
use btcr2_core::protocol::participant::{BindingState, ParticipantInput};
use btcr2_core::protocol::terms::{CohortBeacon, OutputPolicy};
use btcr2_core::protocol::{Round, Seat};

use super::config::{Config, Family, START};
use super::process::Input;
use super::recheck::{Knowledge, fold, recheck, signal_of};
use super::world::World;

mod kept;
mod said;
mod signed;
mod spent;

/// What became of a round, as the aggregator said it.
#[derive(Debug, Clone, Default)]
struct Fate {
    empty: bool,
    failed: Option<RoundCause>,
    confirmed: Option<Txid>,
}

/// A signal somebody honest signed.
pub struct SignedSignal {
    round: Round,
    pub signal: [u8; 32],
    input: OutPoint,
    /// What it announces for each of the member's DIDs.
    pub updates: BTreeMap<usize, UpdateHash>,
}

/// Where two states differ first.
pub fn difference(before: &str, after: &str) -> String {
    let same = before
        .bytes()
        .zip(after.bytes())
        .take_while(|(a, b)| a == b);
    let at = same.count();
    let part =
        |text: &str| -> String { text.chars().skip(at.saturating_sub(80)).take(200).collect() };
    format!("was …{}…, is …{}…", part(before), part(after))
}

/// A round, and the updates that a member's response to it announces, by DID.
type Answer = (Round, BTreeMap<usize, UpdateHash>);

/// What is remembered between steps.
pub struct Checker {
    pub state_at_crash: BTreeMap<usize, Option<String>>,
    /// Rule 1: every public nonce that signed, with what it signed: digest and aggregate nonce.
    nonces: BTreeMap<[u8; 66], ([u8; 32], [u8; 66])>,
    /// Partial signatures that left, as text.
    sent: BTreeMap<(usize, Round, u32), String>,
    pub responses: BTreeMap<(usize, Round), Response>,
    /// What the first session of a round spent, by member.
    inputs: BTreeMap<(usize, Round), Vec<OutPoint>>,
    /// By member.
    signed: BTreeMap<usize, Vec<SignedSignal>>,
    /// Transactions that honest members signed, with how many did.
    approved: BTreeMap<Txid, BTreeSet<usize>>,
    /// What each process says is confirmed.
    says_confirmed: BTreeMap<usize, BTreeSet<Txid>>,
    /// What the chain took from each process.
    taken: BTreeSet<Txid>,
    /// The highest fee a member signed through the leaf, by member and round.
    pub through_leaf: BTreeMap<(usize, Round), u64>,
    /// Signals through the leaf that a member was told of and did not sign: others can bring them to the chain.
    told: BTreeMap<usize, Vec<SignedSignal>>,
    /// What members said in rounds that k others can sign: by member, round and updates.
    answered: BTreeMap<usize, Vec<Answer>>,
    /// The version that each update leads to.
    pub versions: BTreeMap<UpdateHash, u32>,
    /// Updates that somebody honest announced in a response, by member and DID, over all its lives.
    pub said: BTreeMap<(usize, usize), BTreeSet<UpdateHash>>,
    /// Updates that their users showed to the aggregator.
    pub shown: BTreeSet<UpdateHash>,
    /// The rounds of the signals that somebody honest signed.
    rounds_of: BTreeMap<[u8; 32], Round>,
    fates: BTreeMap<Round, Fate>,
    pub blames: u64,
    pub refusals: u64,
    bad: BTreeSet<usize>,
}

impl Checker {
    pub fn new(config: &Config) -> Self {
        Self {
            state_at_crash: BTreeMap::new(),
            nonces: BTreeMap::new(),
            sent: BTreeMap::new(),
            responses: BTreeMap::new(),
            inputs: BTreeMap::new(),
            signed: BTreeMap::new(),
            approved: BTreeMap::new(),
            says_confirmed: BTreeMap::new(),
            taken: BTreeSet::new(),
            through_leaf: BTreeMap::new(),
            told: BTreeMap::new(),
            answered: BTreeMap::new(),
            versions: BTreeMap::new(),
            shown: BTreeSet::new(),
            said: BTreeMap::new(),
            rounds_of: BTreeMap::new(),
            fates: BTreeMap::new(),
            blames: 0,
            refusals: 0,
            bad: (0..config.peers.len())
                .filter(|i| config.peers[*i].bad)
                .collect(),
        }
    }

    /// Everything that honest members signed.
    pub fn all_signed(&self) -> impl Iterator<Item = &SignedSignal> {
        self.signed.values().flatten()
    }

    /// A process began another life: what it does not know it can not be held to.
    pub fn forget_life(&mut self, i: usize) {
        self.state_at_crash.remove(&i);
        self.says_confirmed.remove(&i);
        self.answered.remove(&i);
        self.responses.retain(|(who, _), _| *who != i);
        self.inputs.retain(|(who, _), _| *who != i);
        self.sent.retain(|(who, ..), _| *who != i);
        self.through_leaf.retain(|(who, _), _| *who != i);
    }

    /// A process starts: what is stored of transactions is compared with the chain (`agent/resuming.rs`).
    pub fn resume(&mut self, i: usize) {
        self.says_confirmed.remove(&i);
    }

    /// A member signed a transaction.
    pub fn sign(&mut self, i: usize, txid: Txid) {
        self.approved.entry(txid).or_default().insert(i);
    }

    /// Whether a round is over in a way that is no failure.
    pub fn ended_well(&self, round: Round) -> bool {
        let fate = self.fates.get(&round);
        fate.is_some_and(|fate| fate.empty || fate.confirmed.is_some())
    }
}

impl World {
    pub fn broken(&mut self, i: usize, rule: &str, why: &str) {
        self.fail(format!("{rule}: process {i}: {why}"));
    }

    /// A nonce was used just now.
    pub fn check_nonce_use(&mut self, i: usize, order: &LabelOrder, _made: &PartialSignature) {
        let what = (order.sighash.to_bytes(), order.aggregate_nonce.to_bytes());
        let before = self.checker.nonces.insert(order.nonce.to_bytes(), what);
        if self.processes[i].stopped {
            self.broken(i, "rule 11", "signed while money is stopped");
        }
        if before.is_some() {
            // Also for the same digest: it is one coincidence away from two.
            self.broken(i, "rule 1", "a nonce signed twice");
        }
    }

    /// An honest process is about to send this.
    pub fn check_message(&mut self, i: usize, message: &Message) {
        self.check_collects(i, message);
        match message {
            Message::RefundPartial(body) => self.check_refund_partial(i, &body.content),
            Message::Response(body) => {
                let key = (i, body.content.round);
                let content = body.content.clone();
                let before = self.checker.responses.insert(key, content.clone());
                // One that is refused over its deposits is made again without them.
                let refused = self.processes[i].heard.iter().any(|message| {
                    matches!(&**message, Message::Refused(refused)
                        if refused.of == "response" && refused.round == Some(content.round))
                });
                if before.is_some_and(|before| before.entries != content.entries) && !refused {
                    self.broken(i, "rule 4", "two different responses in one round");
                }
                self.check_response(i, &content);
            }
            Message::PartialSignature(body) => {
                if let Err(why) = self.check_partials(i, &body.content) {
                    self.broken(i, "signed unchecked", &why);
                }
            }
            Message::FallbackSignature(body) => self.check_fallback_signature(i, &body.content),
            Message::RoundFailed(failed) => {
                for blame in &failed.blamed {
                    let accused = blame.member;
                    self.check_blame(i, accused, true);
                }
            }
            _ => {}
        }
    }

    /// What a machine made of an input, before it is stored.
    pub fn check_outcome(&mut self, i: usize, input: &Input, step: &Step) {
        if let Outcome::Ignored(_) = step.outcome {
            self.checker.refusals += 1;
        }
        if let (Outcome::Blamed(member), Input::Aggregator(AggregatorInput::Message { from, .. })) =
            (&step.outcome, input)
            && member != from
        {
            self.broken(i, "rule 7", "somebody else than the sender is blamed");
        }
        if let Input::Member(ParticipantInput::Message { message, .. }) = input
            && let Message::FallbackRequest(request) = message
            && !matches!(step.outcome, Outcome::Ignored(_))
        {
            self.note_told(i, request);
        }
        if let Outcome::Blamed(member) = step.outcome {
            self.check_blame(i, member, true);
        }
    }

    /// Rule 7: an honest member is never shown to have done wrong.
    pub fn check_blame(&mut self, i: usize, accused: NostrKey, proved: bool) {
        self.checker.blames += 1;
        let who = self.processes.iter().position(|p| p.public() == accused);
        let honest = who.is_some_and(|who| !self.checker.bad.contains(&who));
        if proved && honest && !self.is_bad(i) {
            self.broken(i, "rule 7", &format!("{who:?} is honest, and was framed"));
        }
    }
}
