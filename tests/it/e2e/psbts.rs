//! `tx decode`, `psbt inspect` and `cohort bump` on running agents: rungs, refunds, fallbacks and what nobody made are
//! told apart, by the aggregator and by members.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::psbt::Psbt;
use bitcoin::{Amount, Transaction, TxOut, Txid, Witness};
use btcr2_agent::agent::AgentBackend;
use btcr2_agent::agent::control::views as v;
use btcr2_agent::agent::control::{Backend as _, ErrorCode, Failure, request as r};
use btcr2_agent::beacon::address::beacon_script;
use btcr2_agent::beacon::psbt::Packet;
use btcr2_agent::cli::render::{Page, Render};
use btcr2_agent::config::Config;
use btcr2_agent::keys::OwnKey;
use btcr2_agent::keys::musig::KeySet;
use btcr2_agent::network::Network;
use btcr2_agent::protocol::effect::Report;
use btcr2_agent::protocol::export::Unsigned;
use btcr2_agent::protocol::terms::CohortBeacon;
use btcr2_agent::protocol::{Label, Round};
use btcr2_agent::store::Role;
use btcr2_agent::time::UnixTime;

use super::company::Company;
use super::fallback::a_stalled_round;
use super::play::Play;

impl Play {
    fn served_by(&self, actor: usize) -> AgentBackend {
        let actor = &self.stage.actors[actor];
        let config = Config {
            network: Network::Regtest,
            ..Config::default()
        };
        AgentBackend::new(actor.handle.clone(), actor.home.clone(), config)
    }

    async fn explained(&self, actor: usize, tx: &str) -> v::TxView {
        let tx = tx.parse().unwrap();
        self.served_by(actor)
            .tx_decode(r::DecodeTx { tx })
            .await
            .unwrap()
    }

    async fn inspected(&self, actor: usize, psbt: &[u8]) -> Result<v::PsbtInspectView, Failure> {
        let psbt = STANDARD.encode(psbt);
        self.served_by(actor)
            .psbt_inspect(r::InspectPsbt { psbt })
            .await
    }

    async fn shown(&self, actor: usize, company: &Company) -> v::CohortView {
        let show = r::ShowCohort {
            cohort: company.id.to_string().parse().unwrap(),
            rounds: None,
        };
        self.served_by(actor).cohort_show(show).await.unwrap()
    }

    async fn ask_to_bump(&self, actor: usize, company: &Company) -> Result<v::CohortView, Failure> {
        let cohort = company.id.to_string().parse().unwrap();
        self.served_by(actor)
            .cohort_bump(r::OneCohort { cohort })
            .await
    }

    /// The refunds an agent holds of what lies at the beacon.
    async fn refunds(&self, actor: usize, company: &Company) -> Vec<Transaction> {
        let recover = r::Recover {
            cohort: company.id.to_string().parse().unwrap(),
            look: true,
        };
        let view = self.served_by(actor).cohort_recover(recover).await.unwrap();
        let refunds = view.refunds.iter();
        refunds
            .map(|refund| deserialize_hex(&refund.tx).unwrap())
            .collect()
    }

    /// Rungs of the last round, lowest fee first.
    async fn rungs(&self, company: &Company) -> Vec<Txid> {
        let view = self.shown(0, company).await;
        let round = view.round.or_else(|| view.past_rounds.first().cloned());
        let signed = round.unwrap().signed;
        signed.iter().map(|signed| signed.txid).collect()
    }

    async fn keys(&self, company: &Company) -> KeySet {
        let members = self.shown(0, company).await.members;
        let keys: Vec<_> = members.iter().map(|member| member.key).collect();
        KeySet::new(&keys).unwrap()
    }
}

fn text(view: &impl Render) -> String {
    let mut page = Page::new(UnixTime(1_800_000_000));
    view.render(&mut page);
    page.as_str().to_owned()
}

/// A transaction of a cohort as a PSBT, whether somebody signed it or not.
fn psbt_of(tx: &Transaction, spent: u64, keys: &KeySet) -> Psbt {
    let mut tx = tx.clone();
    for input in &mut tx.input {
        input.witness = Witness::new();
    }
    let unsigned = Unsigned {
        label: Label::SIGNAL,
        prevouts: vec![TxOut {
            value: Amount::from_sat(spent),
            script_pubkey: beacon_script(keys.output_key()),
        }],
        tx,
        shares: Vec::new(),
    };
    unsigned.to_psbt(keys).unwrap()
}

