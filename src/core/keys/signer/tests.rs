use super::*;
use crate::keys::musig::{aggregate_nonces, aggregate_partials};

const SIGHASH: [u8; 32] = [0x5a; 32];

fn key(byte: u8) -> OwnKey {
    OwnKey::from_bytes(&[byte; 32]).unwrap()
}

fn slot(seat: NostrKey, round: u32, attempt: u32) -> NonceSlot {
    NonceSlot {
        seat,
        session: SessionId::of_round(CohortId::from_bytes([7; 32]), Round(round), attempt),
        label: Label::SIGNAL,
    }
}

/// A signer with `n` seats, and their key set.
fn signer(n: u8) -> (Signer, KeySet) {
    let mut signer = Signer::new();
    let mut keys = Vec::new();
    for byte in 1..=n {
        keys.push(key(byte).public());
        signer.add_seat(key(byte));
    }
    (signer, KeySet::new(&keys).unwrap())
}

#[test]
fn three_seats_sign() {
    let (mut signer, keys) = signer(3);
    let nonces: Vec<_> = keys
        .keys()
        .iter()
        .map(|seat| signer.new_nonces(slot(*seat, 1, 1), UnixTime(1)).unwrap())
        .collect();
    let aggregate = aggregate_nonces(&nonces).unwrap();
    let partials: Vec<_> = keys
        .keys()
        .iter()
        .zip(&nonces)
        .map(|(seat, nonce)| {
            signer
                .sign(slot(*seat, 1, 1), nonce, &keys, &aggregate, &SIGHASH)
                .unwrap()
        })
        .collect();
    let signature = aggregate_partials(&keys, &aggregate, &SIGHASH, partials).unwrap();
    assert!(NostrKey::new(keys.output_key()).verifies(&SIGHASH, &signature));
}

#[test]
fn a_nonce_signs_once_and_closes_its_session() {
    let (mut signer, keys) = signer(1);
    let seat = keys.keys()[0];
    let (first, second) = (slot(seat, 1, 1), slot(seat, 1, 2));
    let nonce = signer.new_nonces(first, UnixTime(1)).unwrap();
    let aggregate = aggregate_nonces(&[nonce]).unwrap();
    signer
        .sign(first, &nonce, &keys, &aggregate, &SIGHASH)
        .unwrap();
    assert!(!signer.has_nonce(&first));
    // Not the same message again, not another one, and no fresh nonce.
    for message in [SIGHASH, [1; 32]] {
        assert_eq!(
            signer.sign(first, &nonce, &keys, &aggregate, &message),
            Err(SignerError::AlreadySigned(first))
        );
    }
    assert_eq!(
        signer.new_nonces(first, UnixTime(2)),
        Err(SignerError::AlreadySigned(first))
    );
    // The next attempt is open.
    let nonce = signer.new_nonces(second, UnixTime(2)).unwrap();
    let aggregate = aggregate_nonces(&[nonce]).unwrap();
    assert!(
        signer
            .sign(second, &nonce, &keys, &aggregate, &SIGHASH)
            .is_ok()
    );
}

/// Makes the nonce of `slot`, then tries to sign with what `wrong` made of the inputs.
fn sign_wrongly(
    wrong: impl FnOnce(&mut PublicNonce, &mut KeySet, &mut NonceSlot),
) -> (SignerError, NonceSlot) {
    let (mut signer, keys) = signer(2);
    let right = slot(keys.keys()[0], 4, 2);
    let right_nonce = signer.new_nonces(right, UnixTime(1)).unwrap();
    let (mut nonce, mut wrong_keys, mut wrong_slot) = (right_nonce, keys.clone(), right);
    wrong(&mut nonce, &mut wrong_keys, &mut wrong_slot);
    let aggregate = aggregate_nonces(&[right_nonce]).unwrap();
    let error = signer
        .sign(wrong_slot, &nonce, &wrong_keys, &aggregate, &SIGHASH)
        .unwrap_err();
    assert!(
        !signer.has_nonce(&wrong_slot),
        "destroyed whatever happened"
    );
    if wrong_slot == right {
        // Not even the right call brings it back.
        assert_eq!(
            signer.sign(right, &right_nonce, &keys, &aggregate, &SIGHASH),
            Err(SignerError::NoNonce(right))
        );
        // Nothing was signed, so the session is still open for a fresh nonce.
        assert_ne!(signer.new_nonces(right, UnixTime(1)).unwrap(), right_nonce);
    }
    (error, wrong_slot)
}

