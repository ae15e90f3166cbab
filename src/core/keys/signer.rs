//! The signer: the only place that holds MuSig2 secret nonces and the secrets of seats.
//!
//! DESIGN §6 rule 1: a secret nonce signs at most once, ever. Two partial signatures with one nonce give
//! the seat's secret key away, so the rule is kept by construction rather than by care:
//!
//! - A secret nonce is a private type without `Clone`, `Debug` or serde; it never leaves this module.
//! - It lives in the map of open slots and nowhere else: a restart loses it, and the member says so.
//! - [`Signer::sign`] takes it out of the map before it looks at anything else. Whatever happens then, an
//!   error included, that nonce is gone.
//! - A session that was signed, and every session of the cohort before it, is refused for as long as the
//!   process lives, also with a fresh nonce.
//! - Nonces come from the operating system's generator, hedged with the seat's secret, the session and a
//!   counter (BIP-327 NonceGen); nothing deterministic can take its place.
//!
//! That the nonce *was* used must be stored before the signature leaves; that is the caller's part.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use musig2::secp::{MaybeScalar, Scalar};
use musig2::{NonceSeed, SecNonce};
use rand::RngCore as _;
use rand::rngs::OsRng;
use zeroize::Zeroizing;

use super::musig::{AggregateNonce, KeySet, PartialSignature, PublicNonce, verify_partial};
use super::public::NostrKey;
use super::secret::OwnKey;
use crate::hash::CohortId;
use crate::protocol::ids::{Label, Round, SessionId, Subject};
use crate::time::UnixTime;

/// Open nonces of one seat in one cohort. A session has at most 15 labels (three rungs of four inputs, and their
/// refunds), and the next session's spares are made ahead: 64 is four of the longest. One more destroys the
/// earliest session's, so that an aggregator that opens session after session takes room from its own cohort only.
pub const MAX_NONCES_PER_SEAT: usize = 64;

/// Open nonces of all seats, about 600 bytes each: a few megabytes at most. Only cohorts one joined
/// get slots, so reaching it means a thousand cohorts at once, or a defect; new nonces are then refused.
pub const MAX_NONCES: usize = 8192;

/// What a secret nonce is bound to when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NonceSlot {
    /// The seat whose secret will sign.
    pub seat: NostrKey,
    /// The session.
    pub session: SessionId,
    /// The message of the session.
    pub label: Label,
}

impl fmt::Display for NonceSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.seat.short(), self.session, self.label)
    }
}

/// Why the signer does not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignerError {
    /// The signer has no secret for this seat.
    #[error("no secret key for seat {0}: unlock the keystore that derives it")]
    UnknownSeat(NostrKey),
    /// This session, or a later one of the cohort, was signed already.
    #[error("slot {0} is closed: this session or a later one was signed already")]
    AlreadySigned(NonceSlot),
    /// There is no secret nonce: never made, used, dropped, or lost in a restart.
    #[error("no secret nonce for {0}: ask for a new session")]
    NoNonce(NonceSlot),
    /// The secret nonce belongs to another public nonce than the one the session was built on. It is destroyed.
    #[error("the secret nonce for {0} belongs to another public nonce: ask for a new session")]
    OtherNonce(NonceSlot),
    /// The seat is not in the key set. The nonce is destroyed.
    #[error("seat {0} is not in the key set")]
    NotInKeySet(NostrKey),
    /// [`MAX_NONCES`] secret nonces are open.
    #[error("{MAX_NONCES} secret nonces are open: drop old ones first")]
    Full,
    /// The operating system gave no random bytes.
    #[error("the operating system's random generator failed: nothing can be signed now")]
    NoRandomness,
    /// The partial signature does not verify; it is not handed out and the nonce is destroyed.
    #[error(
        "the partial signature for {0} failed its own verification: a fault of memory or processor"
    )]
    SelfCheck(NonceSlot),
}

/// Holds seat secrets and secret nonces, in memory only; hands out public nonces and partial signatures.
///
/// It can neither be copied nor stored, and with it no secret nonce:
///
/// ```compile_fail,E0599
/// let signer = btcr2_core::keys::Signer::new();
/// let copy = signer.clone();
/// ```
///
/// ```compile_fail,E0277
/// fn store(value: impl serde::Serialize) {}
/// store(btcr2_core::keys::Signer::new());
/// ```
#[derive(Default)]
pub struct Signer {
    seats: HashMap<NostrKey, OwnKey>,
    /// Ordered, so that the earliest session of a seat's cohort is the first of its range.
    open: BTreeMap<SlotKey, SecretNonce>,
    /// The last session signed, per seat, cohort, kind of subject and label. Sessions of a kind are ordered, so one
    /// position closes all before it, and the memory grows with cohorts, not with sessions.
    signed: HashMap<(NostrKey, CohortId, Kind, Label), (u32, u32)>,
    /// Nonces made so far; part of every nonce's input.
    made: u64,
}