/// Three transactions announce the same; each is the rung it is, to everybody who signed it. A member that made none of
/// it knows as much as the aggregator.
#[tokio::test]
async fn the_rungs_of_a_round_are_told_apart() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let mut play = Play::open(3).await;
        let mut company = play.found(beacon, 0, &[1, 2]).await;
        let dids = play.create_dids(&mut company, &[1, 2]).await;
        let mark = play.mark();
        let updates = play.queue(&company, &dids[..1]).await;
        let round = play.open_round(&mut company).await;
        play.broadcast(&company, round, mark).await;
        let rungs = play.rungs(&company).await;
        assert_eq!(rungs.len(), 3);
        let keys = play.keys(&company).await;
        for actor in [0, 1, 2] {
            for (rung, (txid, fee)) in (1..).zip(rungs.iter().zip([308, 924, 3_080])) {
                let seen = play.explained(actor, &txid.to_string()).await;
                let what = (seen.kind, seen.txid, seen.round, seen.rung);
                assert_eq!(what, (v::TxKind::Signal, *txid, Some(round), Some(rung)));
                // 154 vB at 2 sat/vB, and its multiples.
                assert_eq!(
                    (seen.fee_sat, seen.vsize, seen.weight),
                    (Some(fee), 154, 616)
                );
                assert!(seen.text.contains(&format!("round {round}, rung {rung}")));
                assert!(!seen.commits_to.is_empty() || actor == 2, "{}", seen.text);
            }
        }
        play.inspects(&company, &rungs, &keys).await;
        play.finish_round(&mut company, round, mark, updates).await;
        // The change that was confirmed has its refund, with the aggregator that funds.
        let [refund] = play.refunds(0, &company).await.try_into().unwrap();
        for actor in [0, 1] {
            let seen = play.explained(actor, &serialize_hex(&refund)).await;
            let what = (seen.kind, seen.cohort, seen.round, seen.rung, seen.signal);
            let expected = (
                v::TxKind::Refund,
                Some(company.id),
                Some(round),
                Some(1),
                None,
            );
            assert_eq!(what, expected, "{}", seen.text);
            assert_eq!(seen.lock_blocks, Some(1_008));
            assert!(
                seen.text
                    .contains("a refund of the change of the signal of round 1, rung 1")
            );
            assert!(seen.fee_sat.is_some());
        }
        play.close().await;
    }
}

