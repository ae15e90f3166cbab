//! Fallbacks, as a member lives them: a stalled round's signal, signed through the k-of-n leaf (output policy
//! `k-of-n`, spec.md §6.6 S2).
//!
//! What the signal announces comes whole, before anybody signs. A member first makes its own proofs of it and keeps
//! them with the whole, whether it is going to sign or not: k others can bring the signal to the chain without it.
//! Then it signs under the same checks as ever. What it signed counts as a partial signature given (rules 4 and 10).
//!
//! Where such a signal is stuck, the same is asked for again at a higher fee: same inputs, same bytes. Any of these
//! transactions may confirm, and at most one does, because all spend the tip.

mod reading;
mod replacing;
mod responded;
mod signed;

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::{Amount, OutPoint, Script, Transaction, Txid};

use super::checks::Verdict;
use super::{MemberPhase, Participant};
use crate::beacon::cas::CasAnnouncement;
use crate::beacon::fallback::FallbackLeaf;
use crate::beacon::signal::{BeaconOutput, SignalFault, check_signal, signal_of};
use crate::beacon::smt::{EMPTY_LEAF, SmtTree};
use crate::hash::{SignalBytes, SmtIndex, UpdateHash};
use crate::protocol::effect::{Effect, FallbackOrder, Ignored, Report, Step};
use crate::protocol::evidence::Sighash;
use crate::protocol::ids::{MAX_RUNGS, Round};
use crate::protocol::message::{FallbackRequest, Message, RefusalCode, Refused, RoundResult};
use crate::protocol::set::fallback_leaf;
use crate::protocol::terms::OutputPolicy;
use crate::time::UnixTime;
use serde::{Deserialize, Serialize};

use super::coverage::BindingState;

/// Fallbacks remembered: what is older was confirmed or outlived long ago.
const REMEMBERED: usize = 64;

/// Results kept until their requests come: a transaction each.
const MAX_EARLY: usize = 8;

/// The place of the first among the transactions of its round: above every rung of the ladder.
const RUNG: u8 = MAX_RUNGS + 1;

/// Seconds for which a spend that nobody told this member of is no alarm under a k-of-n policy: k others may have
/// signed it while this member was away, and their message be on its way still.
const GRACE_SECONDS: u64 = 3_600;

/// Where this member is with a fallback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// Not decided: a later fact may allow it.
    Waiting,
    /// The driver is asked for signatures.
    Signing,
    /// Signatures were given.
    Signed,
    /// This member does not sign it, or not any more.
    Over,
}

/// A fallback this member was told of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct MyFallback {
    round: Round,
    tx: Transaction,
    txid: Txid,
    signal: SignalBytes,
    /// What it spends; once this member signs as the own chain shows it, before as the request claims.
    inputs: Vec<BeaconOutput>,
    /// What is signed for each of them.
    sighashes: Vec<Sighash>,
    sign_by: UnixTime,
    heard: UnixTime,
    /// Why what is announced for own indexes keeps this member from signing, if it does.
    objection: Option<String>,
    stage: Stage,
    /// The signed transaction, once it came and verified.
    #[serde(with = "crate::protocol::snapshot::maybe_tx")]
    complete: Option<Transaction>,
    last_refusal: String,
}

impl MyFallback {
    fn input(&self) -> OutPoint {
        let first = self.inputs.first();
        first.map_or_else(OutPoint::null, |input| input.outpoint)
    }

    fn fee(&self) -> Amount {
        let sum = |values: &mut dyn Iterator<Item = Amount>| {
            values.fold(0_u64, |sum, value| sum.saturating_add(value.to_sat()))
        };
        let spent = sum(&mut self.inputs.iter().map(|input| input.value));
        let paid = sum(&mut self.tx.output.iter().map(|output| output.value));
        Amount::from_sat(spent.saturating_sub(paid))
    }

    /// Whether this member's signatures exist, or are about to.
    const fn is_signed(&self) -> bool {
        matches!(self.stage, Stage::Signing | Stage::Signed)
    }
}