#[test]
fn every_failure_destroys_the_nonce() {
    let another = SecNonce::build_with_seckey([9; 32], scalar(&key(1))).build();
    let other = PublicNonce::from_musig2(&another.public_nonce());
    let (error, slot) = sign_wrongly(|nonce, _, _| *nonce = other);
    assert_eq!(error, SignerError::OtherNonce(slot));

    let strangers = KeySet::new(&[key(8).public(), key(9).public()]).unwrap();
    let (error, slot) = sign_wrongly(|_, keys, _| *keys = strangers);
    assert_eq!(error, SignerError::NotInKeySet(slot.seat));
}

#[test]
fn a_nonce_belongs_to_its_slot() {
    let (error, slot) = sign_wrongly(|_, _, slot| slot.session.attempt += 1);
    assert_eq!(error, SignerError::NoNonce(slot));
    let (error, slot) = sign_wrongly(|_, _, slot| slot.session.subject = Subject::Round(Round(5)));
    assert_eq!(error, SignerError::NoNonce(slot));
    let (error, slot) = sign_wrongly(|_, keys, slot| slot.seat = keys.keys()[1]);
    assert_eq!(error, SignerError::NoNonce(slot));
    let (error, slot) =
        sign_wrongly(|_, _, slot| slot.session.cohort = CohortId::from_bytes([8; 32]));
    assert_eq!(error, SignerError::NoNonce(slot));
}

#[test]
fn a_replaced_nonce_is_gone() {
    let (mut signer, keys) = signer(1);
    let slot = slot(keys.keys()[0], 1, 1);
    let old = signer.new_nonces(slot, UnixTime(1)).unwrap();
    let new = signer.new_nonces(slot, UnixTime(1)).unwrap();
    assert_ne!(old, new, "never the same nonce for the same request");
    assert_eq!(signer.public_nonce(&slot), Some(new));
    let aggregate = aggregate_nonces(&[old]).unwrap();
    assert_eq!(
        signer.sign(slot, &old, &keys, &aggregate, &SIGHASH),
        Err(SignerError::OtherNonce(slot))
    );
    assert_eq!(signer.public_nonce(&slot), None);
}

#[test]
fn signing_closes_earlier_sessions_of_that_cohort_only() {
    let (mut signer, keys) = signer(1);
    let seat = keys.keys()[0];
    let sign = |signer: &mut Signer, slot| {
        let nonce = signer.public_nonce(&slot).unwrap();
        let aggregate = aggregate_nonces(&[nonce]).unwrap();
        signer.sign(slot, &nonce, &keys, &aggregate, &SIGHASH)
    };
    let mut elsewhere = slot(seat, 1, 1);
    elsewhere.session.cohort = CohortId::from_bytes([8; 32]);
    for slot in [slot(seat, 2, 1), slot(seat, 2, 2), elsewhere] {
        signer.new_nonces(slot, UnixTime(1)).unwrap();
    }
    assert!(sign(&mut signer, slot(seat, 2, 2)).is_ok());
    let earlier = slot(seat, 2, 1);
    assert_eq!(
        sign(&mut signer, earlier),
        Err(SignerError::AlreadySigned(earlier))
    );
    assert!(!signer.has_nonce(&earlier), "and its nonce is gone");
    let round_before = slot(seat, 1, 9);
    assert_eq!(
        signer.new_nonces(round_before, UnixTime(1)),
        Err(SignerError::AlreadySigned(round_before))
    );
    assert!(sign(&mut signer, elsewhere).is_ok());
    assert!(signer.new_nonces(slot(seat, 3, 1), UnixTime(1)).is_ok());
}

#[test]
fn unknown_seats_are_refused() {
    let slot = slot(key(5).public(), 1, 1);
    assert_eq!(
        Signer::new().new_nonces(slot, UnixTime(1)),
        Err(SignerError::UnknownSeat(slot.seat))
    );
}

