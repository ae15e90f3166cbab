//! The rules of DESIGN §6, checked after every step. `docs/simulator.md` has the table.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::{OutPoint, Transaction, Txid};
use btcr2_agent::beacon::address::beacon_script;
use btcr2_agent::hash::{SmtIndex, UpdateHash, sha256};
use btcr2_agent::keys::{NostrKey, PartialSignature};
use btcr2_agent::protocol::aggregator::{AggregatorInput, FINAL_DEPTH, Phase};
use btcr2_agent::protocol::effect::{Artifact, LabelOrder, Outcome, Report, Step};
use btcr2_agent::protocol::evidence::Fault;
use btcr2_agent::protocol::message::{Entries, Message, Partials, Response, RoundCause};
use btcr2_agent::protocol::participant::{BindingState, ParticipantInput};
use btcr2_agent::protocol::terms::CohortBeacon;
use btcr2_agent::protocol::{Round, Seat};

use super::config::{Config, Family};
use super::process::Input;
use super::recheck::{Knowledge, fold, recheck, signal_of};
use super::world::World;

/// What became of a round, as the aggregator said it.
#[derive(Debug, Clone, Default)]
struct Fate {
    empty: bool,
    failed: Option<RoundCause>,
    confirmed: Option<Txid>,
}

/// A signal somebody honest signed.
struct SignedSignal {
    round: Round,
    signal: [u8; 32],
    input: OutPoint,
    /// What it announces for each of the member's DIDs.
    updates: BTreeMap<usize, UpdateHash>,
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

/// What is remembered between steps.
pub struct Checker {
    pub state_at_crash: BTreeMap<usize, Option<String>>,
    /// Rule 1: every public nonce that signed, with what it signed: digest and aggregate nonce.
    nonces: BTreeMap<[u8; 66], ([u8; 32], [u8; 66])>,
    /// Partial signatures that left, as text.
    sent: BTreeMap<(usize, Round, u32), String>,
    responses: BTreeMap<(usize, Round), Response>,
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
            fates: BTreeMap::new(),
            blames: 0,
            refusals: 0,
            bad: (0..config.peers.len())
                .filter(|i| config.peers[*i].bad)
                .collect(),
        }
    }

    /// Whether a round is over in a way that is no failure.
    pub fn ended_well(&self, round: Round) -> bool {
        let fate = self.fates.get(&round);
        fate.is_some_and(|fate| fate.empty || fate.confirmed.is_some())
    }
}

impl World {
    fn broken(&mut self, i: usize, rule: &str, why: &str) {
        self.fail(format!("{rule}: process {i}: {why}"));
    }

    // ---- rule 1 ---------------------------------------------------------------------------------------------

    /// A nonce was used just now.
    pub fn check_nonce_use(&mut self, i: usize, order: &LabelOrder, _made: &PartialSignature) {
        let what = (order.sighash.to_bytes(), order.aggregate_nonce.to_bytes());
        let before = self.checker.nonces.insert(order.nonce.to_bytes(), what);
        if before.is_some() {
            // Also for the same digest: it is one coincidence away from two.
            self.broken(i, "rule 1", "a nonce signed twice");
        }
    }

    // ---- what leaves ----------------------------------------------------------------------------------------

    /// An honest process is about to send this.
    pub fn check_message(&mut self, i: usize, message: &Message) {
        match message {
            Message::Response(body) => {
                let key = (i, body.content.round);
                let content = body.content.clone();
                let before = self.checker.responses.insert(key, content.clone());
                if before.is_some_and(|before| before.entries != content.entries) {
                    self.broken(i, "rule 4", "two different responses in one round");
                }
                self.check_response(i, &content);
            }
            Message::PartialSignature(body) => {
                if let Err(why) = self.check_partials(i, &body.content) {
                    self.broken(i, "signed unchecked", &why);
                }
            }
            Message::RoundFailed(failed) => {
                for blame in &failed.blamed {
                    let accused = blame.member;
                    self.check_blame(i, accused, true);
                }
            }
            _ => {}
        }
    }

    /// Rule 10: one update per DID until the one before is settled.
    fn check_response(&mut self, i: usize, response: &Response) {
        let updates = self.updates_in(i, response);
        for (did, update) in updates {
            if let Some(other) = self.conflicting(i, did, response.round, &update) {
                self.broken(
                    i,
                    "rule 10",
                    &format!("a second update while {other:?} lives"),
                );
            }
        }
    }

