//! Deposited updates: verified as they come, matched with what responses announce (see
//! [`crate::protocol::deposit`]).
//!
//! A deposit decides nothing by itself. It is verified at once, so that its sender knows before a round opens;
//! a response then announces its hash. What is refused costs its sender that announcement and nobody else
//! anything.

use std::collections::BTreeMap;

use bitcoin::{OutPoint, Txid};

use super::{Aggregator, Phase};
use crate::hash::{DocumentHash, SmtIndex, UpdateHash};
use crate::keys::NostrKey;
use crate::protocol::chain_view::ChainView;
use crate::protocol::deposit::{
    DepositFault, Deposited, DepositedItem, MAX_DEPOSIT_BYTES, UpdateDeposit, Verified,
    verify_deposit,
};
use crate::protocol::effect::{Artifact, Effect, Ignored, Outcome, Report, Step, To};
use crate::protocol::ids::Seat;
use crate::protocol::message::{Entries, Message, RefusalCode};
use crate::protocol::terms::Deposits as Term;
use crate::time::UnixTime;
use serde::{Deserialize, Serialize};

/// Seconds over which the deposits of a seat are counted.
const QUOTA_SECONDS: u64 = 3_600;

/// Deposits of a seat within [`QUOTA_SECONDS`] beside two for each of its DIDs: an update and a correction.
const QUOTA_BASE: usize = 8;

/// Bytes a seat may deposit within [`QUOTA_SECONDS`], beside [`QUOTA_BYTES_PER_DID`] for each of its DIDs: all of
/// them are logged.
const QUOTA_BYTES: usize = 4 * MAX_DEPOSIT_BYTES;

/// Twenty times what an update and a document need.
const QUOTA_BYTES_PER_DID: usize = 65_536;

/// Times within [`QUOTA_SECONDS`] that a seat is told of its quota: an answer to each would be another thing to
/// exhaust.
const QUOTA_ANSWERS: u8 = 8;

/// Announced deposits remembered per index, newest last. What a new one is compared with is the newest that
/// is not dead; more than a few in a row that die would need as many reorgs.
const MAX_ANNOUNCED: usize = 8;

/// A verified update.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Accepted {
    seat: Seat,
    update: UpdateHash,
    version: u64,
    source: DocumentHash,
    target: DocumentHash,
}

/// A verified update, and the signed signal that announces it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Announced {
    accepted: Accepted,
    /// The transactions that may carry it; at most one confirms.
    txids: Vec<Txid>,
    input: OutPoint,
}

/// What a seat has deposited since a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Quota {
    since: UnixTime,
    deposits: usize,
    bytes: usize,
    /// How often it was told that this is too much.
    told: u8,
}

/// What was deposited. Bounded by the registered indexes and the seats.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Deposits {
    /// The latest of each index.
    latest: BTreeMap<SmtIndex, Accepted>,
    announced: BTreeMap<SmtIndex, Vec<Announced>>,
    quotas: BTreeMap<Seat, Quota>,
}

/// Why a response is refused over its deposits.
pub(super) struct Unshown {
    pub(super) code: RefusalCode,
    /// What to say of single indexes.
    pub(super) items: Vec<DepositedItem>,
}

impl Unshown {
    const fn all(code: RefusalCode) -> Self {
        let items = Vec::new();
        Self { code, items }
    }
}

/// Whether a seat may deposit more now.
enum Admission {
    Yes,
    /// No, and it is told.
    Tell,
    /// No, and it knows.
    No,
}

impl Deposits {
    pub(super) fn waiting(&self) -> usize {
        let announced = |index: &SmtIndex, accepted: &Accepted| {
            let known = self.announced.get(index).into_iter().flatten();
            known
                .into_iter()
                .any(|a| a.accepted.update == accepted.update)
        };
        let waiting = self.latest.iter().filter(|(index, a)| !announced(index, a));
        waiting.count()
    }

    /// A signed signal announces these.
    pub(super) fn announce(
        &mut self,
        txids: &[Txid],
        input: OutPoint,
        deposits: Vec<(SmtIndex, Accepted)>,
    ) {
        for (index, accepted) in deposits {
            let known = self.announced.entry(index).or_default();
            if known.len() >= MAX_ANNOUNCED {
                known.remove(0);
            }
            known.push(Announced {
                accepted,
                txids: txids.to_vec(),
                input,
            });
        }
    }

    /// A signal that one of `txids` carries is carried by all of `all` now.
    pub(super) fn announced_also_by(&mut self, txids: &[Txid], all: &[Txid]) {
        for known in self.announced.values_mut().flatten() {
            if known.txids == txids {
                known.txids = all.to_vec();
            }
        }
    }

