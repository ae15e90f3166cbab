//! What may be done with money, and what a transaction does with it.

use super::{Align, Page, Render, Table, sat, when};
use crate::agent::control::views::{MainnetState, MoneyView, TxView};

impl Render for MoneyView {
    fn render(&self, page: &mut Page) {
        page.set_now(self.now);
        match &self.stopped {
            Some(stopped) => {
                page.heading("MONEY IS STOPPED: nothing is spent and nobody is asked to pay");
                page.field_if("since", stopped.at.map(|at| when(page.now(), at)));
                page.field_if(
                    "reason",
                    stopped
                        .reason
                        .as_ref()
                        .map(|reason| reason.as_str().to_owned()),
                );
                let undo = if stopped.file {
                    format!("remove {} by hand, then start the agent again", self.switch)
                } else {
                    "the file is gone; start the agent again".to_owned()
                };
                page.field("to undo", &undo);
            }
            None => {
                page.heading("Money may move");
                page.field("kill switch", &self.switch);
                page.field("to stop", "`btcr2-agent money stop`");
            }
        }
        page.field(
            "mainnet",
            match (self.mainnet, self.running) {
                (MainnetState::On, _) => "ON",
                (MainnetState::AllowedOnly, true) => {
                    "off: config.toml allows it, the agent was started without --mainnet"
                }
                (MainnetState::AllowedOnly, false) => "config.toml allows it; no agent runs",
                (MainnetState::Off, _) => "off",
            },
        );
        page.field(
            "fee",
            &format!("at most {} a transaction", sat(self.max_fee_sat)),
        );
        page.field(
            "asked for",
            &format!("at most {} at once", sat(self.max_funding_sat)),
        );
        page.field(
            "balance",
            &format!("at most {} an address", sat(self.max_balance_sat)),
        );
        page.heading("Fee rates in sat/vB");
        let mut table = Table::new([
            ("network", Align::Left),
            ("floor", Align::Right),
            ("ceiling", Align::Right),
            ("without estimate", Align::Right),
        ]);
        for fees in &self.fees {
            table.row([
                fees.network.to_string(),
                fees.floor.to_string(),
                fees.ceiling.to_string(),
                fees.fallback.to_string(),
            ]);
        }
        page.table(&table);
    }
}

impl Render for TxView {
    fn render(&self, page: &mut Page) {
        page.heading(&format!("Transaction {}", self.txid));
        page.field("what", &self.text);
        page.field_if("network", self.network.map(|network| network.to_string()));
        page.field_if("cohort", self.cohort.map(|cohort| cohort.to_string()));
        page.field_if(
            "name",
            self.name.as_ref().map(|name| name.as_str().to_owned()),
        );
        page.field_if("round", self.round.map(|round| round.to_string()));
        page.field_if("rung", self.rung.map(|rung| rung.to_string()));
        page.field_if("DID", self.did.clone());
        page.field_if("version", self.version.map(|version| version.to_string()));
        page.field_if("commits to", self.signal.map(|signal| signal.to_string()));
        let size = if self.signed {
            format!("{} vB", self.vsize)
        } else {
            format!("{} vB once signed by the key path", self.vsize)
        };
        match (self.fee_sat, self.fee_rate) {
            (Some(fee), Some(rate)) => {
                page.field("fee", &format!("{} ({size} at {rate} sat/vB)", sat(fee)));
            }
            _ => page.field("size", &format!("{size}; the fee is not known here")),
        }
        page.field("weight", &format!("{} WU", self.weight));
        page.field_if(
            "lock",
            self.lock_blocks
                .map(|blocks| format!("{blocks} blocks after what it spends")),
        );
        let chain = match (self.confirmations, self.height) {
            (Some(0), _) => "in the mempool".to_owned(),
            (Some(n), Some(height)) => format!("block {height}, {n} confirmations"),
            (Some(n), None) => format!("{n} confirmations"),
            (None, _) if self.signed => "not seen".to_owned(),
            (None, _) => "not signed".to_owned(),
        };
        page.field("chain", &chain);
        if !self.commits_to.is_empty() {
            page.heading("Announces, as far as it is known here");
            let mut table = Table::new([("DID", Align::Left), ("update", Align::Left)]);
            for commitment in &self.commits_to {
                let update = commitment.update.clone();
                table.row([
                    commitment.did.clone(),
                    update.unwrap_or_else(|| commitment.says.clone()),
                ]);
            }
            page.table(&table);
        }
        page.heading("Spends");
        let mut table = Table::new([
            ("output", Align::Left),
            ("sat", Align::Right),
            ("what", Align::Left),
        ]);
        for input in &self.inputs {
            let value = input.value_sat.map(|value| value.to_string());
            table.row([
                input.outpoint.clone(),
                value.unwrap_or_else(|| "?".to_owned()),
                input.what.clone(),
            ]);
        }
        page.table(&table);
        page.heading("Pays");
        let mut table = Table::new([
            ("to", Align::Left),
            ("sat", Align::Right),
            ("what", Align::Left),
        ]);
        for output in &self.outputs {
            table.row([
                output.to.clone(),
                output.value_sat.to_string(),
                output.what.clone(),
            ]);
        }
        page.table(&table);
        for warning in &self.warnings {
            page.field("note", warning);
        }
    }
}
