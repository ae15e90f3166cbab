//! Deposits that are refused, each for its own reason, and what becomes of the round. The cheat is a member;
//! sometimes it is only mistaken.

use bitcoin::Txid;
use bitcoin::hashes::Hash as _;
use btcr2_agent::beacon::smt::Leaf;
use btcr2_agent::did::{DocumentPatch, SignedUpdate, UnsignedUpdate};
use btcr2_agent::hash::{LeafValue, UpdateHash};
use btcr2_agent::network::Network;
use btcr2_agent::protocol::Round;
use btcr2_agent::protocol::aggregator::AggregatorInput;
use btcr2_agent::protocol::chain_view::{ChainUpdate, SpendSeen};
use btcr2_agent::protocol::deposit::{DepositCode, LeafOpening, UpdateDeposit, verify_deposit};
use btcr2_agent::protocol::effect::{Ignored, Outcome, Report};
use btcr2_agent::protocol::message::{
    Entries, Message, RawJson, RefusalCode, Response, RoundCause, SmtEntry,
};
use btcr2_agent::protocol::participant::{DepositState, ParticipantInput};
use btcr2_agent::protocol::terms::{CohortBeacon, Deposits};
use btcr2_agent::time::UnixTime;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::deposits::{BEACONS, Life, taking};
use super::net::{Dest, Net};
use super::node::{key, smt_nonce, update};

pub fn raw(text: &str) -> Box<RawJson> {
    Box::new(RawJson(RawValue::from_string(text.to_owned()).unwrap()))
}

pub fn raw_value(value: &Value) -> Box<RawJson> {
    raw(&value.to_string())
}

/// A deposit of an update whose members were changed after it was signed.
pub fn tampered(life: &Life, change: impl FnOnce(&mut Value)) -> UpdateDeposit {
    let mut deposit = life.deposit(&life.update("two").0);
    let mut value: Value = serde_json::from_str(deposit.update.0.get()).unwrap();
    change(&mut value);
    deposit.update = raw_value(&value);
    if let Ok(update) = SignedUpdate::from_value(&value) {
        deposit.hash = update.hash();
    }
    deposit
}

/// An update whose unsigned members were changed before it was signed again.
fn resigned(life: &Life, change: impl FnOnce(&mut Value)) -> UpdateDeposit {
    let (signed, _) = life.update("two");
    let mut value = signed.value().clone();
    let mut proof = value.as_object_mut().unwrap().remove("proof").unwrap();
    change(&mut value);
    proof.as_object_mut().unwrap().remove("proofValue");
    let digest = signing_hash(&value, &proof);
    let sig = life.did.key.sign_digest(&digest);
    let value_text = format!("z{}", bs58::encode(sig.to_bytes()).into_string());
    proof["proofValue"] = json!(value_text);
    value["proof"] = proof;
    let update = SignedUpdate::from_value(&value).unwrap();
    UpdateDeposit {
        did: life.did.did.clone(),
        hash: update.hash(),
        update: raw_value(&value),
        source: life.deposit(&signed).source,
    }
}

/// SHA-256 of the proof's and the update's document hashes (spec.md §3.1), on its own path.
fn signing_hash(update: &Value, proof: &Value) -> [u8; 32] {
    let hash = |value| btcr2_agent::did::json::document_hash(value).to_bytes();
    btcr2_agent::hash::sha256(&[hash(proof), hash(update)].concat())
}