/// What is known of fallbacks and of spends that may be ones.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Fallbacks {
    /// In the order in which they came: of a round the first, and what replaces it.
    known: Vec<MyFallback>,
    /// Results that came before their requests, the oldest first.
    early: Vec<(Txid, RoundResult)>,
    /// Spends nobody told of, and when they were first seen.
    unexplained: BTreeMap<Txid, UnixTime>,
    /// What this member said in rounds that are not decided.
    responded: BTreeMap<Round, responded::Plan>,
    /// What it said first in those of them in which the aggregator refused that.
    #[serde(default)]
    taken_back: BTreeMap<Round, responded::Plan>,
    /// Rounds up to this one were opened before this member's store was made again: 0 if it never was.
    #[serde(default)]
    left_alone: u32,
}

impl Fallbacks {
    fn knows(&self, txid: &Txid) -> bool {
        self.known.iter().any(|known| known.txid == *txid)
    }

    /// Those of a round.
    fn of(&self, round: Round) -> impl Iterator<Item = &MyFallback> {
        self.known.iter().filter(move |known| known.round == round)
    }

    /// The one of a round that is this transaction.
    fn find_mut(&mut self, round: Round, txid: &Txid) -> Option<&mut MyFallback> {
        let mut known = self.known.iter_mut();
        known.find(|known| known.round == round && known.txid == *txid)
    }

    /// What the fallbacks announce that are being signed.
    pub(super) fn signing(&self) -> impl Iterator<Item = SignalBytes> {
        let signing = self.known.iter();
        let signing = signing.filter(|known| known.stage == Stage::Signing);
        signing.map(|known| known.signal)
    }

    /// The fallbacks whose transaction came with all its signatures: round, tip, transaction.
    pub(super) fn complete(&self) -> impl Iterator<Item = (Round, OutPoint, &Transaction)> {
        self.known.iter().filter_map(|known| {
            let tx = known.complete.as_ref()?;
            Some((known.round, known.input(), tx))
        })
    }

    /// When the next unexplained spend becomes an alarm.
    pub(super) fn alarm_due(&self) -> Option<UnixTime> {
        let first = self.unexplained.values().min();
        first.map(|seen| seen.plus(GRACE_SECONDS))
    }
}

/// What a signal announces, ready to be asked.
enum Published {
    Smt(SmtTree),
    Cas(CasAnnouncement),
}

impl Published {
    /// Whether a tree is not empty there. A leaf without an update is one, too.
    fn has_leaf(&self, index: &SmtIndex) -> bool {
        matches!(self, Self::Smt(tree) if tree.value_at(index) != EMPTY_LEAF)
    }
}

/// What a signal announces for one of this member's indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// Nothing.
    Nothing,
    /// What this member submitted, with its update if it has one.
    Mine(Option<UpdateHash>),
    /// What this member submitted first, and the aggregator refused.
    TakenBack(Option<UpdateHash>),
    /// Something else.
    Foreign,
}

impl Participant {
    /// The leaf, if the terms have one and the set is known.
    fn leaf(&self) -> Option<FallbackLeaf> {
        let (_, keys) = self.set.as_ref()?;
        fallback_leaf(&self.terms, keys)
    }

