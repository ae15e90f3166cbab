//! Deposits from outside are bounded and total: quotas, sizes, depth, and whatever bytes there are.

use btcr2_agent::did::SignedUpdate;
use btcr2_agent::network::Network;
use btcr2_agent::protocol::aggregator::AggregatorInput;
use btcr2_agent::protocol::deposit::{DepositCode, DepositFault, UpdateDeposit, verify_deposit};
use btcr2_agent::protocol::effect::{Ignored, Outcome, Step};
use btcr2_agent::protocol::message::{Message, MessageError, RawJson, RefusalCode};
use btcr2_agent::protocol::participant::DepositState;
use btcr2_agent::protocol::terms::{CohortBeacon, Deposits};
use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::deposits::{Life, taking};
use super::deposits_refused::{raw, raw_value, refused, tampered};
use super::net::Net;

/// A seat is answered as long as its quota lasts, told of it a few times, and then not listened to; an hour later
/// it is. Others do not notice.
#[test]
fn the_quota_of_a_seat() {
    let mut net = Net::ready(taking(CohortBeacon::Smt, 2, Deposits::Accepted));
    let life = Life::k1(&net, 0, 0);
    let bad = tampered(&life, |update| update["more"] = json!(1));
    let say = |net: &mut Net, deposit: &UpdateDeposit| {
        let outcome = net.say(0, Message::UpdateDeposit(deposit.clone()));
        let answers = net.mail.len();
        net.mail.clear();
        (outcome, answers)
    };
    let code = |code| Outcome::Ignored(Ignored::DepositRefused(code));
    // Two for its one DID, and eight.
    for _ in 0..10 {
        assert_eq!(say(&mut net, &bad), (code(DepositCode::BadSignature), 1));
    }
    let good = life.deposit(&life.update("two").0);
    for _ in 0..8 {
        assert_eq!(say(&mut net, &good), (code(DepositCode::TooMany), 1));
    }
    for _ in 0..100 {
        let silence = refused(RefusalCode::TooMany);
        assert_eq!(say(&mut net, &good), (silence, 0));
    }
    let other = Life::k1(&net, 1, 0);
    let hash = net.deposit(1, other.deposit(&other.update("two").0));
    net.run();
    assert!(matches!(
        net.deposit_state(1, hash),
        Some(DepositState::Accepted { .. })
    ));
    net.advance(3_599);
    assert_eq!(say(&mut net, &good).1, 0);
    net.advance(1);
    assert_eq!(say(&mut net, &good), (Outcome::Accepted, 1));
    // Bytes count too: half a megabyte, and a sixteenth more for its one DID.
    net.advance(3_600);
    let with = |bytes: usize| tampered(&life, |update| update["more"] = json!("x".repeat(bytes)));
    let (large, medium) = (with(300_000), with(100_000));
    assert_eq!(say(&mut net, &large), (code(DepositCode::TooLarge), 1));
    for _ in 0..2 {
        assert_eq!(say(&mut net, &medium), (code(DepositCode::BadSignature), 1));
    }
    assert_eq!(say(&mut net, &medium), (code(DepositCode::TooMany), 1));
    // Too large and too many: not even a log entry.
    assert_eq!(say(&mut net, &large), (refused(RefusalCode::TooMany), 0));
    net.record = false;
}

/// A sender learns of the limit before anything is signed or stored.
#[test]
fn a_document_of_300_kilobytes_can_not_be_deposited() {
    let net = Net::ready(taking(CohortBeacon::Smt, 2, Deposits::Accepted));
    let life = Life::k1(&net, 0, 0);
    let (signed, _) = life.patched(&json!([{
        "op": "add", "path": "/alsoKnownAs", "value": ["x".repeat(300_000)]
    }]));
    let fault = UpdateDeposit::new(&signed, &life.document, None).unwrap_err();
    assert!(matches!(fault, DepositFault::TooLarge(bytes) if bytes > 300_000));
    let text = fault.to_string();
    assert!(
        text.contains("131072") && text.contains("hash alone"),
        "{text}"
    );
}

