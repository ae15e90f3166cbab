//! The money gate (DESIGN §6, rule 11): every path that spends or asks for funds, with the kill switch pulled and with
//! caps; and what `tx decode` says.

use bitcoin::consensus::encode::serialize_hex;
use bitcoin::{Amount, Txid};
use btcr2_agent::agent::control::views as v;
use btcr2_agent::agent::control::{Backend as _, ErrorCode, Failure, request as r};
use btcr2_agent::agent::money::{STOP_FILE, StopFile};
use btcr2_agent::agent::singleton::Announce;
use btcr2_agent::agent::{AgentBackend, AgentError, What};
use btcr2_agent::chain::TxStatus;
use btcr2_agent::config::Config;
use btcr2_agent::demo::DemoError;
use btcr2_agent::demo::stage::Part;
use btcr2_agent::did::KeyAddress;
use btcr2_agent::hash::CohortId;
use btcr2_agent::network::Network;
use btcr2_agent::protocol::aggregator::AggregatorInput;
use btcr2_agent::protocol::effect::Report;
use btcr2_agent::protocol::message::RoundCause;
use btcr2_agent::protocol::money::MoneyRefused;
use btcr2_agent::protocol::terms::{CohortBeacon, Funding, Salt, Terms};
use btcr2_agent::store::{Role, SpendState, StoreError};
use btcr2_agent::time::UnixTime;

use super::company::Company;
use super::play::{POLL, Play};
use super::singly::address_of;

impl Play {
    fn operations(&self, actor: usize) -> AgentBackend {
        let actor = &self.stage.actors[actor];
        let config = Config {
            network: Network::Regtest,
            ..Config::default()
        };
        AgentBackend::new(actor.handle.clone(), actor.home.clone(), config)
    }

    /// Pulls the kill switch of an agent, by the file alone.
    fn pull(&self, actor: usize) {
        let home = &self.stage.actors[actor].home;
        let switch = StopFile::in_home(home);
        switch
            .pull(UnixTime(1_800_000_000), Some("a test"))
            .unwrap();
    }

    /// Takes the switch away by hand.
    fn let_go(&self, actor: usize) {
        let home = &self.stage.actors[actor].home;
        std::fs::remove_file(home.root().join(STOP_FILE)).unwrap();
    }

    async fn stopped(&mut self, mark: usize, actor: usize) {
        self.until("money is stopped", mark, |seen| {
            seen.iter()
                .any(|(by, event)| *by == actor && matches!(event.what, What::MoneyStopped { .. }))
        })
        .await;
    }

    /// What the gate says to something an agent is asked to do.
    async fn refusal<R: std::fmt::Debug + Send + 'static>(
        &self,
        actor: usize,
        job: impl FnOnce(&mut btcr2_agent::agent::Agent) -> Result<R, AgentError> + Send + 'static,
    ) -> MoneyRefused {
        match self.stage.ask(actor, job).await {
            Err(DemoError::Agent {
                error: AgentError::Money(refused),
                ..
            }) => refused,
            other => panic!("{other:?}"),
        }
    }
}

fn by_gate<T: std::fmt::Debug>(answer: Result<T, Failure>) -> String {
    let failure = answer.unwrap_err();
    assert_eq!(failure.code, ErrorCode::RefusedByMoneyGate, "{failure:?}");
    failure.message
}

fn cohort_ref(cohort: CohortId) -> r::CohortRef {
    cohort.to_string().parse().unwrap()
}

fn fund(cohort: CohortId, rounds: u32) -> r::Fund {
    r::Fund {
        cohort: cohort_ref(cohort),
        rounds: Some(rounds),
        fee_rate: None,
    }
}

fn terms(agent: &btcr2_agent::agent::Agent, salt: u8) -> Terms {
    Terms::with_defaults(
        agent.identity_key(),
        Network::Regtest,
        CohortBeacon::Smt,
        Salt::from_bytes([salt; 16]),
        agent.time().plus(3_600),
    )
}