    pub(super) fn fallback_request(&mut self, now: UnixTime, request: FallbackRequest) -> Step {
        let (Some(seat), MemberPhase::Active) = (self.seat(), &self.phase) else {
            return Step::ignored(Ignored::WrongPhase);
        };
        let Some(leaf) = self.leaf() else {
            return Self::contradiction("a fallback is asked for, which the terms do not have");
        };
        let round = request.round;
        let tx = request.tx.0;
        let txid = tx.compute_txid();
        if let Some(known) = self.fallbacks.find_mut(round, &txid) {
            // Too few signed it in time, and it is asked for once more.
            let later = request.sign_by > known.sign_by && known.complete.is_none();
            if !later || known.is_signed() {
                return Step::ignored(Ignored::Duplicate);
            }
            known.sign_by = request.sign_by;
            known.stage = Stage::Waiting;
            return Step::with(self.after_facts());
        }
        let (signal, published) = match self.read(&request.announced) {
            Ok(read) => read,
            Err(why) => return Self::contradiction(&why),
        };
        if signal_of(&tx) != Some(signal) {
            return Self::contradiction("what a fallback announces does not hash to its signal");
        }
        let claims = tx.input.iter().zip(&request.prevouts);
        let inputs: Vec<BeaconOutput> = claims
            .map(|(input, claim)| BeaconOutput {
                outpoint: input.previous_output,
                value: Amount::from_sat(claim.value_sat).min(Amount::MAX_MONEY),
                height: None,
            })
            .collect();
        let Some(sighashes) = sighashes(&leaf, &tx, &inputs, &self.script) else {
            return Self::contradiction("a fallback does not say what it spends");
        };
        let fallback = MyFallback {
            round,
            tx,
            txid,
            signal,
            inputs,
            sighashes,
            sign_by: request.sign_by,
            heard: now,
            objection: None,
            stage: Stage::Waiting,
            complete: None,
            last_refusal: String::new(),
        };
        if self.fallbacks.of(round).next().is_some() {
            return self.further_fallback(now, fallback);
        }
        // Order on the wire is not the order of events: the opening may come after this, and is over.
        self.last_round = self.last_round.max(round.0);
        let said = self.what_is_said(round, &published);
        let absent = request.absent.contains(&seat);
        let objection = self.objection(round, absent, &said, &published);
        // What this member said is forgotten when the round is settled; what it proved then was made of that.
        let proved = |index| {
            let mine = self.indexes.get(index);
            mine.is_some_and(|mine| mine.proved.contains(&signal))
        };
        let mut announced = said.iter();
        let foreign = announced.any(|(index, said)| *said == Said::Foreign && !proved(index));
        let mut effects = self.keep(round, signal, txid, &request.announced, &published, &said);
        if foreign {
            effects.push(Effect::Report(Report::Alarm {
                text: format!(
                    "the fallback of round {round} announces something for an index of mine that I did not submit"
                ),
            }));
        }
        effects.extend(self.blamed(request.blamed));
        effects.push(Effect::Report(Report::FallbackOpened {
            round,
            absent: request.absent,
            threshold: leaf.threshold(),
            why: self.told(round, request.why),
        }));
        self.remember(
            now,
            MyFallback {
                objection,
                ..fallback
            },
            effects,
        )
    }

    fn remember(&mut self, now: UnixTime, fallback: MyFallback, mut effects: Vec<Effect>) -> Step {
        let (round, txid) = (fallback.round, fallback.txid);
        self.fallbacks.known.push(fallback);
        if self.fallbacks.known.len() > REMEMBERED {
            self.fallbacks.known.remove(0);
        }
        effects.extend(self.adopt_seen());
        let mut early = self.fallbacks.early.iter();
        let early = early.position(|(of, result)| *of == txid && result.round == round);
        if let Some(early) = early {
            let (_, result) = self.fallbacks.early.remove(early);
            let step = self.fallback_result(now, &result);
            effects.extend(step.into_iter().flat_map(|step| step.effects));
        }
        effects.extend(self.after_facts());
        Step::with(effects)
    }