    fn admit(&mut self, now: UnixTime, seat: Seat, dids: usize, bytes: usize) -> Admission {
        let fresh = Quota {
            since: now,
            deposits: 0,
            bytes: 0,
            told: 0,
        };
        let quota = self.quotas.entry(seat).or_insert_with(|| fresh.clone());
        if now.since(quota.since) >= QUOTA_SECONDS {
            *quota = fresh;
        }
        let deposits = quota.deposits.saturating_add(1);
        let total = quota.bytes.saturating_add(bytes);
        let most_deposits = dids.saturating_mul(2).saturating_add(QUOTA_BASE);
        let most_bytes = dids
            .saturating_mul(QUOTA_BYTES_PER_DID)
            .saturating_add(QUOTA_BYTES);
        if deposits <= most_deposits && total <= most_bytes {
            (quota.deposits, quota.bytes) = (deposits, total);
            return Admission::Yes;
        }
        // What is answered is logged, too.
        if quota.told >= QUOTA_ANSWERS || bytes > MAX_DEPOSIT_BYTES {
            return Admission::No;
        }
        quota.told = quota.told.saturating_add(1);
        Admission::Tell
    }

    /// What a seat deposited for an index under this hash: also one that was announced before, for a signal
    /// that died is followed by another one with the same update.
    fn find(&self, seat: Seat, index: &SmtIndex, update: UpdateHash) -> Option<&Accepted> {
        let announced = self.announced.get(index).into_iter().flatten();
        self.latest
            .get(index)
            .into_iter()
            .chain(announced.map(|announced| &announced.accepted))
            .find(|accepted| accepted.seat == seat && accepted.update == update)
    }

    /// Compares an update with what was announced of its DID and may be on the chain. Returns whether its
    /// source document is known to be the current one.
    ///
    /// Signals of a beacon form one chain, so one that is signed and not dead is one to count with, confirmed
    /// or not (DESIGN §6, rule 4).
    fn anchor(
        &self,
        chain: &ChainView,
        depth: u32,
        index: &SmtIndex,
        new: &Accepted,
    ) -> Result<bool, DepositFault> {
        let live = self
            .announced
            .get(index)
            .into_iter()
            .flatten()
            .filter(|known| !chain.are_dead(&known.txids, &known.input, depth))
            .map(|known| &known.accepted);
        let Some(newest) = live.clone().max_by_key(|known| known.version) else {
            return Ok(new.version == 2);
        };
        if live.clone().any(|known| known.update == new.update) {
            return Ok(true);
        }
        let version = newest.version;
        match new.version.checked_sub(version) {
            None | Some(0) => Err(DepositFault::VersionTaken {
                version: new.version,
            }),
            Some(1) if newest.target != new.source => Err(DepositFault::NotCurrent { version }),
            Some(1) => Ok(true),
            // A version in between may have been announced elsewhere, or by its hash alone.
            Some(_) => Ok(false),
        }
    }
}

impl Aggregator {
    /// A member shows an update it wants announced.
    pub(super) fn deposit(
        &mut self,
        now: UnixTime,
        from: NostrKey,
        deposit: &UpdateDeposit,
    ) -> Step {
        let Some(seat) = self.seat_of(&from) else {
            return Step::ignored(Ignored::NotAMember);
        };
        if !matches!(self.phase, Phase::Active) {
            return Step::ignored(Ignored::WrongPhase);
        }
        let index = deposit.did.smt_index();
        let (dids, bytes) = (self.registry.count(seat), deposit.bytes());
        let checked = match self.deposits.admit(now, seat, dids, bytes) {
            Admission::Yes => self.check_deposit(now, seat, &index, deposit),
            Admission::Tell => Err(DepositFault::TooMany),
            Admission::No => return Step::ignored(Ignored::Refused(RefusalCode::TooMany)),
        };
        match checked {
            Ok((verified, accepted, anchored)) => {
                let version = accepted.version;
                self.deposits.latest.insert(index, accepted);
                let item = DepositedItem {
                    index,
                    update: deposit.hash,
                    anchored: Some(anchored),
                    refused: None,
                };
                Step::with(vec![
                    // Durable before it is promised.
                    Effect::Save(artifact(deposit, &verified)),
                    tell(from, vec![item]),
                    Effect::Report(Report::DepositTaken {
                        seat,
                        index,
                        update: deposit.hash,
                        version,
                        anchored,
                    }),
                ])
            }
            Err(fault) => {
                let refused = fault.refused();
                let (code, reason) = (refused.code, refused.reason.clone());
                let item = refusal(index, deposit.hash, &fault);
                Step {
                    outcome: Outcome::Ignored(Ignored::DepositRefused(code)),
                    effects: vec![
                        tell(from, vec![item]),
                        Effect::Report(Report::DepositTurnedDown {
                            seat,
                            index,
                            update: deposit.hash,
                            code,
                            reason,
                        }),
                    ],
                }
            }
        }
    }