/// Every path that asks somebody to pay, and every one that ends in spending, while an agent runs; then after its
/// restart; then without the switch.
#[tokio::test]
async fn the_kill_switch_stops_every_path_at_once_and_across_restarts() {
    let mut play = Play::open(3).await;
    let company = play.found(CohortBeacon::Smt, 0, &[1, 2]).await;
    let id = company.id;
    let did = play.key_did(1).await;
    play.pay(&address_of(&did, KeyAddress::P2tr), 20_000);
    play.update_singly(1, &did, "#s").await;
    let content = play
        .ask(0, move |agent| Ok(terms(agent, 9).canonical()))
        .await;
    // All of them work before.
    assert!(play.operations(0).cohort_fund(fund(id, 10)).await.is_ok());
    let singly = Announce::default();
    let quote = play.stage.actors[1]
        .handle
        .quote_announcement(&did, &singly);
    assert!(quote.await.unwrap().plan.is_ok());

    let mark = play.mark();
    for actor in [0, 1] {
        play.pull(actor);
    }
    for restarted in [false, true] {
        if restarted {
            for actor in [0, 1] {
                play.stage.stop(actor).await.unwrap();
            }
            play.resume(&[0, 1]).await;
        }
        let stopped = MoneyRefused::Stopped;
        // Advertising, and with it everything a cohort asks for.
        let refused = play.refusal(0, |agent| agent.create_cohort(terms(agent, 1), Vec::new()));
        assert_eq!(refused.await, stopped);
        // Joining: by hand, by policy and by invitation alike.
        let copy = content.clone();
        let refused = play.refusal(1, move |agent| agent.join_cohort(&copy, &[], false, None));
        assert_eq!(refused.await, stopped);
        // Where to pay to a beacon.
        assert_eq!(
            play.refusal(0, move |agent| agent.funding(id)).await,
            stopped
        );
        for actor in [0, 1] {
            by_gate(play.operations(actor).cohort_fund(fund(id, 10)).await);
        }
        // A DID whose addresses are to be paid to.
        let create = r::CreateDid {
            network: Some(Network::Regtest),
            ..r::CreateDid::default()
        };
        by_gate(play.operations(1).did_create(create).await);
        // What an announcement costs, which is shown to have it paid; signing and sending it.
        let handle = play.stage.actors[1].handle.clone();
        let quote = handle.quote_announcement(&did, &Announce::default()).await;
        assert!(
            matches!(quote, Err(AgentError::Money(MoneyRefused::Stopped))),
            "{quote:?}"
        );
        let announced = handle.announce_did(&did, &Announce::default()).await;
        assert!(
            matches!(announced, Err(AgentError::Money(MoneyRefused::Stopped))),
            "{announced:?}"
        );
        let spends = play.file(1).view().spends_of(did.as_str(), 2).unwrap();
        assert!(spends.is_empty(), "nothing was signed");
        // Binding a DID to a beacon.
        let bind = r::BindDid {
            did: did.to_string().parse().unwrap(),
            cohort: cohort_ref(id),
            service: None,
            fee_rate: None,
            dry_run: false,
        };
        by_gate(play.operations(1).did_bind(bind).await);
        // Opening a round, which collects signatures.
        let opened = play
            .stage
            .ask(0, move |agent| {
                agent.command_aggregator(id, AggregatorInput::OpenRound)
            })
            .await;
        assert!(opened.unwrap_err().to_string().contains("money is stopped"));
        let shown = play.operations(0).money_status(r::NoArgs {}).await.unwrap();
        let why = shown.stopped.unwrap();
        assert_eq!((why.at, why.file), (Some(UnixTime(1_800_000_000)), true));
        assert_eq!(why.reason.unwrap().as_str(), "a test");
    }
    for actor in [0, 1] {
        play.stopped(mark, actor).await;
    }

    // Without the file a running agent stays stopped; a new start is not.
    play.let_go(0);
    assert_eq!(
        play.refusal(0, move |agent| agent.funding(id)).await,
        MoneyRefused::Stopped
    );
    let shown = play.operations(0).money_status(r::NoArgs {}).await.unwrap();
    assert!(!shown.stopped.unwrap().file);
    play.stage.stop(0).await.unwrap();
    play.resume(&[0]).await;
    play.ask(0, move |agent| agent.funding(id)).await;
    let shown = play.operations(0).money_status(r::NoArgs {}).await.unwrap();
    assert_eq!(shown.stopped, None);
    play.close().await;
}

