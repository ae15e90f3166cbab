//! Looking for a secret nonce that signed twice, in everything members ever said (DESIGN §6, rule 1).
//!
//! Two partial signatures made with one secret nonce give the seat's secret key to whoever has both. What was made
//! with which nonce can be seen from outside: a member names the public nonces of every partial signature it sends. Feed
//! [`NonceAudit`] with messages of any number of sessions, rounds and cohorts, from logs, outboxes and relays, in any
//! order, the same ones more than once; then ask [`NonceAudit::reused`].
//!
//! A nonce is two points. One shared half counts as well as two, and so does the negative of a point: either is a
//! relation between the secrets of two signatures that nobody may know.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bitcoin::{Amount, TxOut};

use super::ids::{Label, Round, SessionId, Subject};
use super::message::{Message, Nonces, Partials, SignRequest};
use crate::beacon::signal::sighashes;
use crate::hash::CohortId;
use crate::keys::NostrKey;
use crate::keys::musig::{KeySet, PartialSignature, PublicNonce, SessionHash, verify_partial};

/// A half of a seat's public nonce, by its x coordinate.
type Half = (NostrKey, [u8; 32]);

/// What a nonce was offered for, or used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The session.
    pub session: SessionId,
    /// The message of the session.
    pub label: Label,
    /// Which of the nonce's two points: 1 or 2.
    pub half: u8,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} R{}", self.session, self.label, self.half)
    }
}

/// A partial signature and what it is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    /// Where the nonce was used.
    pub place: Place,
    /// What the member says it signed: keys, nonces, aggregate nonces, digests.
    pub session_hash: SessionHash,
    /// The partial signature, hex.
    pub partial: String,
}

/// A nonce that is in more than one place.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reuse {
    /// Two different partial signatures were made with it: the seat's secret key is known to whoever has both.
    Signed {
        /// The seat.
        seat: NostrKey,
        /// One.
        first: Box<Use>,
        /// The other.
        second: Box<Use>,
    },
    /// It was offered for two different messages. Nothing has leaked yet.
    Offered {
        /// The seat.
        seat: NostrKey,
        /// One.
        first: Place,
        /// The other.
        second: Place,
    },
}

impl fmt::Display for Reuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signed {
                seat,
                first,
                second,
            } => write!(
                f,
                "seat {} signed twice with one nonce: {} ({}) and {} ({})",
                seat.short(),
                first.place,
                first.session_hash,
                second.place,
                second.session_hash
            ),
            Self::Offered {
                seat,
                first,
                second,
            } => write!(
                f,
                "seat {} offered one nonce for {first} and for {second}",
                seat.short()
            ),
        }
    }
}

/// Everything that was said of nonces and partial signatures.
#[derive(Debug, Default)]
pub struct NonceAudit {
    offers: BTreeMap<Half, BTreeSet<Place>>,
    uses: BTreeMap<Half, BTreeSet<Use>>,
}

impl NonceAudit {
    /// Takes a message of `author` in a cohort; other types than those about nonces say nothing here.
    pub fn message(&mut self, cohort: CohortId, author: NostrKey, message: &Message) {
        let of_round = |round: Round, attempt| SessionId::of_round(cohort, round, attempt);
        let of_deposit = |number, attempt| SessionId {
            cohort,
            subject: Subject::Deposit(number),
            attempt,
        };
        match message {
            Message::Response(body) => {
                let body = &body.content;
                self.offered(author, of_round(body.round, 1), &body.nonces);
            }
            Message::NonceUpdate(body) => {
                let body = &body.content;
                self.offered(author, of_round(body.round, body.attempt), &body.nonces);
            }
            Message::PartialSignature(body) => {
                let body = &body.content;
                let session = of_round(body.round, body.attempt);
                self.used(
                    author,
                    session,
                    &body.nonces,
                    body.session_hash,
                    &body.partials,
                );
                let next = of_round(body.round, body.attempt.saturating_add(1));
                self.offered(author, next, &body.spares);
            }
            Message::RefundNonces(body) => {
                let body = &body.content;
                self.offered(author, of_deposit(body.deposit, body.attempt), &body.nonces);
            }
            Message::RefundPartial(body) => {
                let body = &body.content;
                let session = of_deposit(body.deposit, body.attempt);
                self.used(
                    author,
                    session,
                    &body.nonces,
                    body.session_hash,
                    &body.partials,
                );
            }
            _ => {}
        }
    }

