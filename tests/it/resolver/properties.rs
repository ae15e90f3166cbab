//! Whatever comes from outside: no panic, an end, and a result that depends on nothing but what is there.

use std::sync::LazyLock;

use bitcoin::Address;
use btcr2_agent::beacon::smt::Leaf;
use btcr2_agent::hash::SignalBytes;
use btcr2_agent::resolver::{
    ChainSignal, Progress, Request, ResolutionOptions, Resolver, Sidecar, SignalBlock, Strictness,
};
use btcr2_agent::time::UnixTime;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use super::*;
use crate::synthetic::{
    Controller, Question, SyntheticChain, announcing, block, cas_announcement, smt_signal, txid,
};

const NETWORK: Network = Network::Testnet3;

/// A DID with all three types of beacon, five versions, duplicates, a removed beacon and pending signals.
fn eventful() -> (Controller, SyntheticChain) {
    static EVENTFUL: LazyLock<(Controller, SyntheticChain)> = LazyLock::new(make_eventful);
    EVENTFUL.clone()
}

fn make_eventful() -> (Controller, SyntheticChain) {
    let [cas, smt, new] = [201, 202, 203].map(|n| address(NETWORK, n));
    let mut alice = Controller::external(NETWORK, 71, |builder| {
        builder
            .beacon("own", BeaconKind::Singleton, &address(NETWORK, 71))
            .beacon("cas", BeaconKind::Cas, &cas)
            .beacon("smt", BeaconKind::Smt, &smt)
    });
    let own = alice.beacon("own");
    let updates = [
        alice.add_service("a"),
        alice.update(|patch| patch.add_beacon("new", BeaconKind::Smt, &new)),
        alice.update(|patch| patch.remove_service("cas")),
        alice.add_service("b"),
    ];
    let mut chain = SyntheticChain::at(500);
    chain.signal_at(100, &own, announcing(&updates[0]));
    chain.signal_at(400, &own, announcing(&updates[0]));
    for (height, update) in [(110, Some(&updates[1])), (210, None)] {
        let map = cas_announcement(update.map(|update| (alice.did(), update.hash())));
        chain.signal_at(height, &cas, map.signal_bytes());
        alice.sidecar.add_announcement(&map);
    }
    for (height, byte, update, beacon) in [
        (120, 1, Some(&updates[2]), &smt),
        (130, 2, None, &smt),
        (140, 3, Some(&updates[3]), &new),
        (150, 4, Some(&updates[1]), &new),
    ] {
        let leaf = Leaf {
            nonce: Some(SmtNonce::from_bytes([byte; 32])),
            update: update.map(btcr2_agent::did::SignedUpdate::hash),
        };
        let (root, proofs) = smt_signal(&[(alice.did(), leaf)]);
        chain.signal_at(height, beacon, root);
        alice.sidecar.add_proof(&proofs[0]);
    }
    chain.signal_at(20, &new, SignalBytes::from_bytes([9; 32]));
    chain.unconfirmed(&smt, SignalBytes::from_bytes([9; 32]));
    (alice, chain)
}

#[test]
fn the_eventful_did_resolves() {
    let (alice, chain) = eventful();
    let resolution = Question::of(&alice).ask(&chain);
    assert_eq!(resolved(&resolution).document, alice.document);
    assert_eq!(metadata(&resolution).0, 5);
    let outline = outline(&resolution);
    for step in [
        "duplicate 2",
        "duplicate 3",
        "below 110",
        "pending",
        "applied 5",
    ] {
        assert!(outline.contains(&step.to_owned()), "{step}: {outline:?}");
    }
}

fn shuffle<T>(items: &mut [T], by: &[Index]) {
    for (i, index) in by.iter().enumerate() {
        if !items.is_empty() {
            let at = i % items.len();
            items.swap(at, index.index(items.len()));
        }
    }
}

/// Answers requests in an order that `order` says, some of them later.
fn drive(question: &Question, chain: &SyntheticChain, order: &[Index]) -> Resolution {
    let mut resolver = Resolver::new(
        question.did.clone(),
        question.options,
        question.sidecar.clone(),
        question.strictness,
        chain.tip(),
    );
    let mut order = order.iter().cycle();
    loop {
        let mut requests = match resolver.poll() {
            Progress::Done(resolution) => return *resolution,
            Progress::Need(requests) => requests,
        };
        let by: Vec<_> = order.by_ref().take(requests.len()).copied().collect();
        shuffle(&mut requests, &by);
        let answered = by[0].index(requests.len()) + 1;
        for request in requests.into_iter().take(answered) {
            match request {
                Request::Signals { address } => {
                    let mut signals = chain.signals_of(&address);
                    shuffle(&mut signals, &by);
                    resolver.signals(&address, signals);
                }
                Request::Cas { hash, .. } => {
                    resolver.object(&hash, question.storage.get(&hash).cloned());
                }
            }
        }
    }
}

/// JSON of any shape, with the names that matter often.
fn any_json() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        "genesisDocument|updates|casUpdates|smtProofs|id|nonce|updateId|collapsed|hashes|patch|proof|targetVersionId|sourceHash",
        "[a-z@]{0,4}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[A-Za-z0-9_-]{43}".prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::btree_map(name.clone(), inner, 0..8).prop_map(|members| members
                .into_iter()
                .collect::<serde_json::Map<_, _>>()
                .into()),
        ]
    })
}