/// The socket has an operation that stops, which writes the file; it has none that starts.
#[tokio::test]
async fn money_is_stopped_through_the_socket_and_not_started_by_it() {
    let mut play = Play::open(1).await;
    let mark = play.mark();
    let stop = r::StopMoney {
        reason: Some("stolen laptop".parse().unwrap()),
    };
    let view = play.operations(0).money_stop(stop).await.unwrap();
    assert_eq!(
        view.stopped.unwrap().reason.unwrap().as_str(),
        "stolen laptop"
    );
    play.stopped(mark, 0).await;
    let told = play.seen.iter().any(|(_, event)| {
        matches!(&event.what, What::MoneyStopped { reason: Some(why) } if why == "stolen laptop")
    });
    assert!(told);
    assert!(play.stage.actors[0].home.root().join(STOP_FILE).is_file());
    // Stopping again changes nothing.
    let again = play
        .operations(0)
        .money_stop(r::StopMoney::default())
        .await
        .unwrap();
    assert_eq!(
        again.stopped.unwrap().reason.unwrap().as_str(),
        "stolen laptop"
    );
    play.close().await;
}

/// What was sent once and is forgotten by nodes is not sent again.
#[tokio::test]
async fn nothing_is_sent_again_while_money_is_stopped() {
    let mut play = Play::open(1).await;
    let did = play.key_did(0).await;
    play.pay(&address_of(&did, KeyAddress::P2tr), 20_000);
    play.update_singly(0, &did, "#s").await;
    let mark = play.mark();
    let sent = play
        .announce_singly(0, &did, &Announce::default())
        .await
        .unwrap();
    let txid = sent.spend.row.txid;
    play.stands(0, mark, txid, SpendState::Broadcast).await;
    play.pull(0);
    let chain = play.stage.chain.in_process().unwrap();
    let mark = play.mark();
    assert!(chain.lock().unwrap().evict(&txid));
    play.stands(0, mark, txid, SpendState::Signed).await;
    for _ in 0..3 {
        let height = play.stage.mine(1).unwrap();
        play.sees(0, height).await;
        assert_eq!(play.tx_status(&txid), TxStatus::NotFound);
    }
    play.let_go(0);
    let mark = play.mark();
    play.stage.stop(0).await.unwrap();
    play.resume(&[0]).await;
    play.stands(0, mark, txid, SpendState::Broadcast).await;
    assert!(play.in_mempool(&txid));
    play.close().await;
}

