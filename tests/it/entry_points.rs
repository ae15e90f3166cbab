//! The entry points of the fuzz targets: with the committed corpus, with random bytes, and with valid input that was
//! damaged a little.
//!
//! `fuzz/corpus/TARGET/` holds valid input, but for files called `refused-…`, and `found-…` by a fuzzer, which may be either. `UPDATE_CORPUS=1 cargo test --test it
//! entry_points` writes what this file makes; what fuzzers find is added by hand.

#[path = "../../fuzz/entry_points/mod.rs"]
mod targets;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use btcr2_agent::beacon::smt::{Leaf, SmtProof, SmtTree};
use btcr2_agent::did::{PatchBuilder, SignedUpdate, UnsignedUpdate};
use btcr2_agent::hash::{SmtNonce, from_hex};
use btcr2_agent::keys::NostrKey;
use btcr2_agent::lookup::recording::Recording;
use btcr2_agent::network::Network;
use btcr2_agent::protocol::terms::Terms;
use proptest::prelude::*;
use proptest::sample::Index;
use secp256k1::{Keypair, SECP256K1};
use serde::Serialize;
use serde_json::{Value, json};

use super::core_net::net::{Net, Setup};
use super::protocol_doc;

const BIP370: &str = include_str!("../vectors/psbt/bip370.txt");
const BIP373: &str = include_str!("../vectors/psbt/bip373.txt");
const UPSTREAM: &str = include_str!("../vectors/regtest-upstream-2026-09.json");
const RECORDINGS: &str = include_str!("../../docs/recordings.md");
const SIGNALS: [(&str, &str); 2] = [
    (
        "upstream-k1",
        include_str!("../vectors/conform/regtest/k1/qgpx06u2/signals.json"),
    ),
    (
        "upstream-x1",
        include_str!("../vectors/conform/regtest/x1/qgxluz9h/signals.json"),
    ),
];

/// An update of the DID that the entry points resolve.
fn signed_update() -> SignedUpdate {
    let document = targets::resolution::target().1;
    let endpoint = "https://example.com".into();
    let patch = PatchBuilder::on(&document)
        .unwrap()
        .add_service("x", "LinkedDomains", &endpoint)
        .unwrap();
    let key = Keypair::from_seckey_slice(SECP256K1, &[7; 32]).unwrap();
    UnsignedUpdate::new(&document, 1, &patch.finish().unwrap())
        .unwrap()
        .sign_with_aux(&key, "#initialKey", &[0; 32])
        .unwrap()
}

fn proof() -> SmtProof {
    let index = targets::resolution::target().0.smt_index();
    let leaf = Leaf {
        nonce: Some(SmtNonce::from_bytes([1; 32])),
        update: Some(signed_update().hash()),
    };
    let tree = SmtTree::new([(index, leaf.value())]).unwrap();
    SmtProof::from_parts(tree.root(), &leaf, tree.prove(&index))
}

