//! What one look at a beacon costs after 10, 1 000 and 10 000 rounds: a new block with one more signal, from what the
//! server answers to what a member's or an aggregator's machine is told. It is the same whatever the age.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

use std::hint::black_box;

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash as _;
use bitcoin::transaction::Version;
use bitcoin::{Amount, FeeRate, OutPoint, ScriptBuf, Transaction, TxIn, TxOut, Txid};
use btcr2_agent::beacon::history::{AddressHistory, AddressTx, Changes};
use btcr2_agent::protocol::chain_view::ChainView;
use btcr2_agent::protocol::funding::{Funding, FundingRules, FundingWatch};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

const MIN_START: Amount = Amount::from_sat(1_000);

/// Blocks that a server is asked about again.
const ANEW: usize = 6;

fn script() -> ScriptBuf {
    ScriptBuf::from_bytes([&[0x51, 0x20][..], &[7; 32]].concat())
}

/// A payment and this many signals, one in a block.
fn signals(rounds: u32) -> Vec<AddressTx> {
    let mut input = OutPoint::new(Txid::from_byte_array([1; 32]), 0);
    let tx = |height| {
        let change = TxOut {
            value: Amount::from_sat(100_000_000 - 200 * u64::from(height)),
            script_pubkey: script(),
        };
        let signal = TxOut {
            value: Amount::ZERO,
            script_pubkey: ScriptBuf::new_op_return([5; 32]),
        };
        let tx = Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![TxIn {
                previous_output: input,
                ..TxIn::default()
            }],
            output: vec![change, signal],
        };
        input = OutPoint::new(tx.compute_txid(), 0);
        AddressTx {
            tx: tx.into(),
            height: Some(height),
        }
    };
    (1..=rounds + 1).map(tx).collect()
}

fn look(c: &mut Criterion) {
    let mut group = c.benchmark_group("look_at_a_beacon");
    let rules = FundingRules {
        min_start: MIN_START,
        depth: 1,
        fee_rate: FeeRate::from_sat_per_vb_u32(2),
    };
    for rounds in [10, 1_000, 10_000] {
        let all = signals(rounds);
        let tip = rounds + 1;
        let mut history = AddressHistory::new(script(), tip - 1, all[..all.len() - 1].to_vec());
        history.settle(MIN_START);
        let view = ChainView::of(&history, MIN_START, Some(2));
        let mut payments = FundingWatch::default();
        payments.observe(&history, &Changes::All, rules);
        let newest = &all[all.len() - ANEW..];
        let above = tip - u32::try_from(ANEW).unwrap();
        // The former reading, as a server would answer if the last block were gone.
        let former = &newest[..ANEW - 1];
        group.bench_function(BenchmarkId::from_parameter(rounds), |b| {
            b.iter(|| {
                let mut touched = history.read_on(Some(above), tip, newest.to_vec());
                history.settle(MIN_START);
                let news = view.news(&history, &touched, MIN_START, Some(2)).unwrap();
                assert_eq!((news.signals.len(), news.spends.len()), (1, 1));
                assert!(payments.observe(&history, &touched, rules).is_empty());
                assert!(Funding::of(&history, rules, false).runway > 0);
                touched.extend(&history.read_on(Some(above), tip - 1, former.to_vec()));
                black_box(touched);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, look);
criterion_main!(benches);