/// A slot in the order seat, cohort, subject, attempt, label.
type SlotKey = ([u8; 32], CohortId, Subject, u32, Label);

/// Which line of sessions a subject belongs to: rounds and refunds of deposits go on side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Round,
    Deposit,
}

/// The line a subject belongs to and its number in it.
const fn place(subject: Subject) -> (Kind, u32) {
    match subject {
        Subject::Round(Round(number)) => (Kind::Round, number),
        Subject::Deposit(number) => (Kind::Deposit, number),
    }
}

impl NonceSlot {
    fn key(&self) -> SlotKey {
        let SessionId {
            cohort,
            subject,
            attempt,
        } = self.session;
        (self.seat.to_bytes(), cohort, subject, attempt, self.label)
    }
}

impl Signer {
    /// A signer without seats.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the secret of a seat.
    pub fn add_seat(&mut self, key: OwnKey) {
        self.seats.insert(key.public(), key);
    }

    /// Destroys the secret of a seat and its open nonces, as after leaving a cohort.
    pub fn remove_seat(&mut self, seat: &NostrKey) {
        self.seats.remove(seat);
        let bytes = seat.to_bytes();
        self.open.retain(|(seat, ..), _| *seat != bytes);
    }

    /// Whether the signer has the secret of `seat`.
    #[must_use]
    pub fn has_seat(&self, seat: &NostrKey) -> bool {
        self.seats.contains_key(seat)
    }

    /// Makes a secret nonce for `slot` and returns its public nonce.
    ///
    /// An unused nonce of the same slot is destroyed: only the latest public nonce can be signed with.
    /// `now` dates the nonce for [`drop_nonces_older_than`](Self::drop_nonces_older_than).
    pub fn new_nonces(
        &mut self,
        slot: NonceSlot,
        now: UnixTime,
    ) -> Result<PublicNonce, SignerError> {
        if self.is_closed(&slot) {
            return Err(SignerError::AlreadySigned(slot));
        }
        let seat = self
            .seats
            .get(&slot.seat)
            .ok_or(SignerError::UnknownSeat(slot.seat))?;
        self.open.remove(&slot.key());
        Self::make_room(&mut self.open, &slot);
        if self.open.len() >= MAX_NONCES {
            return Err(SignerError::Full);
        }
        self.made = self.made.wrapping_add(1);
        let nonce = SecretNonce::generate(seat, &slot, now, self.made)?;
        let public = nonce.public;
        self.open.insert(slot.key(), nonce);
        Ok(public)
    }

    /// Signs `sighash` with the nonce of `slot`, which is destroyed whatever the outcome.
    ///
    /// `expected` is the public nonce that went into `aggregate`, as the caller's log has it; a nonce that was
    /// replaced since does not sign. The partial signature is verified before it is returned.
    pub fn sign(
        &mut self,
        slot: NonceSlot,
        expected: &PublicNonce,
        keys: &KeySet,
        aggregate: &AggregateNonce,
        sighash: &[u8; 32],
    ) -> Result<PartialSignature, SignerError> {
        // First of all, out of the map: no return below this line can leave it behind.
        let nonce = self.open.remove(&slot.key());
        if self.is_closed(&slot) {
            return Err(SignerError::AlreadySigned(slot));
        }
        let nonce = nonce.ok_or(SignerError::NoNonce(slot))?;
        if nonce.public != *expected {
            return Err(SignerError::OtherNonce(slot));
        }
        let seat = self
            .seats
            .get(&slot.seat)
            .ok_or(SignerError::UnknownSeat(slot.seat))?;
        if !keys.contains(&slot.seat) {
            return Err(SignerError::NotInKeySet(slot.seat));
        }
        let SessionId {
            cohort,
            subject,
            attempt,
        } = slot.session;
        let (kind, number) = place(subject);
        self.signed
            .insert((slot.seat, cohort, kind, slot.label), (number, attempt));
        let partial = nonce
            .sign(seat, keys, aggregate, sighash)
            .ok_or(SignerError::SelfCheck(slot))?;
        verify_partial(keys, &slot.seat, expected, aggregate, sighash, &partial)
            .map_err(|_| SignerError::SelfCheck(slot))?;
        Ok(partial)
    }

    /// The public nonce of the secret nonce held for `slot`.
    #[must_use]
    pub fn public_nonce(&self, slot: &NonceSlot) -> Option<PublicNonce> {
        self.open.get(&slot.key()).map(|nonce| nonce.public)
    }

    /// Whether a secret nonce is held for `slot`.
    #[must_use]
    pub fn has_nonce(&self, slot: &NonceSlot) -> bool {
        self.open.contains_key(&slot.key())
    }

    /// Destroys the nonces made more than `seconds` before `now`, and those dated later than `now`: a clock
    /// that went back is a reason for distrust. Returns how many.
    pub fn drop_nonces_older_than(&mut self, now: UnixTime, seconds: u64) -> usize {
        let before = self.open.len();
        self.open
            .retain(|_, nonce| nonce.made <= now && now.since(nonce.made) <= seconds);
        before.saturating_sub(self.open.len())
    }