/// A corpus: target, name, bytes.
type Corpus = BTreeMap<(&'static str, String), Vec<u8>>;

/// Valid input of every kind: what this library makes, the examples of docs/protocol.md, and the upstream suite.
fn made() -> Corpus {
    let mut corpus = Corpus::new();
    let mut add = |target: &'static str, name: &str, bytes: Vec<u8>| {
        let name = name.replace([' ', ':', '/'], "-");
        corpus.insert((target, name), bytes);
    };
    let (did, _, genesis) = targets::resolution::target();
    let update = signed_update();
    let announcement = json!({did.as_str(): update.hash()});
    let sidecar = json!({
        "genesisDocument": genesis.value(),
        "updates": [update.value()],
        "casUpdates": [announcement],
        "smtProofs": [proof()],
    });
    add("did", "external", did.to_string().into_bytes());
    add("update", "service", update.canonical_bytes());
    add(
        "patch",
        "service",
        update.value()["patch"].to_string().into_bytes(),
    );
    add(
        "smt_proof",
        "one-leaf",
        serde_json::to_vec(&proof()).unwrap(),
    );
    add(
        "cas_announcement",
        "one",
        announcement.to_string().into_bytes(),
    );
    add("sidecar", "all", sidecar.to_string().into_bytes());

    let sets: Value = serde_json::from_str(UPSTREAM).unwrap();
    for (name, set) in sets.as_object().unwrap() {
        let input = &set["resolveInput"];
        let name = name.to_lowercase();
        let did = input["did"].as_str().unwrap();
        add("did", &name, did.into());
        let options = &input["resolutionOptions"];
        let sidecar = &options["sidecar"];
        if targets::resolution::sidecar(sidecar.to_string().as_bytes()) {
            add("sidecar", &name, sidecar.to_string().into_bytes());
            add("options", &name, options.to_string().into_bytes());
        }
    }

    for (name, block) in protocol_doc::shown() {
        let bytes = || block.clone().into_bytes();
        match name.split_once(' ') {
            Some(("message", rest)) => add("message", rest, bytes()),
            Some(("share", _)) => add("share_link", "example", block.trim().into()),
            _ => match name.as_str() {
                "event" | "advert" => add("event", &name, bytes()),
                "envelope" => add("envelope", &name, bytes()),
                "terms" => add("terms", &name, block.trim().into()),
                _ => {}
            },
        }
    }
    for url in [
        "wss://relay.example.com",
        "ws://127.0.0.1:7777/path",
        "wss://[2001:db8::1]:8443",
    ] {
        let name: String = url.chars().filter(char::is_ascii_alphanumeric).collect();
        add("relay_url", &name, url.into());
    }
    add(
        "relay_information",
        "limits",
        br#"{"name":"a relay","software":"git+https://example.com/relay.git","version":"1.1.3","supported_nips":[1,11,40,42],"limitation":{"max_message_length":131072,"max_subscriptions":20,"max_limit":500,"min_pow_difficulty":16,"auth_required":true}}"#.to_vec(),
    );
    add("relay_information", "nothing-said", b"{}".to_vec());
    for (bip, vectors) in [("bip370", BIP370), ("bip373", BIP373)] {
        for line in vectors.lines() {
            let (name, hex) = line.split_once(' ').unwrap();
            let name = format!("{bip}-{}", name.replace('/', "-"));
            let psbt = from_hex(hex).unwrap();
            add(
                "psbt",
                &format!("{name}-base64"),
                STANDARD.encode(&psbt).into(),
            );
            add("psbt", &name, psbt);
        }
    }
    add("recording", "example", example_of(RECORDINGS).into());
    let empty = Recording::without_signals(Network::Regtest);
    add("recording", "no-signals", empty.to_json().into_bytes());
    for (name, signals) in SIGNALS {
        add("recording", name, signals.as_bytes().to_vec());
    }
    corpus
}

/// The first JSON block of a document.
fn example_of(document: &str) -> &str {
    let (_, rest) = document.split_once("```json\n").unwrap();
    rest.split_once("```").unwrap().0
}

/// Logs of whole cohorts. Their nonces are random, so they are made anew only on request.
fn logs() -> Corpus {
    let mut corpus = Corpus::new();
    let setups = [
        ("smt", Setup::smt(2)),
        ("cas", Setup::cas(3)),
        ("refunds", Setup::smt(2).refunds()),
    ];
    for (name, setup) in setups {
        let mut net = Net::ready(setup);
        net.queue(0, 0, "first");
        net.round();
        let terms = net.agg.terms().clone();
        let log = net.agg_log.iter().map(|(now, input, _)| (now, input));
        let lines = log_of(&terms, terms.aggregator, log);
        corpus.insert(("aggregator", name.to_owned()), lines);
        let node = &net.nodes[0];
        let log = node.log.iter().map(|(now, input, _)| (now, input));
        let lines = log_of(&terms, node.key.public(), log);
        corpus.insert(("participant", name.to_owned()), lines);
    }
    corpus
}

fn log_of<I: Serialize>(terms: &Terms, me: NostrKey, log: impl Iterator<Item = I>) -> Vec<u8> {
    let mut lines = vec![terms.canonical(), me.to_string()];
    lines.extend(log.map(|input| serde_json::to_string(&input).unwrap()));
    lines.join("\n").into_bytes()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

/// What is committed.
static CORPUS: LazyLock<Corpus> = LazyLock::new(|| {
    let mut corpus = Corpus::new();
    for (target, _) in targets::TARGETS {
        let files = std::fs::read_dir(root().join(target));
        for file in files.into_iter().flatten() {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            corpus.insert((target, name), std::fs::read(file.path()).unwrap());
        }
    }
    corpus
});

/// What is committed, without what is refused.
static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let valid = CORPUS
        .iter()
        .filter(|((_, name), _)| !name.starts_with("refused-") && !name.starts_with("found-"));
    valid.map(|(_, bytes)| bytes.clone()).collect()
});

fn all(data: &[u8]) {
    for (_, target) in targets::TARGETS {
        target(data);
    }
}

#[test]
fn the_corpus_is_accepted_by_its_targets() {
    if std::env::var_os("UPDATE_CORPUS").is_some() {
        for ((target, name), bytes) in made().into_iter().chain(logs()) {
            let dir = root().join(target);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join(name), bytes).unwrap();
        }
        return;
    }
    for (name, target) in targets::TARGETS {
        let mine: Vec<_> = CORPUS.iter().filter(|((of, _), _)| of == name).collect();
        assert!(
            mine.iter()
                .any(|((_, file), _)| !file.starts_with("refused-") && !file.starts_with("found-")),
            "no corpus for {name}"
        );
        for ((_, file), bytes) in mine {
            let valid = !file.starts_with("refused-");
            let accepted = target(bytes);
            if file.starts_with("found-") {
                continue;
            }
            assert_eq!(accepted, valid, "fuzz/corpus/{name}/{file}");
        }
    }
}