    /// The updates that a response announces, by the number of the DID.
    fn updates_in(&self, i: usize, response: &Response) -> BTreeMap<usize, UpdateHash> {
        use super::members::{smt_nonce, update};
        let process = &self.processes[i];
        let mut found = BTreeMap::new();
        for (number, did) in process.dids.iter().enumerate() {
            let made = self.updates_made(i, &did.index);
            match &response.entries {
                Entries::Cas(entries) => {
                    let entry = entries.iter().find(|entry| entry.did == did.did);
                    if let Some(update) = entry.and_then(|entry| entry.update) {
                        found.insert(number, update);
                    }
                }
                Entries::Smt(entries) => {
                    let entry = entries.iter().find(|entry| entry.index == did.index);
                    let Some(leaf) = entry.and_then(|entry| entry.leaf) else {
                        continue;
                    };
                    let nonce = smt_nonce(process.public(), response.round, &did.index);
                    let hidden = sha256(nonce.as_bytes());
                    let of = |n: u32| {
                        let update = update(&did.index, n);
                        let with = sha256(&[hidden, update.to_bytes()].concat());
                        (with == leaf.to_bytes()).then_some(update)
                    };
                    if let Some(update) = (1..=made).find_map(of) {
                        found.insert(number, update);
                    }
                }
            }
        }
        found
    }

    /// Another update of the DID in a signal that this member signed in an earlier round, and that is neither dead
    /// nor final.
    fn conflicting(
        &self,
        i: usize,
        did: usize,
        round: Round,
        update: &UpdateHash,
    ) -> Option<UpdateHash> {
        let saw = self.processes[i].saw.as_ref()?;
        let signed = self.checker.signed.get(&i)?;
        let is_final = |signal: &[u8; 32]| {
            saw.view.signals.values().any(|seen| {
                let deep = |height| saw.view.confirmations(height) >= FINAL_DEPTH;
                seen.signal.to_bytes() == *signal && seen.height.is_some_and(deep)
            })
        };
        // The same update may have been announced twice: final once is final.
        let settled: BTreeSet<UpdateHash> = signed
            .iter()
            .filter(|signed| is_final(&signed.signal))
            .filter_map(|signed| signed.updates.get(&did).copied())
            .collect();
        signed
            .iter()
            .filter(|signed| signed.round < round)
            .filter(|signed| {
                let dead = saw.view.spends.get(&signed.input).is_some_and(|spend| {
                    let ours = saw.view.signals.get(&spend.by);
                    ours.is_none_or(|seen| seen.signal.to_bytes() != signed.signal)
                        && spend
                            .height
                            .is_some_and(|height| saw.view.confirmations(height) >= FINAL_DEPTH)
                });
                !dead
            })
            .filter_map(|signed| signed.updates.get(&did).copied())
            .find(|other| other != update && !settled.contains(other))
    }

    fn check_partials(&mut self, i: usize, content: &Partials) -> Result<(), String> {
        let (round, attempt) = (content.round, content.attempt);
        let text = serde_json::to_string(content).map_err(|error| error.to_string())?;
        if let Some(before) = self.checker.sent.insert((i, round, attempt), text.clone())
            && before != text
        {
            return Err("rule 1: another partial signature for the same session".into());
        }
        let process = &self.processes[i];
        let core = process.core.member();
        let (set, keys) = core.set().ok_or("it knows no set")?;
        let response = self.checker.responses.get(&(i, round));
        let response = response.ok_or("it never responded in that round")?;
        let replaces = process.heard.iter().any(|message| {
            matches!(&**message, Message::RoundResult(result)
                if result.round == round && result.tx.is_some())
        });
        let known = Knowledge {
            terms: &self.config.terms,
            policy: self.config.policies[i - 1],
            script: beacon_script(keys.output_key()),
            payees: set.refund_scripts(&self.config.terms),
            keys: {
                let mut sorted: Vec<[u8; 32]> = set.keys.iter().map(|k| k.to_bytes()).collect();
                sorted.sort_unstable();
                sorted
            },
            output_key: keys.output_key().serialize(),
            response,
            inputs_before: self.checker.inputs.get(&(i, round)).cloned(),
            replaces,
        };
        let found = recheck(process, &known, content)?;
        for (label, nonce) in &content.nonces {
            let used = self.checker.nonces.get(&nonce.to_bytes());
            let used = used.ok_or("a nonce that the signer did not use")?;
            if used.0 != found.sighashes[label] {
                return Err(format!("{label} was signed for another digest"));
            }
        }
        self.check_durable(i, round, &found.signal, response)?;
        self.check_lineage(i, round, &found.inputs, &found.signal)?;
        let response = response.clone();
        let signed = SignedSignal {
            round,
            signal: found.signal,
            input: found.inputs[0],
            updates: self.updates_in(i, &response),
        };
        for txid in self.processes[i]
            .core
            .member()
            .given()
            .iter()
            .map(|given| given.txid)
        {
            self.checker.approved.entry(txid).or_default().insert(i);
        }
        self.checker
            .inputs
            .entry((i, round))
            .or_insert(found.inputs);
        self.checker.signed.entry(i).or_default().push(signed);
        Ok(())
    }