    /// Destroys every secret nonce, as when the machine may have been resumed from a snapshot. Returns how many.
    pub fn drop_all_nonces(&mut self) -> usize {
        let count = self.open.len();
        self.open.clear();
        count
    }

    fn is_closed(&self, slot: &NonceSlot) -> bool {
        let SessionId {
            cohort,
            subject,
            attempt,
        } = slot.session;
        let (kind, number) = place(subject);
        self.signed
            .get(&(slot.seat, cohort, kind, slot.label))
            .is_some_and(|last| (number, attempt) <= *last)
    }

    /// Destroys the earliest nonces of the slot's seat and cohort until one more fits.
    fn make_room(open: &mut BTreeMap<SlotKey, SecretNonce>, slot: &NonceSlot) {
        let (seat, cohort, ..) = slot.key();
        let first: SlotKey = (seat, cohort, Subject::Round(Round(0)), 0, Label::SIGNAL);
        loop {
            let mut mine = open
                .range(first..)
                .map(|(key, _)| *key)
                .take_while(|(s, c, ..)| (*s, *c) == (seat, cohort));
            let Some(earliest) = mine.next() else { return };
            if mine.count() + 1 < MAX_NONCES_PER_SEAT {
                return;
            }
            open.remove(&earliest);
        }
    }
}

/// Counts only: secrets have no text form.
impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("seats", &self.seats.len())
            .field("open_nonces", &self.open.len())
            .finish_non_exhaustive()
    }
}

/// A secret nonce: made once, used up by [`SecretNonce::sign`], overwritten when dropped.
///
/// What can be promised: the bytes rest in one heap allocation that is never moved or copied and that
/// `zeroize` overwrites when the nonce is used, replaced or dropped. What can not: while a nonce is made or
/// signs, the `musig2` crate works on its own `SecNonce` (which is `Clone` and not overwritten on drop), so
/// copies may stay on the stack until later calls overwrite them.
struct SecretNonce {
    /// BIP-327's 97 bytes: k₁ ‖ k₂ ‖ public key.
    bytes: Box<Zeroizing<[u8; 97]>>,
    public: PublicNonce,
    made: UnixTime,
}

impl SecretNonce {
    fn generate(
        seat: &OwnKey,
        slot: &NonceSlot,
        now: UnixTime,
        counter: u64,
    ) -> Result<Self, SignerError> {
        let mut seed = Zeroizing::new([0; 32]);
        OsRng
            .try_fill_bytes(seed.as_mut_slice())
            .map_err(|_| SignerError::NoRandomness)?;
        // Should the generator ever repeat itself (a cloned virtual machine), these still differ
        // whenever anything about the request does.
        let mut extra = Vec::with_capacity(96);
        extra.extend_from_slice(slot.session.cohort.as_bytes());
        extra.extend_from_slice(slot.session.subject.to_string().as_bytes());
        extra.extend_from_slice(&slot.session.attempt.to_be_bytes());
        extra.extend_from_slice(&now.0.to_be_bytes());
        extra.extend_from_slice(&counter.to_be_bytes());
        extra.extend_from_slice(slot.label.to_string().as_bytes());
        let secret = scalar(seat);
        let nonce = SecNonce::build_with_seckey(NonceSeed::from(&*seed), secret)
            .with_extra_input(&extra)
            .build();
        let public = PublicNonce::from_musig2(&nonce.public_nonce());
        let mut bytes = Box::new(Zeroizing::new([0; 97]));
        bytes.copy_from_slice(&*Zeroizing::new(nonce.serialize()));
        Ok(Self {
            bytes,
            public,
            made: now,
        })
    }

    /// Uses the nonce up. `None` when the result does not verify.
    fn sign(
        self,
        seat: &OwnKey,
        keys: &KeySet,
        aggregate: &AggregateNonce,
        sighash: &[u8; 32],
    ) -> Option<PartialSignature> {
        let nonce = SecNonce::from_bytes(self.bytes.as_slice()).ok()?;
        let partial: MaybeScalar = musig2::sign_partial(
            keys.context(),
            scalar(seat),
            nonce,
            &aggregate.to_musig2(),
            sighash,
        )
        .ok()?;
        Some(PartialSignature::from_musig2(&partial))
    }
}

/// The secret of a seat as the `musig2` crate has it. Its type, like that crate's `SecNonce`, is not overwritten on
/// drop: it lives for one call.
#[allow(clippy::expect_used)]
fn scalar(seat: &OwnKey) -> Scalar {
    let bytes = Zeroizing::new(seat.keypair().secret_bytes());
    Scalar::from_slice(bytes.as_slice())
        .expect("a secret key is a number below the order, and not zero")
}

#[cfg(test)]
mod tests;