impl Play {
    /// Waits until an agent has seen a block.
    async fn sees(&self, actor: usize, height: u32) {
        let backend = self.operations(actor);
        loop {
            let status = backend.status(r::NoArgs {}).await.unwrap();
            let seen = status
                .chains
                .iter()
                .any(|chain| chain.network == Network::Regtest && chain.height >= Some(height));
            if seen {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Whether a member signed a signal. Refunds of what was paid are signed before that.
    fn signed_a_signal(&self, actor: usize, id: CohortId) -> bool {
        let mut found = false;
        let store = self.file(actor);
        store
            .view()
            .replay::<StoreError>(id, Role::Participant, |entry| {
                found |= entry.kind == "signed" && entry.input.contains("\"signal/1\"");
                Ok(())
            })
            .unwrap();
        found
    }
}

/// A member whose money is stopped gives no partial signature; started again without the switch it does.
#[tokio::test]
async fn a_stopped_member_signs_nothing() {
    let mut play = Play::open(3).await;
    let mut company = play.found(CohortBeacon::Smt, 0, &[1, 2]).await;
    let id = company.id;
    let dids = play.create_dids(&mut company, &[1, 2]).await;
    let mark = play.mark();
    let updates = play.queue(&company, &dids).await;
    play.pull(1);
    let round = play.open_round(&mut company).await;
    let one = |report: &Report| matches!(report, Report::PartialReceived { partials: 1, .. });
    play.reported(
        "the other's signature",
        mark,
        id,
        Role::Aggregator,
        &[0],
        one,
    )
    .await;
    // The signal is fixed in the step that orders the signature; the answer to the order follows it at once.
    play.reported("the signal", mark, id, Role::Participant, &[1], |report| {
        matches!(report, Report::SignalFixed { .. })
    })
    .await;
    play.ask(1, |_| Ok(())).await;
    assert!(!play.signed_a_signal(1, id));
    assert!(play.signed_a_signal(2, id));

    play.let_go(1);
    play.stage.stop(1).await.unwrap();
    play.resume(&[1]).await;
    play.finish_round(&mut company, round, mark, updates).await;
    assert!(play.signed_a_signal(1, id));
    play.close().await;
}

/// An aggregator whose money is stopped ends its open round: nobody adds up what members have signed.
#[tokio::test]
async fn a_stopped_aggregator_ends_its_round_and_goes_on_after_a_new_start() {
    let mut play = Play::open(3).await;
    let mut company = play.found(CohortBeacon::Cas, 0, &[1, 2]).await;
    let id = company.id;
    let dids = play.create_dids(&mut company, &[1, 2]).await;
    play.expects_trouble = true;
    let updates = play.queue(&company, &dids).await;
    play.stage.kill(2).await.unwrap();
    let mark = play.mark();
    play.open_round(&mut company).await;
    play.responses(&company, mark, 1).await;
    play.pull(0);
    let failed = |report: &Report| {
        matches!(
            report,
            Report::RoundFailed {
                why: RoundCause::Operator,
                ..
            }
        )
    };
    play.reported("the end", mark, id, Role::Aggregator, &[0], failed)
        .await;
    play.reported("the end", mark, id, Role::Participant, &[1], failed)
        .await;

    play.let_go(0);
    play.stage.stop(0).await.unwrap();
    play.resume(&[0, 2]).await;
    let mark = play.mark();
    let round = play.open_round(&mut company).await;
    play.finish_round(&mut company, round, mark, updates).await;
    play.close().await;
}

/// A part whose caps are these, in sat.
fn capped(max_fee: u64, max_funding: u64, max_balance: u64) -> Part {
    let mut part = Part::new(POLL);
    part.money.rules.max_fee = Amount::from_sat(max_fee);
    part.money.rules.max_funding = Amount::from_sat(max_funding);
    part.money.rules.max_balance = Amount::from_sat(max_balance);
    part
}

#[tokio::test]
async fn caps_hold_for_what_is_asked_for_and_for_what_is_paid() {
    let parts = [
        capped(20_000, 9_000, 105_000),
        capped(100, 9_000, 105_000),
        Part::new(POLL),
    ];
    let mut play = Play::with_parts(&parts).await;
    let company = play.found(CohortBeacon::Smt, 0, &[1, 2]).await;
    let backend = play.operations(0);
    // It holds 100 000 sat, which pay for 324 rounds.
    let view = backend.cohort_fund(fund(company.id, 324)).await.unwrap();
    assert_eq!((view.state, view.send_sat), (v::FundState::Confirmed, 0));
    assert_eq!((view.runway, view.payer), (324, v::Payer::Aggregator));
    let view = backend.cohort_fund(fund(company.id, 330)).await.unwrap();
    assert!((1..=5_000).contains(&view.send_sat), "{}", view.send_sat);
    let refused = by_gate(backend.cohort_fund(fund(company.id, 345)).await);
    assert!(refused.contains("money.max_balance_sat"), "{refused}");
    let refused = by_gate(backend.cohort_fund(fund(company.id, 400)).await);
    assert!(refused.contains("money.max_funding_sat"), "{refused}");
    // Terms under which a signal could cost more are not offered.
    let refused = play.refusal(0, |agent| {
        let mut terms = terms(agent, 3);
        terms.max_fee_rate = 90;
        agent.create_cohort(terms, Vec::new())
    });
    assert!(matches!(refused.await, MoneyRefused::Fee { .. }));
    // Nor is a signal of one's own signed.
    let did = play.key_did(1).await;
    play.pay(&address_of(&did, KeyAddress::P2tr), 20_000);
    play.update_singly(1, &did, "#s").await;
    let announced = play.announce_singly(1, &did, &Announce::default()).await;
    assert!(
        matches!(announced, Err(AgentError::Money(MoneyRefused::Fee { .. }))),
        "{announced:?}"
    );
    play.close().await;
}

/// Who pays is a term: members see their share, the aggregator that others pay, and the other way round.
#[tokio::test]
async fn shares_are_asked_of_members_where_the_terms_say_so() {
    let mut play = Play::open(4).await;
    let company = play.found(CohortBeacon::Smt, 0, &[1, 2, 3]).await;
    let view = play
        .operations(1)
        .cohort_fund(fund(company.id, 400))
        .await
        .unwrap();
    assert_eq!(
        (view.payer, view.share_sat, view.send_sat),
        (v::Payer::Aggregator, None, 0)
    );
    assert!(
        view.warnings
            .iter()
            .any(|note| note.contains("the aggregator pays"))
    );
    assert!(!view.uri.contains("amount"), "{}", view.uri);
    play.close().await;

    let mut play = Play::open(4).await;
    play.shared_by_members(&[1, 2, 3]).await;
    play.close().await;
}

impl Play {
    async fn shared_by_members(&mut self, members: &[usize]) {
        let shared = self
            .ask(0, |agent| {
                let mut terms = terms(agent, 5);
                terms.seats_min = 3;
                terms.seats_max = 3;
                terms.funding = Funding::Members;
                Ok(terms)
            })
            .await;
        let content = shared.canonical();
        let id = self
            .ask(0, move |agent| agent.create_cohort(shared, Vec::new()))
            .await;
        // Before the set is frozen nobody is asked.
        let early = self
            .operations(0)
            .cohort_fund(fund(id, 10))
            .await
            .unwrap_err();
        assert_eq!(early.code, ErrorCode::WrongPhase, "{early:?}");
        let mark = self.mark();
        for member in members {
            let content = content.clone();
            let mut payee = vec![0x51, 0x20];
            payee.extend([u8::try_from(*member).unwrap(); 32]);
            let payee = bitcoin::ScriptBuf::from_bytes(payee);
            self.ask(*member, move |agent| {
                agent.join_cohort(&content, &[], false, Some(payee))
            })
            .await;
        }
        self.reported(
            "a frozen set",
            mark,
            id,
            Role::Participant,
            members,
            |report| matches!(report, Report::Frozen { .. }),
        )
        .await;
        let view = self.operations(0).cohort_fund(fund(id, 100)).await.unwrap();
        assert_eq!((view.payer, view.send_sat), (v::Payer::Members, 0));
        let share = view.share_sat.unwrap();
        let mut last = None;
        for (paid, member) in members.iter().enumerate() {
            let view = self
                .operations(*member)
                .cohort_fund(fund(id, 100))
                .await
                .unwrap();
            assert_eq!(view.share_sat, Some(share));
            // What is missing in the end may be a satoshi less: shares are rounded up.
            assert!(
                (share - 3..=share).contains(&view.send_sat),
                "after {paid} shares"
            );
            assert!(view.uri.contains("amount=0.000"), "{}", view.uri);
            let address: bitcoin::Address<_> = view.address.parse().unwrap();
            self.pay(&address.assume_checked(), view.send_sat);
            last = Some(view.address);
        }
        assert!(last.is_some());
        let view = self.operations(1).cohort_fund(fund(id, 100)).await.unwrap();
        assert_eq!((view.state, view.send_sat), (v::FundState::Confirmed, 0));
        assert!(view.runway >= 100, "{}", view.runway);
        let payments = |seen: &[(usize, btcr2_agent::agent::AgentEvent)]| {
            let mut confirmed = seen.iter().filter(|(by, event)| {
                *by == 0
                    && matches!(&event.what, What::Payment(moved) if moved.value.to_sat() == share)
            });
            confirmed.next().is_some()
        };
        self.until("a payment", mark, payments).await;
    }
}

/// A signal, explained by its id and by its bytes, on both sides and for both beacon types.
#[tokio::test]
async fn transactions_are_explained() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let mut play = Play::open(3).await;
        let mut company = play.found(beacon, 0, &[1, 2]).await;
        let dids = play.create_dids(&mut company, &[1, 2]).await;
        play.round(&mut company, &dids[..1]).await;
        let signal = &company.signals[0];
        for actor in [0, 1] {
            let seen = play.decode(actor, &signal.txid.to_string()).await.unwrap();
            assert_eq!(
                seen,
                play.decode(actor, &serialize_hex(&signal.tx))
                    .await
                    .unwrap()
            );
            assert_eq!((seen.kind, seen.txid), (v::TxKind::Signal, signal.txid));
            assert_eq!(
                (seen.cohort, seen.round),
                (Some(company.id), Some(signal.round))
            );
            assert_eq!(seen.signal, Some(signal.signal));
            assert_eq!(seen.network, Some(Network::Regtest));
            // 154 vB at 2 sat/vB.
            assert_eq!(
                (seen.fee_sat, seen.vsize, seen.signed),
                (Some(308), 154, true)
            );
            assert_eq!(seen.fee_rate, Some(v::FeeRate(2_000)));
            assert_eq!(seen.height, Some(signal.height));
            assert!(seen.confirmations >= Some(1));
            assert_eq!(seen.inputs[0].value_sat, Some(100_000));
            assert_eq!(seen.outputs[0].to, company.address.to_string());
            assert_eq!(seen.outputs[0].what, "back to the beacon");
            assert_eq!(seen.outputs[1].what, "the signal: 32 bytes");
            assert_eq!(seen.warnings, Vec::<String>::new());
        }
        // The member knows what its DID announced.
        let seen = play.decode(1, &signal.txid.to_string()).await.unwrap();
        let (did, update) = signal.updates.first_key_value().unwrap();
        assert!(
            seen.commits_to.contains(&v::CommitmentView {
                did: did.clone(),
                update: Some(update.to_string()),
                says: "update".to_owned(),
            }),
            "{:?}",
            seen.commits_to
        );
        // Unsigned it is the same signal, with the size it will have.
        let mut unsigned = signal.tx.clone();
        unsigned.input[0].witness = bitcoin::Witness::new();
        let seen = play.decode(2, &serialize_hex(&unsigned)).await.unwrap();
        assert_eq!(
            (seen.kind, seen.vsize, seen.signed),
            (v::TxKind::Signal, 154, false)
        );

        play.explains_others(&company).await;
        play.close().await;
    }
}

impl Play {
    async fn decode(&self, actor: usize, tx: &str) -> Result<v::TxView, Failure> {
        let tx = tx.parse().unwrap();
        self.operations(actor).tx_decode(r::DecodeTx { tx }).await
    }