    /// Takes nonces that a seat made for a session.
    pub fn offered(&mut self, seat: NostrKey, session: SessionId, nonces: &Nonces) {
        for (label, nonce) in nonces {
            for (half, x) in halves(nonce) {
                let place = Place {
                    session,
                    label: *label,
                    half,
                };
                self.offers.entry((seat, x)).or_default().insert(place);
            }
        }
    }

    /// Takes the partial signatures of a session and the nonces they were made with.
    pub fn used(
        &mut self,
        seat: NostrKey,
        session: SessionId,
        nonces: &Nonces,
        session_hash: SessionHash,
        partials: &BTreeMap<Label, PartialSignature>,
    ) {
        self.offered(seat, session, nonces);
        for (label, partial) in partials {
            let Some(nonce) = nonces.get(label) else {
                continue;
            };
            for (half, x) in halves(nonce) {
                let place = Place {
                    session,
                    label: *label,
                    half,
                };
                let partial = partial.to_string();
                self.uses.entry((seat, x)).or_default().insert(Use {
                    place,
                    session_hash,
                    partial,
                });
            }
        }
    }

    /// How many public nonces, and how many different partial signatures were seen.
    #[must_use]
    pub fn seen(&self) -> (usize, usize) {
        let uses = self.uses.values().map(BTreeSet::len);
        (self.offers.len() / 2, uses.sum::<usize>() / 2)
    }

    /// Every nonce that is in more than one place, those that signed twice first.
    #[must_use]
    pub fn reused(&self) -> Vec<Reuse> {
        let signed = self.uses.iter().filter_map(|((seat, _), uses)| {
            let mut uses = uses.iter();
            let (first, second) = (uses.next()?, uses.next()?);
            Some(Reuse::Signed {
                seat: *seat,
                first: Box::new(first.clone()),
                second: Box::new(second.clone()),
            })
        });
        let offered = self.offers.iter().filter_map(|((seat, _), places)| {
            let mut places = places.iter();
            let (first, second) = (places.next()?, places.next()?);
            Some(Reuse::Offered {
                seat: *seat,
                first: *first,
                second: *second,
            })
        });
        signed.chain(offered).collect()
    }
}

/// Verifies the partial signatures of a signal's rungs against the nonces that `partials` names, so that an audit does
/// not rest on what a member says it used. Returns how many were verified.
///
/// # Errors
/// The first label whose partial signature was not made with the nonce it names, or for something else than `request`
/// asked for.
pub fn verify_nonces(
    keys: &KeySet,
    seat: &NostrKey,
    request: &SignRequest,
    partials: &Partials,
) -> Result<usize, Label> {
    let prevouts: Vec<TxOut> = request
        .prevouts
        .iter()
        .map(|prevout| TxOut {
            value: Amount::from_sat(prevout.value_sat),
            script_pubkey: prevout.script.clone(),
        })
        .collect();
    let mut verified = 0;
    for (rung, to_sign) in (1..).zip(&request.rungs) {
        let digests = sighashes(&to_sign.tx.0, &prevouts).unwrap_or_default();
        for (input, digest) in (0..).zip(&digests) {
            let label = Label::Signal { rung, input };
            let (Some(partial), Some(nonce), Some(aggregate)) = (
                partials.partials.get(&label),
                partials.nonces.get(&label),
                request.aggregate_nonces.get(&label),
            ) else {
                return Err(label);
            };
            verify_partial(keys, seat, nonce, aggregate, digest, partial).map_err(|_| label)?;
            verified += 1;
        }
    }
    Ok(verified)
}