impl Play {
    /// PSBTs of what was signed, of what was not, and such that lie.
    async fn inspects(&self, company: &Company, rungs: &[Txid], keys: &KeySet) {
        // The lowest rung was sent: the chain has it whole.
        let signal = self.stage.chain.transaction(&rungs[0]).unwrap().unwrap();
        let psbt = psbt_of(&signal, 100_000, keys);
        let two = Packet::to_version_2(&psbt.serialize()).unwrap();
        for (actor, signed_here) in [(0, false), (1, true)] {
            for (version, bytes) in [(0, psbt.serialize()), (2, two.clone())] {
                let view = play_view(self.inspected(actor, &bytes).await, version);
                let known = view.known.clone().unwrap();
                assert_eq!((known.cohort, known.identical), (company.id, true));
                assert_eq!((known.rung, known.round), (Some(1), Some(Round(1))));
                assert_eq!(known.signed_here, signed_here);
                assert_eq!((view.tx.rung, view.tx.fee_sat), (Some(1), Some(308)));
                assert_eq!((view.tx.signed, view.tx.kind), (false, v::TxKind::Signal));
                let input = &view.inputs[0];
                assert_eq!((input.keys, input.participants), (v::PsbtKeys::Cohort, 2));
                assert_eq!(input.signing, v::PsbtSigning::Open);
                let by = if signed_here {
                    "signed here"
                } else {
                    "made here"
                };
                let words = format!(
                    "yes: the signal of round 1, rung 1, of cohort {}; identical to the one {by}",
                    company.id.short()
                );
                assert!(text(&view).contains(&words), "{}", text(&view));
            }
        }
        // With the signature of all.
        let mut done = psbt.clone();
        done.inputs[0].final_script_witness = Some(signal.input[0].witness.clone());
        let view = self.inspected(1, &done.serialize()).await.unwrap();
        assert_eq!((view.problems.len(), view.tx.signed), (0, true));
        assert_eq!(view.inputs[0].signing, v::PsbtSigning::KeyPath);

        // The same signature under another transaction.
        let mut other = done.clone();
        other.unsigned_tx.output[0].value -= Amount::ONE_SAT;
        let view = self.inspected(1, &other.serialize()).await.unwrap();
        assert!(
            view.problems[0].contains("does not verify"),
            "{:?}",
            view.problems
        );
        assert!(!view.known.unwrap().identical);
        // Nobody signed it: nothing is wrong with it, and it is not the one.
        let mut open = psbt.clone();
        open.unsigned_tx.output[0].value -= Amount::ONE_SAT;
        let view = self.inspected(0, &open.serialize()).await.unwrap();
        assert_eq!(view.problems, Vec::<String>::new());
        let known = view.known.clone().unwrap();
        assert_eq!((known.identical, known.rung), (false, None));
        assert!(text(&view).contains("NO: it spends from the beacon of cohort"));
        assert!(text(&view).contains("none of the transactions made or signed here"));

        // A value, a script, and keys that are not so.
        let mut dear = psbt.clone();
        dear.inputs[0].witness_utxo.as_mut().unwrap().value = Amount::from_sat(99_999);
        let view = self.inspected(0, &dear.serialize()).await.unwrap();
        assert!(
            view.problems[0].contains("holds 0.00099999 BTC"),
            "{:?}",
            view.problems
        );
        let strangers = [7_u8, 8].map(|n| OwnKey::from_bytes(&[n; 32]).unwrap().public());
        let strange = psbt_of(&signal, 100_000, &KeySet::new(&strangers).unwrap());
        let view = self.inspected(0, &strange.serialize()).await.unwrap();
        assert!(
            view.problems[0].contains("another address"),
            "{:?}",
            view.problems
        );
        let mut mixed = strange;
        mixed.inputs[0].witness_utxo = psbt.inputs[0].witness_utxo.clone();
        let view = self.inspected(0, &mixed.serialize()).await.unwrap();
        assert!(
            view.problems[0].contains("which is not the one it spends"),
            "{:?}",
            view.problems
        );
        assert_eq!(view.inputs[0].keys, v::PsbtKeys::Wrong);

        let failure = self.inspected(0, b"psbt\xff\x01").await.unwrap_err();
        assert_eq!(failure.code, ErrorCode::InvalidValue);
        assert_eq!(failure.message, "it is cut off in the global map");
    }
}

fn play_view(view: Result<v::PsbtInspectView, Failure>, version: u8) -> v::PsbtInspectView {
    let view = view.unwrap();
    assert_eq!(view.version, version);
    assert_eq!(view.problems, Vec::<String>::new());
    view
}