    /// Checks the latest fallback that waits for a decision; orders the signatures when everything holds.
    pub(super) fn try_fallback(&mut self) -> Vec<Effect> {
        let Some(round) = self.fallbacks.known.iter().map(|known| known.round).max() else {
            return Vec::new();
        };
        // One after the other: what is ordered is found again by its round.
        let of_round = || self.fallbacks.of(round);
        if of_round().any(|known| known.stage == Stage::Signing) {
            return Vec::new();
        }
        let waits = |known: &&MyFallback| known.stage == Stage::Waiting && known.complete.is_none();
        let Some(fallback) = of_round().find(waits) else {
            return Vec::new();
        };
        let txid = fallback.txid;
        let replaces = self.is_complete_otherwise(round, &txid);
        let over = self.now > fallback.sign_by || round.0 < self.last_round;
        let verdict = if over {
            None
        } else {
            Some(self.examine_fallback(round, fallback))
        };
        let Some(fallback) = self.fallbacks.find_mut(round, &txid) else {
            return Vec::new();
        };
        let (reason, waiting) = match verdict {
            None => {
                fallback.stage = Stage::Over;
                return Vec::new();
            }
            Some(Ok((inputs, sighashes))) => {
                fallback.stage = Stage::Signing;
                fallback.inputs = inputs;
                fallback.sighashes.clone_from(&sighashes);
                let fixed = Report::SignalFixed {
                    round,
                    attempt: 0,
                    signal: fallback.signal,
                    txid: fallback.txid,
                    fee_sat: fallback.fee().to_sat(),
                };
                let fixed = (!replaces).then_some(Effect::Report(fixed));
                let order = Effect::SignFallback(FallbackOrder { round, sighashes });
                return fixed.into_iter().chain([order]).collect();
            }
            Some(Err(Verdict::Wait(reason))) => (reason, true),
            Some(Err(Verdict::Never(reason))) => (reason, false),
            Some(Err(Verdict::Approved(_))) => return Vec::new(),
        };
        let mut effects = Vec::new();
        let known = fallback.last_refusal == reason;
        fallback.last_refusal.clone_from(&reason);
        if !waiting {
            fallback.stage = Stage::Over;
            effects.push(self.send(Message::Refused(Refused {
                of: "fallback_request".into(),
                code: RefusalCode::WillNotSign,
                round: Some(round),
            })));
        }
        if !known {
            effects.push(Effect::Report(Report::SignRefused {
                round,
                reason,
                waiting,
            }));
        }
        effects
    }

    /// Rules 2, 3, 4 and 13, as for any signal; gives what is spent, and the digests to sign.
    fn examine_fallback(
        &self,
        round: Round,
        fallback: &MyFallback,
    ) -> Result<(Vec<BeaconOutput>, Vec<Sighash>), Verdict> {
        let never = |text: &str| Verdict::Never(text.to_owned());
        if round.0 <= self.fallbacks.left_alone {
            return Err(never(
                "the round is older than this store, which was restored",
            ));
        }
        if let Some(objection) = &fallback.objection {
            return Err(Verdict::Never(objection.clone()));
        }
        if self.announces_otherwise(round, &fallback.signal) {
            return Err(never("other bytes than I signed in this round"));
        }
        let leaf = self
            .leaf()
            .ok_or_else(|| never("the terms have no fallback"))?;
        let (tip, further) = match self.chain.ready_output(self.terms.depth) {
            Some(tip) => (tip, self.chain.ready_extra(self.terms.depth)),
            None => self.in_flight(fallback)?,
        };
        self.check_further(fallback)?;
        let limits = leaf.limits(&fallback.tx, &self.limits());
        let checked =
            check_signal(&fallback.tx, &tip, &further, &self.script, &limits).map_err(|fault| {
                match fault {
                    // The own backend may lag behind the aggregator's by a block.
                    SignalFault::NotTip { .. } | SignalFault::NotATopUp(_) => {
                        Verdict::Wait(fault.to_string())
                    }
                    _ => Verdict::Never(fault.to_string()),
                }
            })?;
        self.check_inputs_refunded(&fallback.tx, &checked.inputs)?;
        self.check_lineage(tip.outpoint)?;
        for (index, mine) in &self.indexes {
            let missing = self.missing(index).len();
            if mine.binding == BindingState::Bound && missing > 0 {
                return Err(Verdict::Wait(format!(
                    "{missing} proofs of earlier signals are missing for index {index}"
                )));
            }
        }
        // Digests come from what the own chain says is spent. Only where that is in flight already, by a signal that
        // this member did not sign, they come from the claims of the request: they commit to every value and script
        // that is spent (BIP-341), so where a claim is wrong the signature is of no use.
        let sighashes = sighashes(&leaf, &fallback.tx, &checked.inputs, &self.script)
            .ok_or_else(|| never("its inputs are not those of a signal"))?;
        Ok((checked.inputs, sighashes))
    }