/// The x coordinates of a nonce's two points, numbered from 1.
fn halves(nonce: &PublicNonce) -> [(u8, [u8; 32]); 2] {
    let bytes = nonce.to_bytes();
    let mut both = [(1, [0; 32]), (2, [0; 32])];
    for ((_, x), point) in both.iter_mut().zip(bytes.chunks_exact(33)) {
        // Behind the byte that says which of the two points with this x it is.
        for (to, from) in x.iter_mut().zip(point.iter().skip(1)) {
            *to = *from;
        }
    }
    both
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{NonceSlot, OwnKey, Signer};
    use crate::protocol::evidence::Signed;
    use crate::protocol::message::NonceUpdate;
    use crate::time::UnixTime;

    const COHORT: CohortId = CohortId::from_bytes([7; 32]);

    fn seat(byte: u8) -> OwnKey {
        OwnKey::from_bytes(&[byte; 32]).unwrap()
    }

    fn nonce(signer: &mut Signer, seat: NostrKey, round: u32) -> PublicNonce {
        let slot = NonceSlot {
            seat,
            session: SessionId::of_round(COHORT, Round(round), 1),
            label: Label::SIGNAL,
        };
        signer.new_nonces(slot, UnixTime(1)).unwrap()
    }

    fn partial(round: u32, attempt: u32, nonce: PublicNonce, hash: u8, value: u8) -> Message {
        let mut scalar = [0; 32];
        scalar[31] = value;
        Message::PartialSignature(Signed::unsigned(Partials {
            round: Round(round),
            attempt,
            session_hash: SessionHash::from_bytes([hash; 32]),
            nonces: BTreeMap::from([(Label::SIGNAL, nonce)]),
            partials: BTreeMap::from([(
                Label::SIGNAL,
                PartialSignature::from_bytes(&scalar).unwrap(),
            )]),
            spares: BTreeMap::new(),
        }))
    }

    fn signed(audit: &NonceAudit) -> usize {
        let reused = audit.reused();
        let signed = reused.iter().filter(|r| matches!(r, Reuse::Signed { .. }));
        signed.count()
    }

    #[test]
    fn a_planted_reuse_is_found_in_every_form() {
        let own = seat(3);
        let mut signer = Signer::new();
        let key = own.public();
        signer.add_seat(own);
        let (a, b) = (nonce(&mut signer, key, 1), nonce(&mut signer, key, 2));

        // The same bytes any number of times, and two sessions with a nonce each, are as they should be.
        let mut audit = NonceAudit::default();
        for _ in 0..3 {
            audit.message(COHORT, key, &partial(1, 1, a, 1, 1));
            audit.message(COHORT, key, &partial(2, 1, b, 2, 2));
        }
        assert_eq!(audit.seen(), (2, 2));
        assert_eq!(audit.reused(), []);
        // Another seat's nonces are its own.
        audit.message(COHORT, seat(4).public(), &partial(1, 1, a, 1, 9));
        assert_eq!(audit.reused(), []);

        // Another round, another attempt, another session hash of the same attempt, another cohort.
        let again: [(CohortId, Message); 4] = [
            (COHORT, partial(3, 1, a, 3, 3)),
            (COHORT, partial(1, 2, a, 4, 4)),
            (COHORT, partial(1, 1, a, 5, 5)),
            (CohortId::from_bytes([8; 32]), partial(1, 1, a, 1, 6)),
        ];
        for (cohort, message) in again {
            let mut audit = NonceAudit::default();
            audit.message(COHORT, key, &partial(1, 1, a, 1, 1));
            audit.message(cohort, key, &message);
            assert_eq!(signed(&audit), 2, "both halves: {message:?}");
        }

        // One half only, and its negative.
        let (mut mixed, other) = (a.to_bytes(), b.to_bytes());
        mixed[33..].copy_from_slice(&other[33..]);
        mixed[0] ^= 1;
        let mixed = PublicNonce::from_bytes(&mixed).unwrap();
        let mut audit = NonceAudit::default();
        audit.message(COHORT, key, &partial(1, 1, a, 1, 1));
        audit.message(COHORT, key, &partial(2, 1, mixed, 2, 2));
        assert_eq!(signed(&audit), 1);
        let told = audit.reused()[0].to_string();
        assert!(told.contains("signed twice with one nonce"), "{told}");

        // Offered twice and not signed with: said, and told apart.
        let mut audit = NonceAudit::default();
        for (round, attempt) in [(1, 1), (1, 2)] {
            let update = NonceUpdate {
                round: Round(round),
                attempt,
                nonces: BTreeMap::from([(Label::SIGNAL, a)]),
                lost: false,
            };
            let message = Message::NonceUpdate(Signed::unsigned(update));
            audit.message(COHORT, key, &message);
        }
        assert_eq!((signed(&audit), audit.reused().len()), (0, 2));
    }
}
