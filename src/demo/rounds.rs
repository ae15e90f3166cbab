//! The rounds of the demo: who updates, who declines, who leaves for good.

use serde_json::json;

use super::DemoError;
use super::story::{DemoDid, SHOWN, Story};
use crate::agent::dids::{Change, Via};
use crate::agent::timeline::short_did;
use crate::did::Did;
use crate::hash::CohortId;
use crate::protocol::Round;
use crate::protocol::aggregator::AggregatorInput;
use crate::resolver::DEFAULT_MIN_CONF;

/// The first round that can deactivate a DID which was updated before and is final.
const FIRST_FAREWELL: u32 = 3;

impl Story<'_> {
    /// One round: some members update, the others decline. In the last of three or more, one DID that was
    /// updated before is deactivated.
    pub(super) async fn round(&mut self, cohort: CohortId, round: Round) -> Result<(), DemoError> {
        let mut announced = Vec::new();
        for place in self.updating(round) {
            let service = format!("#service-{round}");
            let change = Change::AddService {
                id: service.clone(),
                kind: "LinkedDomains".into(),
                endpoint: json!("https://example.com/"),
            };
            announced.push(self.update(place, change, cohort).await?);
            if let Some(known) = self.dids.get_mut(place) {
                known.services.push(service);
            }
        }
        if let Some(place) = self.leaving(round) {
            announced.push(self.update(place, Change::Deactivate, cohort).await?);
            if let Some(known) = self.dids.get_mut(place) {
                known.deactivated = true;
            }
        }
        self.stage
            .ask(0, move |agent| {
                agent.command_aggregator(cohort, AggregatorInput::OpenRound)
            })
            .await?;
        self.wait(&format!("the broadcast of round {round}"), move |world| {
            world
                .rounds
                .get(&round)
                .is_some_and(|seen| seen.took.is_some())
        })
        .await?;
        let height = self.stage.mine(1)?;
        self.world.say(
            "chain",
            "mined",
            &format!("verified its script with libbitcoinconsensus and mined it in block {height}"),
            json!({ "height": height }),
        );
        let txid = self.world.rounds.get(&round).and_then(|seen| seen.txid);
        let members = usize::from(self.plan.members);
        self.wait(
            &format!("the confirmation of round {round}"),
            move |world| {
                let everybody = world
                    .seen
                    .iter()
                    .skip(1)
                    .take(members)
                    .all(|seen| txid.is_some_and(|txid| seen.confirmed.contains(&txid)));
                everybody
                    && world.rounds.get(&round).is_some_and(|seen| seen.confirmed)
                    && announced.iter().all(|(owner, did, version)| {
                        let seen = world.seen.get(*owner);
                        seen.and_then(|seen| seen.versions.get(did.as_str()))
                            .is_some_and(|known| known >= version)
                    })
            },
        )
        .await?;
        // The next update of the same DID needs this one final, and so does whoever resolves it.
        self.stage.mine(DEFAULT_MIN_CONF - 1)?;
        self.step(&format!("round {round} is confirmed"));
        Ok(())
    }

    /// Signs and queues one update; gives the owner, the DID and the version it leads to.
    async fn update(
        &mut self,
        place: usize,
        change: Change,
        cohort: CohortId,
    ) -> Result<(usize, Did, u64), DemoError> {
        let known = self
            .dids
            .get(place)
            .ok_or_else(|| DemoError::Wrong(format!("there is no DID {place}")))?;
        let (owner, did) = (known.owner, known.did.clone());
        let farewell = matches!(change, Change::Deactivate);
        let queued = self
            .stage
            .update(owner, &did, vec![change], Via::Cohort(Some(cohort)))
            .await?;
        if owner < SHOWN {
            let what = if farewell { "deactivation" } else { "update" };
            let text = format!(
                "resolved {}, signed its {what}: version {}",
                short_did(did.as_str()),
                queued.target_version
            );
            let actor = self.world.names.get(owner).cloned().unwrap_or_default();
            self.world.say(
                &actor,
                "update_queued",
                &text,
                json!({ "did": did, "update": queued.hash }),
            );
        }
        Ok((owner, did, queued.target_version))
    }

    /// Who updates in a round: every second member, others each time, each with a DID that has no update yet.
    fn updating(&self, round: Round) -> Vec<usize> {
        let parity = usize::try_from(round.0).unwrap_or(0) % 2;
        let free = |known: &DemoDid| known.version() == 1;
        let mut owners = Vec::new();
        let mut chosen = Vec::new();
        for (place, known) in self.dids.iter().enumerate() {
            if known.owner % 2 == parity && free(known) && !owners.contains(&known.owner) {
                owners.push(known.owner);
                chosen.push(place);
            }
        }
        if chosen.is_empty() {
            // In a long demo everybody has updated: somebody has to have something to say.
            chosen.extend(self.dids.iter().position(free));
        }
        chosen
    }

    /// The DID that is deactivated in a round.
    fn leaving(&self, round: Round) -> Option<usize> {
        if round.0 < FIRST_FAREWELL || round.0 != self.plan.rounds {
            return None;
        }
        // Its last update is two rounds old: every member has seen it become final.
        let before = |known: &DemoDid| {
            let early = known.services.first();
            early.is_some_and(|service| *service == format!("#service-{}", Round(round.0 - 2)))
        };
        self.dids.iter().position(before)
    }
}