fn any_signal() -> impl Strategy<Value = ChainSignal> {
    let block =
        (0..=u32::MAX, any::<u64>(), any::<u64>()).prop_map(|(height, time, median)| SignalBlock {
            time: UnixTime(time),
            median_time: UnixTime(median),
            ..block(height)
        });
    let low = (0..600u32).prop_map(block_at);
    (
        0..40u32,
        any::<[u8; 32]>(),
        prop::option::of(prop_oneof![block, low]),
    )
        .prop_map(|(n, signal, block)| ChainSignal {
            txid: txid(n),
            signal: SignalBytes::from_bytes(signal),
            block,
        })
}

fn block_at(height: u32) -> SignalBlock {
    block(height)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_order_gives_the_same(
        answers in prop::collection::vec(any::<Index>(), 1..40),
        items in prop::collection::vec(any::<Index>(), 1..40),
        moved in prop::collection::vec(any::<bool>(), 20),
    ) {
        let (alice, chain) = eventful();
        let expected = Question::of(&alice).ask(&chain);
        // Some of it moves from the sidecar to storage, the rest changes places.
        let mut value = alice.sidecar.to_value();
        let mut question = Question::new(alice.did(), Sidecar::default());
        let mut moved = moved.iter();
        for name in ["updates", "casUpdates", "smtProofs"] {
            let list = value[name].as_array_mut().unwrap();
            if name != "smtProofs" {
                list.retain(|object| {
                    let stays = !moved.next().unwrap();
                    if !stays {
                        question = question.clone().stored(object);
                    }
                    stays
                });
            }
            shuffle(list, &items);
        }
        question.sidecar = Sidecar::from_value(&value).unwrap();
        let resolution = drive(&question, &chain, &answers);
        prop_assert_eq!(&resolution.outcome, &expected.outcome);
        prop_assert_eq!(outline(&resolution), outline(&expected));
    }

    #[test]
    fn any_bytes_as_a_sidecar(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Sidecar::parse(&bytes);
    }

    #[test]
    fn any_json_as_options_and_sidecar(value in any_json(), lists in prop::collection::vec(any_json(), 0..4)) {
        let _ = ResolutionOptions::from_json(&value);
        let by_text = Sidecar::parse(value.to_string());
        prop_assert_eq!(by_text.is_ok(), value.is_object() && Sidecar::from_value(&value).is_ok());
        let sidecar = json!({"updates": lists, "casUpdates": lists, "smtProofs": lists, "genesisDocument": value});
        let read = Sidecar::from_value(&sidecar).unwrap();
        prop_assert_eq!(&Sidecar::parse(sidecar.to_string()).unwrap(), &read);
        prop_assert_eq!(&Sidecar::parse(read.canonical_bytes()).unwrap(), &read);
    }

    #[test]
    fn any_signals_any_objects_any_tip(
        signals in prop::collection::vec((any::<Index>(), any_signal()), 0..30),
        objects in prop::collection::vec(prop::option::of(any_json()), 1..5),
        announced in prop::collection::vec((any::<Index>(), any_json(), 0..600u32), 0..5),
        tip in 0..700u32,
        min_conf in 0..4u32,
        by_id in prop::option::of(0..4u64),
    ) {
        let (mut alice, _) = eventful();
        let beacons: Vec<Address> = [71, 201, 202, 203].map(|n| address(NETWORK, n)).into();
        let mut all: Vec<(Address, ChainSignal)> = signals
            .into_iter()
            .map(|(index, signal)| (beacons[index.index(4)].clone(), signal))
            .collect();
        // JSON of any shape that was announced for real.
        let list: Vec<&Value> = announced.iter().map(|(_, value, _)| value).collect();
        let more = Sidecar::from_value(&json!({"updates": list, "casUpdates": list})).unwrap();
        for ((index, _, height), (hash, _)) in announced.iter().zip(more.updates()) {
            let signal = ChainSignal {
                txid: txid(1_000 + height),
                signal: SignalBytes::from_bytes(hash.to_bytes()),
                block: Some(block(*height)),
            };
            all.push((beacons[index.index(4)].clone(), signal));
        }
        alice.sidecar.merge(more);
        let options = ResolutionOptions { version: by_id.map(VersionChoice::Id), min_conf };
        let mut resolver = Resolver::new(
            alice.did().clone(),
            options,
            alice.sidecar.clone(),
            Strictness::default(),
            SyntheticChain::at(tip).tip(),
        );
        let mut objects = objects.into_iter().cycle();
        let resolution = loop {
            match resolver.poll() {
                Progress::Done(resolution) => break resolution,
                Progress::Need(requests) => {
                    for request in requests {
                        match request {
                            Request::Signals { address } => {
                                let mine = all.iter().filter(|(a, _)| *a == address);
                                resolver.signals(&address, mine.map(|(_, s)| *s).collect());
                            }
                            Request::Cas { hash, .. } => {
                                let object = objects.next().unwrap();
                                resolver.object(&hash, object.map(|o| o.to_string().into_bytes()));
                            }
                        }
                    }
                }
            }
        };
        // Whatever came out can be written down.
        let value = resolution.to_value();
        prop_assert_eq!(value["didDocument"].is_null(), resolution.outcome.is_err());
        prop_assert_eq!(
            resolution.walk.to_string().lines().count() >= resolution.walk.steps.len(),
            true
        );
        prop_assert!(serde_json::to_value(&resolution.walk).unwrap().is_array());
    }
}