/// Every way in which an update of the member's DID can be wrong.
fn bad_deposits(life: &Life, other: &Life) -> Vec<(DepositCode, UpdateDeposit)> {
    let good = life.deposit(&life.update("two").0);
    let is_external = life.did.genesis.is_some();
    let mut cases = vec![
        (
            DepositCode::OtherHash,
            UpdateDeposit {
                hash: update("another"),
                ..good.clone()
            },
        ),
        (
            DepositCode::NotRegistered,
            other.deposit(&other.update("two").0),
        ),
        (
            DepositCode::BadUpdate,
            UpdateDeposit {
                update: raw("[1, 2]"),
                ..good.clone()
            },
        ),
        (
            DepositCode::BadUpdate,
            UpdateDeposit {
                // A name twice: two readers would understand two things.
                update: raw(&good.update.0.get().replacen('{', r#"{"patch":[],"#, 1)),
                ..good.clone()
            },
        ),
        (
            DepositCode::BadUpdate,
            tampered(life, |update| {
                let deep = format!("{}1{}", "[".repeat(70), "]".repeat(70));
                update["deep"] = serde_json::from_str(&deep).unwrap();
            }),
        ),
        (
            DepositCode::BadUpdate,
            tampered(life, |update| update["targetVersionId"] = json!(1)),
        ),
        (
            DepositCode::TooLarge,
            tampered(life, |update| update["more"] = json!("x".repeat(200_000))),
        ),
        // Another key signs; a signature of something else; no signature.
        (
            DepositCode::BadSignature,
            tampered(life, |update| update["more"] = json!(1)),
        ),
        (
            DepositCode::BadSignature,
            tampered(life, |update| update["proof"]["proofValue"] = json!("z1")),
        ),
        (
            DepositCode::NotAuthorized,
            tampered(life, |update| {
                let method = format!("{}#initialKey", other.did.did);
                update["proof"]["verificationMethod"] = json!(method);
            }),
        ),
        (
            DepositCode::BadProof,
            tampered(life, |update| update["proof"]["proofPurpose"] = json!("x")),
        ),
        (
            DepositCode::BadProof,
            tampered(life, |update| {
                update["proof"]["invocationTarget"] = json!(other.did.did.as_str());
            }),
        ),
        (
            DepositCode::SourceHash,
            resigned(life, |update| {
                update["sourceHash"] = update["targetHash"].clone()
            }),
        ),
        (
            DepositCode::TargetHash,
            resigned(life, |update| {
                update["targetHash"] = update["sourceHash"].clone()
            }),
        ),
        (
            DepositCode::IdChanged,
            resigned(life, |update| {
                update["patch"] = json!([
                    { "op": "replace", "path": "/id", "value": other.did.did.as_str() }
                ]);
            }),
        ),
        (
            DepositCode::BadPatch,
            resigned(life, |update| {
                update["patch"] = json!([{ "op": "remove", "path": "/nothing" }]);
            }),
        ),
        (
            DepositCode::BadTarget,
            resigned(life, |update| {
                update["patch"] = json!([{ "op": "remove", "path": "/@context" }]);
            }),
        ),
        // To a later version the source comes along, and is a document of the DID.
        (
            DepositCode::BadSource,
            UpdateDeposit {
                source: None,
                ..resigned(life, |update| update["targetVersionId"] = json!(3))
            },
        ),
        (
            DepositCode::BadSource,
            UpdateDeposit {
                source: Some(raw_value(other.document.value())),
                ..resigned(life, |update| update["targetVersionId"] = json!(3))
            },
        ),
        (
            DepositCode::BadSource,
            UpdateDeposit {
                source: Some(raw(r#"{"id":"did:btcr2:_"}"#)),
                ..good.clone()
            },
        ),
    ];
    let mut later = life.deposit(&life.update("two").0);
    let initial = &life.document;
    later.source = Some(raw_value(&{
        let mut other = initial.value().clone();
        other["service"][0]["id"] = json!(format!("{}#elsewhere", life.did.did));
        other
    }));
    if is_external {
        // The genesis document of another DID.
        let mut foreign = good.clone();
        let genesis = other.did.genesis.as_ref().unwrap();
        foreign.source = Some(raw_value(genesis.value()));
        cases.push((DepositCode::NotInitial, foreign));
        let mut missing = good;
        missing.source = None;
        cases.push((DepositCode::BadSource, missing));
    } else {
        cases.push((DepositCode::NotInitial, later));
    }
    cases
}

/// Each bad deposit: its own code, the member is told, gets its update back, and answers the round without it;
/// the others' updates are announced; and the member can correct it.
#[test]
fn each_refusal_has_its_reason_and_costs_nobody_else_anything() {
    for beacon in BEACONS {
        for external in [false, true] {
            let mut net = Net::ready(taking(beacon, 3, Deposits::Accepted).dids(&[1, 1, 1]));
            let (life, other, j) = if external {
                let life = Life::x1(&net, "external");
                let j = net.add_did(0, &life);
                (life, Life::x1(&net, "another"), j)
            } else {
                (Life::k1(&net, 0, 0), Life::k1(&net, 1, 0), 0)
            };
            let index = life.did.index;
            let cases = bad_deposits(&life, &other);
            for (code, bad) in &cases {
                // Out of reach of the quota.
                net.advance(3_600);
                let (hash, foreign) = (bad.hash, bad.did != life.did.did);
                let outcome = net.say(0, Message::UpdateDeposit(bad.clone()));
                assert_eq!(
                    outcome,
                    Outcome::Ignored(Ignored::DepositRefused(*code)),
                    "{bad:?}"
                );
                // Nobody knows of it yet but the aggregator; now the member itself sends it.
                net.mail.clear();
                if foreign {
                    continue;
                }
                net.deposit(0, bad.clone());
                assert_eq!(net.nodes[0].core.update_state(&index), Some((hash, false)));
                net.run();
                assert_eq!(net.nodes[0].core.update_state(&index), None);
                let Some(Report::MyDepositRefused {
                    code: told, reason, ..
                }) = net.nodes[0].reports.last()
                else {
                    panic!("{:?}", net.nodes[0].reports.last())
                };
                assert_eq!((told, reason.is_empty()), (code, false));
                assert!(matches!(
                    net.deposit_state(0, hash),
                    Some(DepositState::Refused(_))
                ));
            }
            assert!(net.agg_saved.is_empty(), "nothing refused is kept");
            // It is refused while the round is open: the round goes on without it.
            let bad = cases
                .iter()
                .find(|(code, _)| *code == DepositCode::BadSignature);
            net.advance(3_600);
            let bad = bad.unwrap().1.clone();
            net.deposit(0, bad);
            net.queue(1, 0, "honest");
            net.hold = Some("update_deposit");
            net.open();
            assert_eq!(net.agg.open_round_progress().unwrap().1, 2);
            net.release();
            assert_eq!(net.agg.signals_signed(), 1);
            net.mine(1);
            assert_eq!(net.proved(1, 0), [Some(Some(update("honest")))]);
            assert_eq!(net.proved(0, j), [Some(None)]);
            // Corrected.
            let hash = net.deposit(0, life.deposit(&life.update("two").0));
            net.round();
            assert_eq!(net.proved(0, j), [Some(None), Some(Some(hash))]);
        }
    }
}

/// A proof whose times do not permit an announcement now would be fatal in the signal's block.
#[test]
fn times_are_checked_as_if_the_signal_confirmed_now() {
    let net = Net::ready(taking(CohortBeacon::Smt, 2, Deposits::Accepted));
    let life = Life::k1(&net, 0, 0);
    let (signed, _) = life.update("two");
    let with = |name: &str, time: &str| {
        let mut value = signed.value().clone();
        let mut proof = value.as_object_mut().unwrap().remove("proof").unwrap();
        proof.as_object_mut().unwrap().remove("proofValue");
        proof[name] = json!(time);
        let sig = life.did.key.sign_digest(&signing_hash(&value, &proof));
        proof["proofValue"] = json!(format!("z{}", bs58::encode(sig.to_bytes()).into_string()));
        value["proof"] = proof;
        let update = SignedUpdate::from_value(&value).unwrap();
        let deposit = life.deposit(&update);
        // 2027-01-15T08:00:00Z
        verify_deposit(Network::Regtest, UnixTime(1_800_000_000), &deposit).map(|_| ())
    };
    assert!(with("created", "2027-01-15T08:00:00Z").is_ok());
    assert!(with("expires", "2027-01-15T08:00:00Z").is_ok());
    for (name, time) in [
        ("created", "2027-01-15T08:00:01Z"),
        ("expires", "2027-01-15T07:59:59Z"),
        ("expires", "soon"),
    ] {
        let code = with(name, time).unwrap_err().code();
        assert_eq!(code, DepositCode::BadTimes, "{name} {time}");
    }
}

#[test]
fn another_network_and_a_deactivated_document() {
    let net = Net::ready(taking(CohortBeacon::Smt, 2, Deposits::Accepted));
    let mut life = Life::k1(&net, 0, 0);
    let deposit = life.deposit(&life.update("two").0);
    let fault = verify_deposit(Network::Signet, net.now, &deposit).unwrap_err();
    assert_eq!(fault.code(), DepositCode::OtherNetwork);
    // An update of a deactivated document can not be made with this software's own hands.
    let patch = json!([{ "op": "add", "path": "/deactivated", "value": true }]);
    let (_, dead) = life.patched(&patch);
    let (third, _) = {
        life.version = 2;
        life.update("three")
    };
    let mut value = third.value().clone();
    value["sourceHash"] = json!(dead.hash());
    let hash = SignedUpdate::from_value(&value).unwrap().hash();
    let deposit = UpdateDeposit {
        did: life.did.did.clone(),
        hash,
        update: raw_value(&value),
        source: Some(raw_value(dead.value())),
    };
    let fault = verify_deposit(Network::Regtest, net.now, &deposit).unwrap_err();
    assert_eq!(fault.code(), DepositCode::Deactivated);
}

/// What follows an announced update starts where it led; nothing takes its place.
#[test]
fn an_update_beside_the_one_that_was_announced() {
    for beacon in BEACONS {
        let mut net = Net::ready(taking(beacon, 2, Deposits::Accepted));
        let mut life = Life::k1(&net, 0, 0);
        let (second, target) = life.update("two");
        let (rival, rival_target) = life.update("rival");
        let rival_deposit = life.deposit(&rival);
        net.deposit(0, life.deposit(&second));
        net.round();
        let code = |net: &mut Net, deposit: &UpdateDeposit| {
            let outcome = net.say(0, Message::UpdateDeposit(deposit.clone()));
            net.mail.clear();
            match outcome {
                Outcome::Accepted => None,
                Outcome::Ignored(Ignored::DepositRefused(code)) => Some(code),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(
            code(&mut net, &rival_deposit),
            Some(DepositCode::VersionTaken)
        );
        // The same one again is harmless: a signal that died is followed by another one.
        assert_eq!(code(&mut net, &life.deposit(&second)), None);
        let mut elsewhere = Life::k1(&net, 0, 0);
        elsewhere.goes_on(rival_target);
        let other_source = elsewhere.deposit(&elsewhere.update("three").0);
        assert_eq!(code(&mut net, &other_source), Some(DepositCode::NotCurrent));
        life.goes_on(target);
        let third = life.deposit(&life.update("three").0);
        assert_eq!(code(&mut net, &third), None);
        // A reorg takes the signal away for good: another spend of its input confirms.
        let (_, tx) = net.signed_txs().pop().unwrap();
        let height = Some(net.chain.height);
        let by = Txid::from_byte_array([7; 32]);
        let chain = ChainUpdate {
            height: net.chain.height,
            extra: None,
            tip: net.agg.chain().tip,
            signals: vec![(tx.compute_txid(), None)],
            spends: vec![(tx.input[0].previous_output, Some(SpendSeen { by, height }))],
            outputs: Vec::new(),
            fee_rate: None,
        };
        net.agg_input(AggregatorInput::Chain(chain));
        assert_eq!(code(&mut net, &rival_deposit), None);
    }
}

fn at_response(beacon: CohortBeacon, deposits: Deposits) -> (Net, Life, Response, UpdateHash) {
    let mut net = Net::ready(taking(beacon, 2, deposits));
    let life = Life::k1(&net, 1, 0);
    let hash = net.deposit(1, life.deposit(&life.update("two").0));
    net.run();
    net.hold = Some("response");
    net.open();
    let from = net.nodes[1].me();
    let at = net.held.iter().position(|mail| mail.from == from).unwrap();
    let Message::Response(signed) = net.held.remove(at).message else {
        unreachable!()
    };
    net.release();
    (net, life, signed.content, hash)
}

fn respond(net: &mut Net, response: Response) -> Outcome {
    let signed = net.signed(1, response);
    let outcome = net.say(1, Message::Response(signed));
    // The cheat does not listen.
    net.mail.retain(|mail| {
        mail.to != Dest::Member(1)
            || !matches!(mail.message, Message::Refused(_) | Message::Deposited(_))
    });
    outcome
}

pub fn refused(code: RefusalCode) -> Outcome {
    Outcome::Ignored(Ignored::Refused(code))
}

/// A response that does not announce what was deposited is refused; the honest one then counts.
#[test]
fn smt_a_leaf_that_is_not_what_it_is_opened_as() {
    for deposits in [Deposits::Accepted, Deposits::Required] {
        let (mut net, life, good, hash) = at_response(CohortBeacon::Smt, deposits);
        let nonce = smt_nonce(net.nodes[1].me(), Round(1), &life.did.index);
        let entry = |response: &Response| match &response.entries {
            Entries::Smt(entries) => entries[0].clone(),
            Entries::Cas(_) => unreachable!(),
        };
        let good_entry = entry(&good);
        assert_eq!(
            good_entry.opened,
            Some(LeafOpening {
                nonce: Some(nonce),
                update: Some(hash)
            })
        );
        let with = |change: &dyn Fn(&mut SmtEntry)| {
            let mut bad = good.clone();
            if let Entries::Smt(entries) = &mut bad.entries {
                change(&mut entries[0]);
            }
            bad
        };
        let foreign = Leaf {
            nonce: Some(nonce),
            update: Some(update("never deposited")),
        };
        let empty = Leaf {
            nonce: Some(nonce),
            update: None,
        };
        let mut cases = vec![
            // Another leaf than the one that is shown.
            (
                RefusalCode::WrongLeaf,
                with(&|entry| entry.leaf = Some(LeafValue::from_bytes([9; 32]))),
            ),
            (RefusalCode::WrongLeaf, with(&|entry| entry.leaf = None)),
            (
                RefusalCode::WrongLeaf,
                with(&|entry| entry.leaf = Some(foreign.value())),
            ),
            (
                RefusalCode::WrongLeaf,
                with(&|entry| entry.opened = Some(empty.into())),
            ),
            (
                RefusalCode::WrongLeaf,
                with(&|entry| {
                    entry.opened = Some(LeafOpening {
                        nonce: None,
                        update: Some(hash),
                    });
                }),
            ),
            // A leaf that is shown and was never deposited.
            (
                RefusalCode::DepositRequired,
                with(&|entry| {
                    entry.leaf = Some(foreign.value());
                    entry.opened = Some(foreign.into());
                }),
            ),
        ];
        if deposits == Deposits::Required {
            cases.push((RefusalCode::WrongLeaf, with(&|entry| entry.opened = None)));
        }
        for (code, bad) in cases {
            assert_eq!(respond(&mut net, bad), refused(code));
            assert_eq!(net.agg.open_round_progress().unwrap().1, 1);
        }
        assert_eq!(respond(&mut net, good), Outcome::Accepted);
        net.finish();
        assert_eq!(net.proved(1, 0)[0], Some(Some(hash)));
    }
}

#[test]
fn cas_an_update_that_was_not_deposited_where_it_must_be() {
    let (mut net, _, good, hash) = at_response(CohortBeacon::Cas, Deposits::Required);
    let mut bad = good.clone();
    if let Entries::Cas(entries) = &mut bad.entries {
        entries[0].update = Some(update("never deposited"));
    }
    assert_eq!(
        respond(&mut net, bad),
        refused(RefusalCode::DepositRequired)
    );
    let told = net.last_sent("deposited");
    assert_eq!(told.to, Dest::Member(1));
    let Message::Deposited(told) = told.message else {
        unreachable!()
    };
    assert_eq!(told.items.len(), 1);
    let why = told.items[0].refused.as_ref().unwrap();
    assert_eq!(why.code, DepositCode::NotDeposited);
    assert_eq!(respond(&mut net, good), Outcome::Accepted);
    net.finish();
    assert_eq!(net.proved(1, 0)[0], Some(Some(hash)));
}

/// Who insists is absent, like one who says nothing; the others are told, and the next round is free.
#[test]
fn who_insists_on_what_was_not_deposited_did_not_respond() {
    for beacon in BEACONS {
        let (mut net, _, good, _) = at_response(beacon, Deposits::Required);
        let mut bad = good;
        match &mut bad.entries {
            Entries::Smt(entries) => entries[0].opened = None,
            Entries::Cas(entries) => entries[0].update = Some(update("never deposited")),
        }
        for _ in 0..3 {
            assert!(matches!(
                respond(&mut net, bad.clone()),
                Outcome::Ignored(Ignored::Refused(_))
            ));
        }
        net.advance(43_201);
        let failed = Report::RoundFailed {
            round: Round(1),
            why: RoundCause::NoResponse {
                absent: vec![btcr2_agent::protocol::Seat(1)],
            },
        };
        assert!(net.agg_reports.contains(&failed));
        net.next_round_works();
    }
}

#[test]
fn where_the_terms_take_no_deposits() {
    let mut net = Net::ready(taking(CohortBeacon::Smt, 2, Deposits::None));
    let life = Life::k1(&net, 1, 0);
    let deposit = life.deposit(&life.update("two").0);
    let outcome = net.input(1, ParticipantInput::Deposit(Box::new(deposit.clone())));
    let Outcome::Ignored(Ignored::Contradiction(why)) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(why.contains("no deposits"), "{why}");
    assert_eq!(
        net.say(1, Message::UpdateDeposit(deposit)),
        Outcome::Ignored(Ignored::DepositRefused(DepositCode::NotTaken))
    );
    net.run();
    assert!(net.agg_saved.is_empty());
    net.queue(1, 0, "bare");
    net.hold = Some("response");
    net.open();
    let from = net.nodes[1].me();
    let at = net.held.iter().position(|mail| mail.from == from).unwrap();
    let Message::Response(signed) = net.held.remove(at).message else {
        unreachable!()
    };
    let mut bad = signed.content.clone();
    if let Entries::Smt(entries) = &mut bad.entries {
        assert_eq!(entries[0].opened, None);
        let leaf = Leaf {
            nonce: Some(smt_nonce(from, Round(1), &life.did.index)),
            update: Some(update("bare")),
        };
        entries[0].opened = Some(leaf.into());
    }
    assert_eq!(respond(&mut net, bad), refused(RefusalCode::WrongEntries));
    assert_eq!(respond(&mut net, signed.content), Outcome::Accepted);
    net.finish();
}

#[test]
fn strangers_and_other_seats_deposit_nothing() {
    let mut net = Net::new(taking(CohortBeacon::Smt, 2, Deposits::Accepted));
    let life = Life::k1(&net, 0, 0);
    let message = Message::UpdateDeposit(life.deposit(&life.update("two").0));
    net.advertise();
    let stranger = key("stranger").public();
    let say = |net: &mut Net, from| net.deliver(from, Dest::Aggregator, message.clone());
    assert_eq!(
        say(&mut net, stranger),
        Outcome::Ignored(Ignored::NotAMember)
    );
    let mut net = Net::ready(taking(CohortBeacon::Smt, 2, Deposits::Accepted));
    assert_eq!(
        say(&mut net, stranger),
        Outcome::Ignored(Ignored::NotAMember)
    );
    let other = net.nodes[1].me();
    assert_eq!(
        say(&mut net, other),
        Outcome::Ignored(Ignored::DepositRefused(DepositCode::NotRegistered))
    );
    // Nobody but the aggregator says what became of it.
    let hash = net.deposit(0, life.deposit(&life.update("two").0));
    net.run_until("deposited");
    let verdict = net.on_its_way("deposited").unwrap().message.clone();
    net.mail.clear();
    assert_eq!(
        net.deliver(stranger, Dest::Member(0), verdict.clone()),
        Outcome::Ignored(Ignored::NotTheAggregator)
    );
    assert_eq!(net.deposit_state(0, hash), Some(DepositState::Sent));
    assert_eq!(net.tell(1, verdict), Outcome::Ignored(Ignored::Unasked));
}

/// An update of a source document that the update itself was not made from.
#[test]
fn the_patch_is_applied_to_the_source_that_came_along() {
    let net = Net::ready(taking(CohortBeacon::Smt, 2, Deposits::Accepted));
    let life = Life::k1(&net, 0, 0);
    let (second, target) = life.update("two");
    let patch = DocumentPatch::from_value(&json!([])).unwrap();
    let unsigned = UnsignedUpdate::new(&target, 2, &patch).unwrap();
    let method = &target.invocation_methods().next().unwrap().id;
    let third = unsigned.sign(&life.did.key, method).unwrap();
    let good = UpdateDeposit::new(&third, &target, None).unwrap();
    assert!(verify_deposit(Network::Regtest, net.now, &good).is_ok());
    let mut bad = good;
    bad.source = Some(raw_value(life.document.value()));
    let fault = verify_deposit(Network::Regtest, net.now, &bad).unwrap_err();
    assert_eq!(fault.code(), DepositCode::SourceHash);
    // And the second, whose source is the initial document, says so or nothing.
    let mut second = life.deposit(&second);
    assert_eq!(second.source, None);
    second.source = Some(raw_value(life.document.value()));
    assert!(verify_deposit(Network::Regtest, net.now, &second).is_ok());
}