/// What was paid in has a refund of its own: of no round, before the first one and after it; messages of its session are
/// shown as such.
#[tokio::test]
async fn refunds_of_deposits_are_of_no_round() {
    let mut play = Play::open(3).await;
    let mark = play.mark();
    let mut company = play.found(CohortBeacon::Cas, 0, &[1, 2]).await;
    let complete = |report: &Report| matches!(report, Report::RefundComplete { .. });
    play.reported(
        "a refund",
        mark,
        company.id,
        Role::Aggregator,
        &[0],
        complete,
    )
    .await;
    let dids = play.create_dids(&mut company, &[1, 2]).await;
    let [refund] = play.refunds(0, &company).await.try_into().unwrap();
    for actor in [0, 1] {
        let seen = play.explained(actor, &serialize_hex(&refund)).await;
        assert_eq!(
            (seen.kind, seen.round, seen.rung),
            (v::TxKind::Refund, None, None)
        );
        assert!(
            seen.text
                .contains("a refund of what was paid to the beacon")
        );
    }
    let about = |view: v::CohortView| {
        let messages = view.delivery.into_iter();
        let mut about = BTreeMap::new();
        for message in messages {
            about.insert(message.message, (message.round, message.deposit));
        }
        about
    };
    let shown = about(play.shown(0, &company).await);
    assert_eq!(shown["refund_open"], (None, Some(1)));
    assert_eq!(shown["refund_request"], (None, Some(1)));
    assert_eq!(shown["cohort_set"], (None, None));

    let mark = play.mark();
    play.round(&mut company, &dids).await;
    let paid = Amount::from_sat(50_000);
    play.stage.fund(&company.address, paid).unwrap();
    let complete = |report: &Report| {
        matches!(
            report,
            Report::RefundComplete {
                value_sat: 50_000,
                ..
            }
        )
    };
    play.reported(
        "a refund",
        mark,
        company.id,
        Role::Aggregator,
        &[0],
        complete,
    )
    .await;
    let view = play.shown(0, &company).await;
    let page = text(&view);
    let shown = about(view);
    assert_eq!(shown["refund_open"], (None, Some(2)));
    assert_eq!(shown["round_open"], (Some(Round(1)), None));
    assert!(
        page.contains("  refund_open     refund of deposit 2  all members"),
        "{page}"
    );
    let shown = about(play.shown(1, &company).await);
    assert_eq!(shown["refund_partial"], (None, Some(2)));
    assert_eq!(shown["partial_signature"], (Some(Round(1)), None));
    play.close().await;
}

#[tokio::test]
async fn a_signal_through_the_leaf_is_explained_and_verified() {
    let mut play = Play::open(4).await;
    let company = a_stalled_round(&mut play, CohortBeacon::Smt, 3, 2).await;
    let fallback = &company.signals[1];
    for actor in [0, 1, 3] {
        let seen = play.explained(actor, &serialize_hex(&fallback.tx)).await;
        let what = (seen.kind, seen.cohort, seen.round, seen.rung);
        let expected = (
            v::TxKind::FallbackSignal,
            Some(company.id),
            Some(fallback.round),
            None,
        );
        assert_eq!(what, expected);
        assert_eq!(seen.signal, Some(fallback.signal));
        assert!(
            seen.text
                .contains("signed by some of its members through the fallback leaf")
        );
        assert_eq!(seen.weight, fallback.tx.weight().to_wu());
    }
    play.close().await;
}

/// `cohort bump`: done, nothing to bump, and not by a member.
#[tokio::test]
async fn a_bump_is_done_or_says_why_not() {
    let mut play = Play::open(3).await;
    let mut company = play.found(CohortBeacon::Smt, 0, &[1, 2]).await;
    let dids = play.create_dids(&mut company, &[1]).await;
    let early = play.ask_to_bump(0, &company).await.unwrap_err();
    assert_eq!(early.code, ErrorCode::WrongPhase);
    assert_eq!(
        early.message,
        "nothing to replace: no signal waits for a confirmation"
    );
    assert!(early.remedy.unwrap().contains("cohort show"));
    let member = play.ask_to_bump(1, &company).await.unwrap_err();
    assert_eq!(member.code, ErrorCode::WrongRole);
    assert!(
        member.message.starts_with("only the aggregator of"),
        "{member:?}"
    );

    let mark = play.mark();
    play.queue(&company, &dids).await;
    let round = play.open_round(&mut company).await;
    play.broadcast(&company, round, mark).await;
    let rungs = play.rungs(&company).await;
    for (rung, fee, words) in [(1, 924, "924 sat"), (2, 3_080, "3,080 sat")] {
        let mark = play.mark();
        let view = play.ask_to_bump(0, &company).await.unwrap();
        assert_eq!(view.past_rounds[0].fee_sat, Some(fee));
        assert!(text(&view).contains(words), "{}", text(&view));
        // The chain took it in the place of the one before.
        let next = rungs[rung];
        let taken = move |report: &Report| matches!(report, Report::SignalBroadcast { txid, .. } if *txid == next);
        play.reported("a bump", mark, company.id, Role::Aggregator, &[0], taken)
            .await;
        assert!(play.stage.chain.transaction(&next).unwrap().is_some());
    }
    assert_eq!(play.explained(0, &rungs[1].to_string()).await.rung, Some(2));
    play.close().await;
}