#[test]
fn old_nonces_are_dropped() {
    let (mut signer, keys) = signer(1);
    let at = |n: u32| slot(keys.keys()[0], n, 1);
    for (n, made) in [(1, 100), (2, 200), (3, 300), (4, 1000)] {
        signer.new_nonces(at(n), UnixTime(made)).unwrap();
    }
    // At 400: the first is too old, and the last comes from a future that the clock left.
    assert_eq!(signer.drop_nonces_older_than(UnixTime(400), 200), 2);
    let held: Vec<_> = (1..=4).filter(|n| signer.has_nonce(&at(*n))).collect();
    assert_eq!(held, [2, 3]);
    assert_eq!(signer.drop_all_nonces(), 2);
    assert!(!signer.has_nonce(&at(2)));
    signer.new_nonces(at(5), UnixTime(400)).unwrap();
    signer.remove_seat(&keys.keys()[0]);
    assert!(!signer.has_nonce(&at(5)) && !signer.has_seat(&keys.keys()[0]));
}

#[test]
fn a_cohort_that_opens_many_sessions_uses_up_only_its_own_room() {
    let (mut signer, keys) = signer(2);
    let [seat, other] = [keys.keys()[0], keys.keys()[1]];
    // Another seat in this cohort, and this seat in the cohorts before and after it.
    let mut bystanders = [slot(other, 1, 1), slot(seat, 1, 1), slot(seat, 1, 1)];
    bystanders[1].session.cohort = CohortId::from_bytes([6; 32]);
    bystanders[2].session.cohort = CohortId::from_bytes([8; 32]);
    for bystander in bystanders {
        signer.new_nonces(bystander, UnixTime(1)).unwrap();
    }
    let many = u32::try_from(MAX_NONCES_PER_SEAT).unwrap() + 5;
    for attempt in 1..=many {
        signer
            .new_nonces(slot(seat, 1, attempt), UnixTime(1))
            .unwrap();
    }
    let held: Vec<_> = (1..=many)
        .filter(|attempt| signer.has_nonce(&slot(seat, 1, *attempt)))
        .collect();
    assert_eq!(held, (6..=many).collect::<Vec<_>>(), "the latest stay");
    assert!(bystanders.iter().all(|slot| signer.has_nonce(slot)));
}

#[test]
fn the_signer_is_bounded() {
    let mut signer = Signer::new();
    signer.add_seat(key(1));
    let seat = key(1).public();
    let at = |n: usize| {
        let mut slot = slot(seat, 1, 1);
        let mut cohort = [0; 32];
        cohort[..8].copy_from_slice(&n.to_be_bytes());
        slot.session.cohort = CohortId::from_bytes(cohort);
        slot
    };
    for n in 0..MAX_NONCES {
        signer.new_nonces(at(n), UnixTime(1)).unwrap();
    }
    assert_eq!(
        signer.new_nonces(at(MAX_NONCES), UnixTime(1)),
        Err(SignerError::Full)
    );
    // Replacing one still works.
    assert!(signer.new_nonces(at(3), UnixTime(1)).is_ok());
}

#[test]
fn debug_and_errors_show_no_secret() {
    let (mut signer, keys) = signer(2);
    let slot = slot(keys.keys()[0], 1, 1);
    signer.new_nonces(slot, UnixTime(1)).unwrap();
    let bytes = signer.open[&slot.key()].bytes.as_slice();
    let mut secrets = vec![
        crate::hash::to_hex(&bytes[..32]),
        crate::hash::to_hex(&bytes[32..64]),
        format!("{:?}", &bytes[..8]).replace(['[', ']'], ""),
    ];
    for seat in signer.seats.values() {
        secrets.push(crate::hash::to_hex(&seat.keypair().secret_bytes()));
    }
    let other = signer.seats.values().next().unwrap();
    let mut shown = format!("{signer:?} {signer:#?} {other:?}");
    for error in [
        SignerError::UnknownSeat(slot.seat),
        SignerError::AlreadySigned(slot),
        SignerError::NoNonce(slot),
        SignerError::OtherNonce(slot),
        SignerError::NotInKeySet(slot.seat),
        SignerError::SelfCheck(slot),
    ] {
        shown += &format!("{error} {error:?}");
    }
    for secret in secrets {
        assert!(!shown.contains(&secret), "{secret} in {shown}");
    }
    assert!(shown.contains("open_nonces: 1"));
}