    /// Rules 5 and 13: what explains this signal, and every one before it, is on the disk.
    fn check_durable(
        &self,
        i: usize,
        round: Round,
        signal: &[u8; 32],
        response: &Response,
    ) -> Result<(), String> {
        let process = &self.processes[i];
        let core = process.core.member();
        for did in &process.dids {
            let listed = match &response.entries {
                Entries::Smt(entries) => entries.iter().any(|entry| entry.index == did.index),
                Entries::Cas(entries) => entries.iter().any(|entry| entry.did == did.did),
            };
            let bound = core.binding_state(&did.index) == Some(BindingState::Bound);
            if (listed || bound) && !self.explains(i, &did.index, signal) {
                return Err(format!(
                    "rule 5: round {round}, nothing on the disk explains it for {}",
                    did.did
                ));
            }
            let Some(saw) = process.saw.as_ref().filter(|_| bound) else {
                continue;
            };
            for seen in saw.view.signals.values() {
                if !self.explains(i, &did.index, &seen.signal.to_bytes()) {
                    return Err(format!(
                        "rule 13: {} can not explain {}",
                        did.did, seen.signal
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether an artifact on the disk of `i` explains a signal for an index.
    fn explains(&self, i: usize, of: &SmtIndex, signal: &[u8; 32]) -> bool {
        let artifacts = &self.processes[i].disk.artifacts;
        artifacts.iter().any(|artifact| match artifact {
            Artifact::SmtProof {
                index, signal: s, ..
            } => index == of && s.to_bytes() == *signal,
            Artifact::Announcement { signal: s, .. } => s.to_bytes() == *signal,
            _ => false,
        })
    }

    /// Rule 4: what may still confirm spends the same output; a round has one value.
    fn check_lineage(
        &self,
        i: usize,
        round: Round,
        inputs: &[OutPoint],
        signal: &[u8; 32],
    ) -> Result<(), String> {
        let Some(signed) = self.checker.signed.get(&i) else {
            return Ok(());
        };
        let saw = self.processes[i].saw.as_ref().ok_or("it saw no chain")?;
        for other in signed {
            if other.round == round && other.signal != *signal {
                return Err("rule 4: two values in one round".into());
            }
            let spend = saw.view.spends.get(&other.input);
            let depth = u32::from(self.config.terms.depth);
            let settled = spend.is_some_and(|spend| {
                let deep = spend
                    .height
                    .is_some_and(|height| saw.view.confirmations(height) >= depth);
                let itself = saw.view.signals.get(&spend.by);
                let itself = itself.is_some_and(|seen| seen.signal.to_bytes() == other.signal);
                deep || (itself && spend.height.is_some())
            });
            if !settled && other.input != inputs[0] {
                return Err(format!(
                    "rule 4: the signal of round {} may still confirm beside it",
                    other.round
                ));
            }
        }
        Ok(())
    }

    // ---- what is stored -------------------------------------------------------------------------------------

    /// Whatever is kept for the life of a DID has to be right.
    pub fn check_artifact(&mut self, i: usize, artifact: &Artifact) {
        if self.is_bad(i) {
            return;
        }
        match artifact {
            Artifact::SmtProof {
                index,
                signal,
                nonce,
                update,
                path,
                ..
            } => {
                let hidden = nonce.as_ref().map(|nonce| sha256(nonce.as_bytes()));
                let leaf = match (hidden, update) {
                    (None, None) => sha256(&[0; 64]),
                    (None, Some(update)) => update.to_bytes(),
                    (Some(hidden), None) => sha256(&hidden),
                    (Some(hidden), Some(update)) => sha256(&[hidden, update.to_bytes()].concat()),
                };
                if fold(path, index.as_bytes(), leaf) != Some(signal.to_bytes()) {
                    self.broken(i, "rule 5", "a proof is kept that proves something else");
                }
            }
            Artifact::Announcement {
                signal,
                announcement,
                ..
            } if sha256(announcement.as_bytes()) != signal.to_bytes() => {
                self.broken(i, "rule 5", "an announcement of another signal is kept");
            }
            Artifact::SignedTransaction { tx, .. } => self.check_signed(i, tx),
            _ => {}
        }
    }

    /// What is kept as signed is: a node would take it.
    pub fn check_signed(&mut self, i: usize, tx: &Transaction) {
        let inputs = tx.input.iter();
        let spent: Option<Vec<_>> = inputs
            .map(|input| self.chain.output(&input.previous_output).cloned())
            .collect();
        if let Some(spent) = spent
            && let Err(why) = super::chain::verify_scripts(tx, &spent)
        {
            self.broken(i, "rule 7", &format!("a bad signature was taken: {why}"));
        }
    }

    /// Rule 13: a DID lists the beacon only once all there is can be explained.
    pub fn check_bound(&mut self, i: usize, input: &Input) {
        let Input::Member(ParticipantInput::Bound { index }) = input else {
            return;
        };
        if self.is_bad(i) || !self.is_bound(i, index) {
            return;
        }
        let saw = self.processes[i].saw.as_ref();
        let seen = saw.map(|saw| saw.view.signals.values().map(|seen| seen.signal.to_bytes()));
        let unexplained = seen
            .into_iter()
            .flatten()
            .any(|signal| !self.explains(i, index, &signal));
        if unexplained {
            self.broken(
                i,
                "rule 13",
                "a DID was bound before its history was complete",
            );
        }
    }

    fn is_bound(&self, i: usize, index: &SmtIndex) -> bool {
        self.processes[i].core.member().binding_state(index) == Some(BindingState::Bound)
    }

    /// What a member acknowledges: its key once, its payee as it said, a count within the terms.
    fn check_set(&mut self, i: usize) {
        let process = &self.processes[i];
        let Some((set, _)) = process.core.member().set() else {
            return self.broken(i, "formation", "acknowledged no set");
        };
        let me = process.public();
        let mine = set.keys.iter().filter(|key| **key == me).count();
        let mut distinct = set.keys.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let payee = self.config.payees.then(|| {
            let payee = super::members::key(&format!("payee of member {i}"));
            beacon_script(payee.keypair().x_only_public_key().0)
        });
        let count = set.keys.len() == usize::from(self.config.terms.seats_max);
        let own = set.payees.get(&me) == payee.as_ref();
        let odd = set
            .payees
            .values()
            .any(|script| script.as_bytes().first() == Some(&0x6a));
        if mine != 1 || distinct.len() != set.keys.len() || !count || !own || odd {
            self.broken(
                i,
                "formation",
                "acknowledged a set that is not what it agreed to",
            );
        }
    }

    /// Rule 8: what a replay of the log gives is what was in memory.
    pub fn check_replay(&mut self, i: usize) {
        let Some(Some(before)) = self.checker.state_at_crash.remove(&i) else {
            return;
        };
        let after = self.processes[i].core.state();
        // Rule 12: neither state nor log ever holds the seat's secret.
        let secret = btcr2_agent::hash::to_hex(&self.processes[i].own.keypair().secret_bytes());
        let log = format!("{:?}", self.processes[i].disk.log.last());
        if after.contains(&secret) || log.contains(&secret) {
            self.broken(i, "rule 12", "the secret of a seat is in state or log");
        }
        if before != after {
            let why = difference(&before, &after);
            self.broken(i, "rule 8", &why);
        }
    }

    // ---- what comes in --------------------------------------------------------------------------------------

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
        if let Outcome::Blamed(member) = step.outcome {
            self.check_blame(i, member, true);
        }
    }

    /// Rule 7: an honest member is never shown to have done wrong.
    fn check_blame(&mut self, i: usize, accused: NostrKey, proved: bool) {
        self.checker.blames += 1;
        let who = self.processes.iter().position(|p| p.public() == accused);
        let honest = who.is_some_and(|who| !self.checker.bad.contains(&who));
        if proved && honest && !self.is_bad(i) {
            self.broken(i, "rule 7", &format!("{who:?} is honest, and was framed"));
        }
    }

    // ---- what is said ---------------------------------------------------------------------------------------

    pub fn check_report(&mut self, i: usize, report: &Report) {
        if self.is_bad(i) {
            return;
        }
        self.line(14, i, 0, || {
            format!("says {report:?}").chars().take(200).collect()
        });
        match report {
            Report::SetAcknowledged { .. } => self.check_set(i),
            Report::SignalConfirmed { txid, .. } => {
                let seen = self.in_block(i, txid);
                self.checker
                    .says_confirmed
                    .entry(i)
                    .or_default()
                    .insert(*txid);
                if !seen {
                    self.broken(i, "rule 9", "called confirmed what its chain does not show");
                }
            }
            Report::SignalReorganised { txid, .. } => {
                self.checker
                    .says_confirmed
                    .entry(i)
                    .or_default()
                    .remove(txid);
            }
            Report::SignalBroadcast { txid, .. } if !self.checker.taken.contains(txid) => {
                self.broken(i, "rule 9", "called broadcast what no node took");
            }
            Report::MemberBlamed { blame, proved } => {
                self.check_blame(i, blame.member, *proved);
                if let Fault::BadPartial { partials, .. } = &blame.fault
                    && *proved
                    && !partials.verifies(&self.cohort, blame.member)
                {
                    self.broken(i, "rule 7", "the evidence is not signed by the accused");
                }
            }
            _ => {}
        }
        if i == 0 {
            self.check_round_report(report);
        }
    }

    fn check_round_report(&mut self, report: &Report) {
        match report {
            Report::RoundEmpty { round } => {
                self.checker.fates.entry(*round).or_default().empty = true;
            }
            Report::SignalConfirmed { round, txid, .. } => {
                let fate = self.checker.fates.entry(*round).or_default();
                fate.confirmed = Some(*txid);
            }
            Report::SignalReorganised { round, .. } => {
                self.checker.fates.entry(*round).or_default().confirmed = None;
            }
            Report::RoundFailed { round, why } => {
                self.checker.fates.entry(*round).or_default().failed = Some(why.clone());
                let settled = self.settled_rounds().contains(round);
                if self.config.family == Family::Faults && settled {
                    self.broken(0, "liveness", &format!("round {round} failed: {why:?}"));
                }
                if *why == RoundCause::Operator {
                    // Nobody ends a round by hand here: the machine gave up, and named nobody.
                    self.broken(0, "rule 7", &format!("round {round} was killed"));
                }
                self.check_named(why);
            }
            _ => {}
        }
    }

    /// Where everything but some members works, a round that fails names them and nobody else.
    fn check_named(&mut self, why: &RoundCause) {
        if !self.config.calm || self.config.family != Family::BadMembers {
            return;
        }
        let (RoundCause::NoResponse { absent } | RoundCause::NoSignature { absent }) = why else {
            return;
        };
        let set = self.processes[0].core.aggregator().set();
        let Some(keys) = set.map(|(set, _)| set.keys.clone()) else {
            return;
        };
        let honest: Vec<&Seat> = absent
            .iter()
            .filter(|seat| {
                let key = keys.get(usize::from(seat.0));
                let who = self.processes.iter().position(|p| Some(&p.public()) == key);
                who.is_none_or(|who| !self.checker.bad.contains(&who))
            })
            .collect();
        if absent.is_empty() || !honest.is_empty() {
            let why = format!("{why:?} names {honest:?}, who answered in time");
            self.broken(0, "names the culprit", &why);
        }
    }

    fn in_block(&self, i: usize, txid: &Txid) -> bool {
        let saw = self.processes[i].saw.as_ref();
        saw.and_then(|saw| saw.view.signals.get(txid))
            .is_some_and(|seen| seen.height.is_some())
    }

    /// Rule 9, after it looked at the chain: what it says is confirmed is what the chain shows.
    pub fn check_confirmations(&mut self, i: usize) {
        if self.is_bad(i) {
            return;
        }
        let says = self.checker.says_confirmed.get(&i).cloned();
        for txid in says.unwrap_or_default() {
            if !self.in_block(i, &txid) && !self.is_final(&txid) {
                self.broken(
                    i,
                    "rule 9",
                    &format!("{txid} left the chain, and nothing was said"),
                );
            }
        }
    }

    fn is_final(&self, _txid: &Txid) -> bool {
        false
    }

    /// How many signals are in blocks.
    pub fn confirmed_signals(&self) -> u64 {
        let placed = self
            .chain
            .txs
            .values()
            .filter(|placed| placed.height.is_some());
        let signals = placed.filter(|placed| signal_of(&placed.tx).is_some());
        signals.count() as u64
    }

    // ---- the chain ------------------------------------------------------------------------------------------

    /// Rule 5: what is sent was kept before.
    pub fn check_broadcast(&mut self, i: usize, tx: &Transaction) {
        if self.is_bad(i) {
            return;
        }
        let artifacts = &self.processes[i].disk.artifacts;
        let kept = artifacts.iter().any(|artifact| {
            matches!(artifact, Artifact::SignedTransaction { tx: kept, .. } if kept == tx)
        });
        let signal = signal_of(tx);
        let explained = i > 0
            || artifacts.iter().any(|artifact| match artifact {
                Artifact::LeafSet { signal: s, .. } | Artifact::Announcement { signal: s, .. } => {
                    Some(s.to_bytes()) == signal
                }
                _ => false,
            });
        if !kept || !explained {
            self.broken(i, "rule 5", "broadcast before it was kept");
        }
        self.check_signed(i, tx);
    }

    /// Money and meaning: whatever spent the beacon was approved by every honest member, and each can explain it.
    pub fn check_chain(&mut self) {
        let Some(script) = self.chain.script.clone() else {
            return;
        };
        let spends = |tx: &Transaction| {
            tx.input.iter().any(|input| {
                let spent = self.chain.output(&input.previous_output);
                spent.is_some_and(|output| output.script_pubkey == script)
            })
        };
        let found: Vec<Txid> = self
            .chain
            .txs
            .iter()
            .filter(|(_, placed)| spends(&placed.tx))
            .map(|(txid, _)| *txid)
            .collect();
        for txid in found {
            if !self.checker.taken.insert(txid) {
                continue;
            }
            for i in 1..self.processes.len() {
                if self.is_bad(i) {
                    continue;
                }
                let signed = self.checker.approved.get(&txid);
                if !signed.is_some_and(|who| who.contains(&i)) {
                    let why = format!("{txid} spends the beacon, and it did not sign it");
                    self.broken(i, "money", &why);
                    return;
                }
                let signal = signal_of(&self.chain.txs[&txid].tx);
                let dids: Vec<_> = self.processes[i].dids.iter().map(|did| did.index).collect();
                for index in dids {
                    let core = self.processes[i].core.member();
                    let bound = core.binding_state(&index) == Some(BindingState::Bound);
                    let Some(signal) = signal.filter(|_| bound && self.processes[i].up) else {
                        continue;
                    };
                    if !self.explains(i, &index, &signal) {
                        self.broken(i, "rule 13", "a signal that a bound DID can not explain");
                    }
                }
            }
        }
    }

    // ---- the end --------------------------------------------------------------------------------------------

    /// Liveness, and that everybody who is honest can explain everything.
    pub fn check_end(&mut self) {
        let ended = matches!(self.processes[0].core.aggregator().phase(), Phase::Ended(_));
        let leaves = ended && self.config.peers.iter().any(|p| p.leaves_at.is_none());
        let live = self.config.family == Family::Faults && !self.left;
        if live && (ended || !self.is_done()) {
            let phase = self.processes[0].core.aggregator().phase().clone();
            let open = self.processes[0].core.aggregator().open_refusal();
            let why = format!(
                "the rounds did not end in confirmed signals: {phase:?}, {open:?}, rounds {:?}",
                self.checker.fates
            );
            self.broken(0, "liveness", &why);
        }
        let _ = leaves;
        let cas = self.config.terms.beacon == CohortBeacon::Cas;
        for i in 1..self.processes.len() {
            if self.is_bad(i) || !self.processes[i].up {
                continue;
            }
            let Some(saw) = self.processes[i].saw.clone() else {
                continue;
            };
            for did in 0..self.processes[i].dids.len() {
                let index = self.processes[i].dids[did].index;
                let core = self.processes[i].core.member();
                if core.binding_state(&index) != Some(BindingState::Bound) {
                    continue;
                }
                for seen in saw.view.signals.values() {
                    if !self.explains(i, &index, &seen.signal.to_bytes()) {
                        let why = format!("DID {did} can not explain {} (cas: {cas})", seen.signal);
                        self.broken(i, "rule 13", &why);
                    }
                }
            }
        }
    }
}
