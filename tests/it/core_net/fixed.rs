//! A cohort of fixed keys whose address, 32 bytes, transaction and signature are recomputed on an
//! independent path: libsecp256k1's own key aggregation, the BIP-341 tweak by hand, a tree that hashes
//! all 256 levels without a trick, and a transaction and its signature hash written byte by byte.

use std::collections::BTreeMap;

use bech32::Fe32;
use bech32::primitives::iter::{ByteIterExt as _, Fe32IterExt as _};
use bitcoin::consensus::encode::serialize;
use btcr2_agent::hash::{sha256, to_hex};
use btcr2_agent::protocol::terms::CohortBeacon;
use secp256k1_033 as libsecp;
use secp256k1_033::musig as libmusig;

use super::net::{Net, Setup};
use super::node::{key, smt_nonce, update};
use btcr2_agent::protocol::Round;

fn tagged(tag: &str, message: &[u8]) -> [u8; 32] {
    let tag = sha256(tag.as_bytes());
    sha256(&[&tag, &tag, message].concat())
}

/// The taproot output key of these members.
fn output_key(n: usize) -> libsecp::XOnlyPublicKey {
    let points: Vec<libsecp::PublicKey> = (0..n)
        .map(|i| {
            let x_only = key(&format!("member {i}")).public().to_bytes();
            let compressed = [&[2][..], &x_only].concat();
            libsecp::PublicKey::from_slice(&compressed).unwrap()
        })
        .collect();
    let mut sorted: Vec<&libsecp::PublicKey> = points.iter().collect();
    sorted.sort_by_key(|point| point.serialize());
    let internal = libmusig::KeyAggCache::new(&sorted).agg_pk();
    let tweak = tagged("TapTweak", &internal.to_byte_array());
    let tweak = libsecp::Scalar::from_be_bytes(tweak).unwrap();
    internal.add_tweak(&tweak).unwrap().0
}

/// The regtest address of a witness version 1 program.
fn address(program: &[u8; 32]) -> String {
    let hrp = bech32::Hrp::parse("bcrt").unwrap();
    program
        .iter()
        .copied()
        .bytes_to_fes()
        .with_checksum::<bech32::Bech32m>(&hrp)
        .with_witness_version(Fe32::P)
        .chars()
        .collect()
}

/// The root of the subtree of `leaves` below `depth` bits.
fn root(leaves: &BTreeMap<[u8; 32], [u8; 32]>, depth: usize) -> [u8; 32] {
    if depth == 256 {
        let empty = sha256(&[0; 64]);
        return leaves.values().next().copied().unwrap_or(empty);
    }
    // Only the empty subtree knows that both its halves are alike: 2^256 leaves would take a while.
    if leaves.is_empty() {
        let below = root(leaves, depth + 1);
        return sha256(&[below, below].concat());
    }
    let bit = |index: &[u8; 32]| index[depth / 8] >> (7 - depth % 8) & 1 == 1;
    let (right, left): (BTreeMap<_, _>, BTreeMap<_, _>) = leaves
        .iter()
        .map(|(i, v)| (*i, *v))
        .partition(|(i, _)| bit(i));
    sha256(&[root(&left, depth + 1), root(&right, depth + 1)].concat())
}

/// The unsigned transaction without its witness, and the BIP-341 signature hash of its only input.
fn transaction(
    tip: &bitcoin::OutPoint,
    value: u64,
    program: &[u8; 32],
    signal: &[u8; 32],
    fee: u64,
) -> (Vec<u8>, [u8; 32]) {
    use bitcoin::hashes::Hash as _;
    let script = [&[0x51, 0x20][..], program].concat();
    let outpoint = [&tip.txid.to_byte_array()[..], &tip.vout.to_le_bytes()].concat();
    let sequence = 0xffff_fffd_u32.to_le_bytes();
    let mut outputs = Vec::new();
    outputs.extend_from_slice(&(value - fee).to_le_bytes());
    outputs.push(34);
    outputs.extend_from_slice(&script);
    outputs.extend_from_slice(&[0; 8]);
    outputs.push(34);
    outputs.extend_from_slice(&[0x6a, 0x20]);
    outputs.extend_from_slice(signal);

    let mut tx = vec![2, 0, 0, 0, 1];
    tx.extend_from_slice(&outpoint);
    tx.push(0);
    tx.extend_from_slice(&sequence);
    tx.push(2);
    tx.extend_from_slice(&outputs);
    tx.extend_from_slice(&[0; 4]);

    // Epoch, hash type DEFAULT, version, lock time, the five hashes, spend type 0, input 0.
    let mut message = vec![0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&sha256(&outpoint));
    message.extend_from_slice(&sha256(&value.to_le_bytes()));
    message.extend_from_slice(&sha256(&[&[34], &script[..]].concat()));
    message.extend_from_slice(&sha256(&sequence));
    message.extend_from_slice(&sha256(&outputs));
    message.extend_from_slice(&[0, 0, 0, 0, 0]);
    (tx, tagged("TapSighash", &message))
}

