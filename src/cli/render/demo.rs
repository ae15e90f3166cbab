//! The closing tables of the demo.

use super::{Align, Page, Render, Table, sat, thousands};
use crate::agent::control::views::DemoReport;
use crate::agent::timeline::short_did;

impl Render for DemoReport {
    fn render(&self, page: &mut Page) {
        page.heading(&format!(
            "{} beacon {}, {} members, {} rounds in {}",
            self.beacon,
            self.address,
            self.agents.len().saturating_sub(1),
            self.rounds.len(),
            seconds(self.took_ms)
        ));
        let mut table = Table::new([
            ("round", Align::Right),
            ("transaction", Align::Left),
            ("signal bytes", Align::Left),
            ("size", Align::Right),
            ("fee", Align::Right),
            ("opening to broadcast", Align::Right),
        ]);
        for round in &self.rounds {
            table.row([
                round.round.to_string(),
                round.txid.to_string(),
                round.signal.to_string(),
                format!("{} vB", thousands(round.vsize)),
                sat(round.fee_sat),
                seconds(round.took_ms),
            ]);
        }
        page.table(&table);
        page.heading("Agents");
        let mut table = Table::new([
            ("agent", Align::Left),
            ("DIDs", Align::Right),
            ("announced", Align::Right),
            ("declined", Align::Right),
            ("proved", Align::Right),
            ("relay", Align::Left),
            ("events", Align::Right),
            ("bytes", Align::Right),
        ]);
        for agent in &self.agents {
            let head = [
                agent.actor.clone(),
                agent.dids.to_string(),
                agent.announced.to_string(),
                agent.declined.to_string(),
                agent.proved.to_string(),
            ];
            // One line per relay; the agent's own columns stand on the first only.
            let mut head = Some(head);
            for relay in &agent.relays {
                let [actor, dids, announced, declined, proved] = head.take().unwrap_or_default();
                table.row([
                    actor,
                    dids,
                    announced,
                    declined,
                    proved,
                    relay.relay.clone(),
                    thousands(relay.events),
                    thousands(relay.bytes),
                ]);
            }
            if let Some([actor, dids, announced, declined, proved]) = head {
                table.row([
                    actor,
                    dids,
                    announced,
                    declined,
                    proved,
                    String::new(),
                    "0".to_owned(),
                    "0".to_owned(),
                ]);
            }
        }
        page.table(&table);
        page.heading("DIDs, resolved from the chain and their sidecars");
        let mut table = Table::new([
            ("DID", Align::Left),
            ("controller", Align::Left),
            ("version", Align::Right),
            ("confirmations", Align::Right),
            ("signals explained", Align::Right),
            ("sidecar", Align::Right),
            ("what its updates did", Align::Left),
        ]);
        for did in &self.dids {
            let mut done: Vec<String> = did
                .services
                .iter()
                .map(|id| format!("added {id}"))
                .collect();
            if did.deactivated {
                done.push("deactivated".to_owned());
            }
            table.row([
                short_did(&did.did),
                did.controller.clone(),
                did.version.to_string(),
                did.confirmations.to_string(),
                did.signals.to_string(),
                format!("{} B", thousands(did.sidecar_bytes)),
                if done.is_empty() {
                    "-".to_owned()
                } else {
                    done.join(", ")
                },
            ]);
        }
        page.table(&table);
    }
}

/// Milliseconds as seconds: `1.234 s`.
fn seconds(ms: u64) -> String {
    format!("{}.{:03} s", thousands(ms / 1000), ms % 1000)
}