    fn check_deposit(
        &self,
        now: UnixTime,
        seat: Seat,
        index: &SmtIndex,
        deposit: &UpdateDeposit,
    ) -> Result<(Verified, Accepted, bool), DepositFault> {
        if self.terms.deposits == Term::None {
            return Err(DepositFault::NotTaken);
        }
        if !self.registry.holds(seat, index) {
            return Err(DepositFault::NotRegistered);
        }
        let verified = verify_deposit(self.terms.network, now, deposit)?;
        let accepted = Accepted {
            seat,
            update: deposit.hash,
            version: verified.update.target_version(),
            source: verified.source,
            target: verified.target.hash(),
        };
        let anchored = self.anchor(index, &accepted)?;
        Ok((verified, accepted, anchored))
    }

    fn anchor(&self, index: &SmtIndex, accepted: &Accepted) -> Result<bool, DepositFault> {
        let depth = self.terms.depth.into();
        self.deposits.anchor(&self.chain, depth, index, accepted)
    }

    /// Matches what a response announces with what the seat deposited. Returns the deposits it announces, or
    /// the code it is refused with and what to say of each index.
    pub(super) fn check_deposits(
        &self,
        seat: Seat,
        entries: &Entries,
    ) -> Result<Vec<(SmtIndex, Accepted)>, Unshown> {
        let term = self.terms.deposits;
        let required = term == Term::Required;
        // Index, the update that is claimed to be deposited, and whether the leaf bears the claim out.
        let mut claims: Vec<(SmtIndex, UpdateHash, bool)> = Vec::new();
        match entries {
            Entries::Smt(entries) => {
                for entry in entries {
                    match (&entry.opened, entry.leaf) {
                        (Some(_), _) if term == Term::None => {
                            return Err(Unshown::all(RefusalCode::WrongEntries));
                        }
                        (Some(opened), leaf) => {
                            let opens = leaf.is_some_and(|leaf| opened.opens(leaf));
                            match opened.update {
                                Some(update) => claims.push((entry.index, update, opens)),
                                None if opens => {}
                                None => return Err(Unshown::all(RefusalCode::WrongLeaf)),
                            }
                        }
                        // A leaf hides whether there is an update: unopened, nothing is shown.
                        (None, Some(_)) if required => {
                            return Err(Unshown::all(RefusalCode::WrongLeaf));
                        }
                        (None, _) => {}
                    }
                }
            }
            Entries::Cas(entries) => {
                for entry in entries {
                    let index = entry.did.smt_index();
                    match entry.update {
                        Some(update)
                            if required || self.deposits.find(seat, &index, update).is_some() =>
                        {
                            claims.push((index, update, true));
                        }
                        _ => {}
                    }
                }
            }
        }
        let mut deposited = Vec::new();
        let mut refused = Vec::new();
        let mut code = RefusalCode::DepositRequired;
        for (index, update, opens) in claims {
            let found = match self.deposits.find(seat, &index, update) {
                _ if !opens => {
                    code = RefusalCode::WrongLeaf;
                    Err(DepositFault::WrongLeaf)
                }
                None => Err(DepositFault::NotDeposited),
                // Another one may have been announced since it was verified.
                Some(accepted) => self.anchor(&index, accepted).map(|_| accepted.clone()),
            };
            match found {
                Ok(accepted) => deposited.push((index, accepted)),
                Err(fault) => refused.push(refusal(index, update, &fault)),
            }
        }
        if refused.is_empty() {
            Ok(deposited)
        } else {
            Err(Unshown {
                code,
                items: refused,
            })
        }
    }
}

/// Says what became of deposits.
pub(super) fn tell(to: NostrKey, items: Vec<DepositedItem>) -> Effect {
    Effect::Send {
        to: To::Key(to),
        message: Message::Deposited(Deposited { items }),
    }
}

fn refusal(index: SmtIndex, update: UpdateHash, fault: &DepositFault) -> DepositedItem {
    DepositedItem {
        index,
        update,
        anchored: None,
        refused: Some(fault.refused()),
    }
}

/// What is kept: the bytes that hash to what is announced, and the genesis document they build on.
fn artifact(deposit: &UpdateDeposit, verified: &Verified) -> Artifact {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap_or_default();
    Artifact::Deposit {
        hash: deposit.hash,
        update: text(verified.update.canonical_bytes()),
        genesis: verified
            .genesis
            .as_ref()
            .map(|genesis| (deposit.did.clone(), text(genesis.canonical_bytes()))),
    }
}
