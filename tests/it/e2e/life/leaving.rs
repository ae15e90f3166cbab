//! Leaving a cohort: the beacon leaves the documents first, and what explains its signals stays.

use btcr2_agent::agent::leaving::ExitStep;
use btcr2_agent::protocol::participant::ParticipantInput;

use super::*;

impl Play {
    async fn steps(&self, actor: usize, company: &Company) -> Vec<ExitStep> {
        let id = company.id;
        let plan = self.ask(actor, move |agent| agent.exit_plan(id)).await;
        assert_eq!(
            (plan.ends_for_all, plan.members),
            (true, company.members.len())
        );
        plan.dids.into_iter().map(|exiting| exiting.step).collect()
    }
}

/// A removed beacon announces nothing for the DID any more; its later signals still have to be explained, and are.
#[tokio::test]
async fn a_beacon_is_removed_and_its_signals_stay_explained() {
    for beacon in BEACONS {
        let mut play = Play::open(3).await;
        let mut company = play.found(beacon, 0, &[1, 2]).await;
        play.create_dids(&mut company, &[1, 2]).await;
        let did = company.dids[0].did.clone();
        let route = btcr2_agent::agent::dids::Route::Cohort(company.id);
        assert_eq!(play.steps(1, &company).await, [ExitStep::Remove(route)]);

        let handle = play.stage.actors[1].handle.clone();
        let (plan, failed) = handle.remove_beacons(company.id).await.unwrap();
        assert_eq!(failed, [""; 0]);
        let ExitStep::Removing(told) = &plan.dids[0].step else {
            panic!("{plan:?}")
        };
        assert!(told.contains("version 2 is queued"), "{told}");
        play.announce_round(&mut company, FINAL_DEPTH).await;
        play.settled(1, &did, 2, update_state::FINAL).await;
        assert_eq!(play.steps(1, &company).await, [ExitStep::Former]);
        let document = play.resolves(1, &did, 2).await;
        assert!(
            document
                .beacons()
                .iter()
                .all(|beacon| beacon.address != company.address)
        );
        let binding = &play.file(1).view().bindings_of(did.smt_index()).unwrap()[0];
        assert_eq!(binding.state, "former");
        play.refused(
            1,
            &did,
            service("a"),
            in_round(&company),
            "does not list the beacon",
        )
        .await;

        // Another member goes on announcing: the DID that left still resolves.
        let other = company.dids[1].did.clone();
        play.updated(2, &other, vec![service("b")], in_round(&company))
            .await;
        play.announce_round(&mut company, FINAL_DEPTH).await;
        play.settled(2, &other, 2, update_state::FINAL).await;
        play.resolves(1, &did, 2).await;

        // And after its controller has left.
        play.expects_trouble = true;
        let id = company.id;
        let leave = ParticipantInput::Leave {
            even_if_frozen: true,
        };
        play.ask(1, move |agent| agent.command_participant(id, leave))
            .await;
        play.resolves(1, &did, 2).await;
        play.resolves(2, &other, 2).await;
        // The other's beacon has ended: only its own is left.
        eventually("the end", || {
            let rows = play.file(2).view().cohorts().unwrap();
            rows.iter().any(|row| row.ended.is_some())
        })
        .await;
        let ended = "is ended: no round of it will announce anything";
        play.refused(2, &other, service("c"), in_round(&company), ended)
            .await;
        // So that is what takes the dead beacon out of its document, once it is paid for.
        let handle = play.stage.actors[2].handle.clone();
        let (plan, failed) = handle.remove_beacons(id).await.unwrap();
        assert!(!plan.ends_for_all);
        assert!(
            failed[0].contains("signed, and not announced"),
            "{failed:?}"
        );
        assert!(
            matches!(plan.dids[0].step, ExitStep::Removing(_)),
            "{plan:?}"
        );
        let document = play.document(2, &other).1;
        let own = document
            .beacons()
            .iter()
            .find(|beacon| beacon.id.ends_with("#initialP2TR"));
        play.pay(&own.unwrap().address, 20_000);
        let announce = btcr2_agent::agent::singleton::Announce::default();
        play.announce_singly(2, &other, &announce).await.unwrap();
        play.stage.mine(FINAL_DEPTH).unwrap();
        play.settled(2, &other, 3, update_state::FINAL).await;
        let document = play.resolves(2, &other, 3).await;
        assert_eq!(document.beacons().len(), 1);
        play.close().await;
    }
}

/// What waits for a cohort that ends says so, and can be announced elsewhere with the same bytes.
#[tokio::test]
async fn an_update_that_waits_for_an_ended_cohort_gets_another_route() {
    let mut play = Play::open(3).await;
    let mut company = play.found(CohortBeacon::Cas, 0, &[1, 2]).await;
    play.create_dids(&mut company, &[1, 2]).await;
    let did = company.dids[0].did.clone();
    let queued = play
        .updated(1, &did, vec![service("a")], in_round(&company))
        .await;
    play.expects_trouble = true;
    let id = company.id;
    let leave = ParticipantInput::Leave {
        even_if_frozen: true,
    };
    play.ask(2, move |agent| agent.command_participant(id, leave))
        .await;
    eventually("the reason", || {
        let row = play.row(1, &did, 2).unwrap();
        row.reason
            .is_some_and(|reason| reason.contains("the cohort has ended"))
    })
    .await;
    let of = did.clone();
    let route = play
        .ask(1, move |agent| agent.reroute_update(&of, 2, &SINGLY))
        .await;
    assert_eq!(route.service(), Some(&*format!("{did}#initialP2TR")));
    let row = play.row(1, &did, 2).unwrap();
    assert_eq!(
        (row.hash, row.cohort, row.reason),
        (queued.hash, None, None)
    );
    assert_eq!(row.service.as_deref(), route.service());
    play.close().await;
}
