//! Where signed transactions are, and what needs a person, as people see it.

use crate::agent::control::views as v;
use crate::agent::control::{Failure, PeerText, request as r};
use crate::agent::journal::{Alarm, RoundRecord};
use crate::agent::launch::agent_failure;
use crate::agent::node::Node;
use crate::agent::runtime::Agent;
use crate::protocol::confirmation::{WatchState, Watched};
use crate::protocol::ids::Round;
use crate::protocol::terms::OutputPolicy;

/// A round's state on the chain, its transaction and everything signed for it.
pub(super) struct OnChain {
    pub(super) state: Option<v::RoundState>,
    pub(super) txid: Option<bitcoin::Txid>,
    pub(super) height: Option<u32>,
    pub(super) signed: Vec<v::SignedTxView>,
}

/// Whether some of the members signed it through the fallback leaf. Such a one is no rung: members are asked for one after
/// the other, and nobody numbers them.
fn is_through_leaf(node: &Node, watched: &Watched) -> bool {
    match watched.transaction() {
        // The key path has one signature; the leaf shows its script.
        Some(tx) => tx.input.iter().any(|input| input.witness.len() > 1),
        None => {
            let leaf = matches!(node.terms().output_policy, OutputPolicy::KOfN(_));
            let known = node.recognise(&watched.txid);
            leaf && known.is_some_and(|known| known.rung.is_none())
        }
    }
}

/// What the chain says of a round now (rule 9).
pub(super) fn on_chain(node: &Node, round: Round, record: &RoundRecord) -> OnChain {
    let (watch, chain) = (node.watch(), node.chain());
    let signed: Vec<v::SignedTxView> = watch
        .of_round(round)
        .map(|watched| v::SignedTxView {
            rung: (!is_through_leaf(node, watched))
                .then(|| node.recognise(&watched.txid)?.rung)
                .flatten(),
            through_leaf: is_through_leaf(node, watched),
            txid: watched.txid,
            complete: watched.is_complete(),
            state: watched.state(chain),
        })
        .collect();
    let foremost = watch.foremost(round, chain);
    let (state, height) = match foremost.map(|(_, state)| state) {
        // As far as this agent knows, nothing is on its way: the round's own steps say more.
        Some(WatchState::Signed) | None => (None, None),
        Some(WatchState::Broadcast) => (Some(v::RoundState::Broadcast), None),
        Some(WatchState::Mempool) => (Some(v::RoundState::Mempool), None),
        Some(WatchState::Confirmed { height }) => (Some(v::RoundState::Confirmed), Some(height)),
        Some(WatchState::Final { height }) => (Some(v::RoundState::Final), Some(height)),
        // A later attempt may still be signed for another output.
        Some(WatchState::Conflicted { .. }) if !record.signed => (None, None),
        Some(WatchState::Conflicted { .. }) => (Some(v::RoundState::Conflicted), None),
        Some(WatchState::ReorgedOut { .. }) => (Some(v::RoundState::ReorgedOut), None),
    };
    let known = foremost.filter(|_| state.is_some());
    OnChain {
        state,
        txid: known.map(|(watched, _)| watched.txid).or(record.txid),
        height,
        signed,
    }
}

/// An alarm of a cohort.
pub(super) fn alarm_view(node: &Node, alarm: &Alarm) -> v::AlarmView {
    let cohort = node.id.0.short();
    let look = format!(
        "look at `btcr2-agent cohort show {cohort}`; `btcr2-agent cohort acknowledge {cohort}` once that is done"
    );
    let spend = "stop using this beacon: whoever made it has the keys of all seats, or one of them signed elsewhere. \
                 Do not fund it; move DIDs to another beacon.";
    let remedy = match &*alarm.code {
        "unknown_spend" => format!("{spend} {look}"),
        _ => look,
    };
    v::AlarmView {
        at: alarm.at,
        code: alarm.code.clone().into_owned(),
        text: PeerText::from(format!("cohort {cohort}: {}", alarm.text)),
        remedy: Some(remedy),
    }
}

impl Agent {
    /// The user has seen what is wrong: it is not shown any more, and stays in the log.
    pub(super) fn acknowledge(&mut self, args: &r::OneCohort) -> Result<v::CohortView, Failure> {
        let id = self.find_cohort(&args.cohort, None)?;
        self.acknowledge_alarms(id).map_err(agent_failure)?;
        self.cohort_view(id, super::DEFAULT_ROUNDS)
    }
}