/// Nested too deep to be understood: a message with it is no message.
#[test]
fn json_too_deep_for_a_log_does_not_become_a_message() {
    let net = Net::ready(taking(CohortBeacon::Smt, 2, Deposits::Accepted));
    let life = Life::k1(&net, 0, 0);
    let good = life.deposit(&life.update("two").0);
    let text = Message::UpdateDeposit(good.clone()).body().unwrap();
    for levels in [129, 5_000] {
        let deep = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let body = text.get().replace(good.update.0.get(), &deep);
        assert_ne!(body, text.get());
        let body = RawValue::from_string(body).unwrap();
        assert!(matches!(
            Message::parse("update_deposit", &body),
            Err(MessageError::Malformed("update_deposit", _))
        ));
    }
}

fn handled(net: &mut Net, deposit: UpdateDeposit) -> Step {
    let from = net.nodes[0].me();
    let message = Message::UpdateDeposit(deposit);
    let input = AggregatorInput::Message { from, message };
    // Each on its own day: the quota is another test's.
    net.now = net.now.plus(3_600);
    net.agg.handle(net.now, input)
}

/// A cohort of one with a k1 and an x1 DID.
fn alone() -> (Net, [Life; 2]) {
    let setup = taking(CohortBeacon::Smt, 1, Deposits::Accepted);
    let mut net = Net::ready(setup.terms(|terms| terms.seats_min = 1));
    net.record = false;
    let lives = [Life::k1(&net, 0, 0), Life::x1(&net, "external")];
    net.add_did(0, &lives[1]);
    (net, lives)
}

/// Whatever is in the place of update and source, it is refused and nothing else happens.
#[test]
fn any_json_is_handled() {
    let (net, lives) = alone();
    let net = std::cell::RefCell::new(net);
    proptest!(|(
        update in any_json(),
        source in proptest::option::of(any_json()),
        which in 0..2_usize,
    )| {
        let text = update.to_string();
        let hash = SignedUpdate::parse(&text).map(|update| update.hash());
        let deposit = UpdateDeposit {
            did: lives[which].did.did.clone(),
            hash: hash.unwrap_or_else(|_| super::node::update("x")),
            update: raw(&text),
            source: source.map(|value| raw_value(&value)),
        };
        let step = handled(&mut net.borrow_mut(), deposit);
        let refused = matches!(step.outcome, Outcome::Ignored(Ignored::DepositRefused(_)));
        prop_assert!(refused, "{step:?}");
        prop_assert_eq!(step.effects.len(), 2);
    });
}

/// One byte of a good deposit's update or source is another: it is refused, unless it still is the same JSON.
#[test]
fn a_changed_byte_is_noticed() {
    let (net, lives) = alone();
    let good = lives[1].deposit(&lives[1].update("two").0);
    proptest!(|(at in any::<prop::sample::Index>(), byte in 0x20..0x7f_u8, in_source in any::<bool>())| {
        let text = if in_source { good.source.as_ref().unwrap() } else { &good.update };
        let mut bytes = text.0.get().as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let changed = String::from_utf8(bytes).unwrap();
        let Ok(json) = RawValue::from_string(changed.clone()) else { return Ok(()) };
        let json = Box::new(RawJson(json));
        let mut bad = good.clone();
        if in_source { bad.source = Some(json) } else { bad.update = json }
        let value: Value = serde_json::from_str(&changed).unwrap();
        let before: Value = serde_json::from_str(text.0.get()).unwrap();
        let verified = verify_deposit(Network::Regtest, net.now, &bad);
        prop_assert_eq!(verified.is_ok(), value == before, "{:?}", verified.err());
    });
}

proptest! {
    /// Arbitrary bytes in the place of the whole message.
    #[test]
    fn any_bytes_are_no_message(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(text) = String::from_utf8(bytes)
            && let Ok(body) = RawValue::from_string(text)
        {
            prop_assert!(Message::parse("update_deposit", &body).is_err());
            prop_assert!(Message::parse("deposited", &body).is_err());
        }
    }
}

/// JSON in the rough shape of updates and documents.
fn any_json() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        Just("@context".to_owned()),
        Just("id".to_owned()),
        Just("patch".to_owned()),
        Just("proof".to_owned()),
        Just("sourceHash".to_owned()),
        Just("targetHash".to_owned()),
        Just("targetVersionId".to_owned()),
        Just("service".to_owned()),
        "[a-z/~]{0,6}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(json!(2)),
        Just(json!("did:btcr2:_")),
        Just(json!("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8")),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 8, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map(name.clone(), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