    /// Rule 4: whether this member signed another 32 bytes in this round.
    pub(super) fn announces_otherwise(&self, round: Round, signal: &SignalBytes) -> bool {
        let approved = self
            .round
            .as_ref()
            .filter(|state| state.round == round)
            .and_then(|state| state.approved.as_ref());
        let signing = self.fallbacks.of(round).filter(|known| known.is_signed());
        let given = self.given.iter().filter(|given| given.round == round);
        given
            .map(|given| given.signal)
            .chain(approved.map(|approved| approved.ladder.signal))
            .chain(signing.map(|fallback| fallback.signal))
            .any(|known| known != *signal)
    }

    /// After a restart: signatures that were ordered and not made are ordered again. They need no nonce that could
    /// be lost, and what was sent is sent again as it is.
    pub(super) fn fallback_restarted(&self) -> Vec<Effect> {
        let ordered = self.fallbacks.known.iter();
        ordered
            .filter(|fallback| fallback.stage == Stage::Signing)
            .map(|fallback| {
                Effect::SignFallback(FallbackOrder {
                    round: fallback.round,
                    sighashes: fallback.sighashes.clone(),
                })
            })
            .collect()
    }

    /// The store was made again out of a bundle: what was open is left alone, also where the request is still to come.
    /// What the former life signed in these rounds is not known.
    pub(super) fn fallback_recovered(&mut self) {
        self.fallbacks.left_alone = self.last_round;
        let rounds: BTreeSet<Round> = self.fallbacks.known.iter().map(|k| k.round).collect();
        for round in rounds {
            self.close_fallbacks(round, |_| true);
        }
    }

    fn unknown_now(&mut self) -> BTreeSet<Txid> {
        self.learn_signed();
        let mut unknown = self.watch.unexplained(&self.chain);
        unknown.retain(|txid| !self.fallbacks.knows(txid));
        unknown
    }

    /// Spends that this member was told of after it saw them are no alarm any more.
    pub(super) fn forget_explained(&mut self) {
        if self.fallbacks.unexplained.is_empty() {
            return;
        }
        let unknown = self.unknown_now();
        let unexplained = &mut self.fallbacks.unexplained;
        unexplained.retain(|txid, _| unknown.contains(txid));
    }

    /// Spends of the beacon that this member neither signed nor was told of. All n sign every spend by the key of
    /// all, this member too: an unknown one means that somebody else has its key, or that the address is not what it
    /// was thought to be. Through a k-of-n leaf others can spend without it, and have to say so.
    pub(super) fn unknown_spends(&mut self) -> Vec<Effect> {
        let now = self.now;
        let unknown = self.unknown_now();
        if self.spent_before_reseat(&unknown) {
            return Vec::new();
        }
        let patient = matches!(self.terms.output_policy, OutputPolicy::KOfN(_));
        let unexplained = &mut self.fallbacks.unexplained;
        unexplained.retain(|txid, _| unknown.contains(txid));
        let mut effects = Vec::new();
        for txid in unknown {
            let first = *unexplained.entry(txid).or_insert(now);
            if patient && now < first.plus(GRACE_SECONDS) {
                continue;
            }
            unexplained.remove(&txid);
            self.watch.reported(txid);
            effects.push(Effect::Report(Report::UnknownSpend { txid }));
        }
        effects
    }
}

/// What is signed for each input through the leaf.
fn sighashes(
    leaf: &FallbackLeaf,
    tx: &Transaction,
    inputs: &[BeaconOutput],
    script: &Script,
) -> Option<Vec<Sighash>> {
    let digests = leaf.sighashes(tx, inputs, script)?;
    Some(digests.into_iter().map(Sighash::from_bytes).collect())
}