fn expected_signal(net: &Net, n: usize) -> [u8; 32] {
    match net.agg.terms().beacon {
        CohortBeacon::Smt => {
            let leaves = (0..n)
                .map(|i| {
                    let did = &net.nodes[i].dids[0];
                    let index = sha256(did.did.as_str().as_bytes());
                    let nonce = smt_nonce(net.nodes[i].me(), Round(1), &did.index);
                    let hashed = sha256(nonce.as_bytes());
                    let leaf = if i == 0 {
                        sha256(&hashed)
                    } else {
                        let announced = update(&format!("{i}")).to_bytes();
                        sha256(&[hashed, announced].concat())
                    };
                    (index, leaf)
                })
                .collect();
            root(&leaves, 0)
        }
        CohortBeacon::Cas => {
            let mut entries: Vec<String> = (1..n)
                .map(|i| {
                    let did = &net.nodes[i].dids[0].did;
                    format!("\"{did}\":\"{}\"", update(&format!("{i}")))
                })
                .collect();
            entries.sort();
            sha256(format!("{{{}}}", entries.join(",")).as_bytes())
        }
    }
}

#[test]
fn address_signal_transaction_and_signature_on_an_independent_path() {
    // Written down once, so that a change of both paths would show.
    let addresses = [
        (
            2,
            "bcrt1p6j7amajveysl3twcvggjulkcuaxzw08w74galavtk5rxrqumyx7qkpvlax",
        ),
        (
            3,
            "bcrt1pesmxmhzr28r8p6w9rec4ca3t3zn679m4qwuad55uv9uhucw9d36szk3qe0",
        ),
        (
            5,
            "bcrt1p3vwelqmmyv8xgnejd9vk500htyu8gz5qvwpn6t9w8ezxtq4ekl3sw4t9qv",
        ),
    ];
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        for (n, known) in addresses {
            let mut net = Net::ready(Setup::new(beacon, n));
            let output = output_key(n);
            let program = output.to_byte_array();
            let (set, _) = net.agg.set().unwrap();
            assert_eq!(set.address, address(&program));
            assert_eq!(set.address, known);

            let tip = match net.agg.chain().tip {
                btcr2_agent::protocol::chain_view::TipView::Ready { outpoint, .. } => outpoint,
                other => panic!("{other:?}"),
            };
            (1..n).for_each(|i| assert_eq!(net.queue(i, 0, &format!("{i}")), ACCEPTED));
            let tx = net.round();

            let signal = expected_signal(&net, n);
            // 154 vB at the chain's 5 sat/vB.
            let (raw, sighash) = transaction(&tip, 100_000, &program, &signal, 770);
            let mut unsigned = tx.clone();
            unsigned.input[0].witness.clear();
            assert_eq!(to_hex(&serialize(&unsigned)), to_hex(&raw));
            let [signature] = tx.input[0].witness.to_vec().try_into().unwrap();
            let signature = signature.try_into().unwrap();
            let signature = libsecp::schnorr::Signature::from_byte_array(signature);
            libsecp::schnorr::verify(&signature, &sighash, &output).unwrap();
        }
    }
}

const ACCEPTED: btcr2_agent::protocol::effect::Outcome =
    btcr2_agent::protocol::effect::Outcome::Accepted;