#[test]
fn what_the_library_makes_is_in_the_corpus() {
    for ((target, name), bytes) in made() {
        let committed = CORPUS.get(&(target, name.clone()));
        assert_eq!(
            committed,
            Some(&bytes),
            "fuzz/corpus/{target}/{name} is stale; run UPDATE_CORPUS=1 cargo test --test it entry_points"
        );
    }
}

#[test]
fn every_target_has_a_binary() {
    let manifest: toml::Table = std::fs::read_to_string(root().join("../Cargo.toml"))
        .unwrap()
        .parse()
        .unwrap();
    let binaries = manifest["bin"].as_array().unwrap();
    let names: Vec<_> = binaries
        .iter()
        .map(|bin| bin["name"].as_str().unwrap())
        .collect();
    let targets: Vec<_> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
    // And one that runs any of them.
    assert!(names.contains(&"any"));
    assert_eq!(names.len(), targets.len() + 1);
    for name in targets {
        assert!(names.contains(&name), "fuzz/Cargo.toml lacks {name}");
        let source = root().join(format!("../fuzz_targets/{name}.rs"));
        let source = std::fs::read_to_string(source).unwrap();
        assert!(source.contains(&format!("::{name}(data)")), "{name}");
    }
}

#[test]
fn next_to_nothing_harms_nobody() {
    for nothing in ["", "{}", "[]", "null", "0", "\n\n"] {
        all(nothing.as_bytes());
    }
}

/// Changes, removes or repeats a few bytes.
fn damaged(mut data: Vec<u8>, damage: &[(Index, Option<u8>, usize)]) -> Vec<u8> {
    for (at, byte, length) in damage {
        if data.is_empty() {
            break;
        }
        let at = at.index(data.len());
        let end = data.len().min(at + length);
        match byte {
            Some(byte) => data[at] = *byte,
            None if length % 2 == 0 => drop(data.drain(at..end)),
            None => {
                let again = data[at..end].to_vec();
                data.splice(at..at, again);
            }
        }
    }
    data
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_bytes(data in prop::collection::vec(any::<u8>(), 0..300)) {
        all(&data);
    }

    #[test]
    fn damaged_input(
        seed in any::<Index>(),
        damage in prop::collection::vec((any::<Index>(), prop::option::of(any::<u8>()), 1usize..40), 1..4),
    ) {
        all(&damaged(seed.get(&SEEDS).clone(), &damage));
    }

    /// A log as the store might give it back, or as relays might have delivered it.
    #[test]
    fn logs_that_were_shuffled_and_lost_lines(
        seed in any::<Index>(),
        order in prop::collection::vec(any::<Index>(), 1..120),
    ) {
        for of in ["participant", "aggregator"] {
            // Whole ones: what a fuzzer found may be anything.
            let whole = |name: &str| !name.starts_with("found-");
            let logs = CORPUS.iter().filter(|((target, name), _)| *target == of && whole(name));
            let logs: Vec<_> = logs.collect();
            let log = std::str::from_utf8(seed.get(&logs).1).unwrap();
            let lines: Vec<_> = log.lines().collect();
            let (head, inputs) = lines.split_at(2);
            // Mostly in order: each line is the next one, or, one time in four, any.
            let chosen = order.iter().enumerate().filter_map(|(n, at)| {
                let any = at.index(inputs.len() * 4);
                inputs.get(if any < inputs.len() { any } else { n })
            });
            let shuffled: Vec<_> = head.iter().chain(chosen).copied().collect();
            let (_, target) = targets::TARGETS.iter().find(|(name, _)| *name == of).unwrap();
            prop_assert!(target(shuffled.join("\n").as_bytes()));
        }
    }

    #[test]
    fn operations_of_any_shape(
        operations in prop::collection::vec(
            (
                prop::sample::select(vec!["add", "remove", "replace", "move", "copy", "test"]),
                prop::sample::select(vec!["", "/id", "/service", "/service/0", "/service/-", "/@context/1", "/x~1y", "/a/b"]),
                prop::sample::select(vec!["", "/service", "/service/1", "/verificationMethod/0", "/proof"]),
            ),
            0..12,
        ),
    ) {
        let patch: Vec<_> = operations
            .into_iter()
            .map(|(op, path, from)| json!({"op": op, "path": path, "from": from, "value": {"id": path}}))
            .collect();
        targets::resolution::patch(Value::from(patch).to_string().as_bytes());
    }
}