    /// What funded the beacon, what nobody signed, and what is none of this agent's.
    async fn explains_others(&self, company: &Company) {
        let signal = &company.signals[0];
        let funding = signal.tx.input[0].previous_output.txid;
        let seen = self.decode(0, &funding.to_string()).await.unwrap();
        assert_eq!(
            (seen.kind, seen.cohort),
            (v::TxKind::Funding, Some(company.id))
        );

        let mut foreign = signal.tx.clone();
        foreign.output.truncate(1);
        let seen = self.decode(1, &serialize_hex(&foreign)).await.unwrap();
        assert_eq!(seen.kind, v::TxKind::UnknownSpend);
        assert!(seen.warnings[0].contains("the key of the cohort may be known"));

        let mut other = signal.tx.clone();
        other.output[1].script_pubkey = bitcoin::ScriptBuf::new_op_return([1; 32]);
        let seen = self.decode(1, &serialize_hex(&other)).await.unwrap();
        assert_eq!((seen.kind, seen.round), (v::TxKind::Signal, None));
        assert!(seen.warnings[0].contains("no round"), "{:?}", seen.warnings);

        let mut elsewhere = signal.tx.clone();
        elsewhere.input[0].previous_output.vout = 77;
        elsewhere.output.remove(0);
        let seen = self.decode(1, &serialize_hex(&elsewhere)).await.unwrap();
        assert_eq!((seen.kind, seen.fee_sat), (v::TxKind::ForeignSignal, None));

        let unknown = Txid::from_raw_hash(bitcoin::hashes::Hash::from_byte_array([3; 32]));
        let failure = self.decode(1, &unknown.to_string()).await.unwrap_err();
        assert_eq!(failure.code, ErrorCode::NotFound);
        let failure = self.decode(1, &"00".repeat(70)).await.unwrap_err();
        assert_eq!(failure.code, ErrorCode::InvalidValue);
    }
}
