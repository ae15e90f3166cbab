//! Rounds, endings and delivery.

use super::{Align, Page, Render, Table, relative, sat, short_npub, when};
use crate::agent::control::views::{
    DeliveryView, EndView, Recipient, RelayReceipt, RoundState, RoundView,
};
use crate::protocol::Seat;
use crate::protocol::confirmation::WatchState;

/// Seats in a line: `seats 1, 4 and 7`.
pub(super) fn seats(seats: &[Seat]) -> String {
    const SHOWN: usize = 8;
    let names: Vec<String> = seats.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = seats.len().saturating_sub(SHOWN);
    let noun = if seats.len() == 1 { "seat" } else { "seats" };
    match (names.split_last(), more) {
        (None, _) => "nobody".to_owned(),
        (Some((last, [])), 0) => format!("{noun} {last}"),
        (Some((last, rest)), 0) => format!("{noun} {} and {last}", rest.join(", ")),
        (Some(_), more) => format!("{noun} {} and {more} more", names.join(", ")),
    }
}

impl Render for EndView {
    fn render(&self, page: &mut Page) {
        page.field("ended", &when(page.now(), self.at));
        page.field("cause", &format!("{}: {}", self.cause, self.text));
        if !self.by.is_empty() && self.culprits.is_empty() {
            page.field("put down to", &seats(&self.by));
        }
        for culprit in &self.culprits {
            let seat = culprit
                .seat
                .map_or_else(String::new, |seat| format!("seat {seat} "));
            let key = culprit.key.map(short_npub).unwrap_or_default();
            let told = format!("{seat}{key}: {} ({})", culprit.did, culprit.known_by);
            page.field("put down to", &told);
        }
        page.field("known by", &self.known_by.to_string());
    }
}

impl Render for RoundView {
    fn render(&self, page: &mut Page) {
        page.heading(&format!("Round {} · {}", self.round, self.state));
        page.field("opened", &when(page.now(), self.opened_at));
        page.field_if("deadline", self.deadline.map(|at| when(page.now(), at)));
        page.field("responses", &self.responses.to_string());
        page.field("signatures", &self.partials.to_string());
        if !self.waiting_for.is_empty() {
            page.field("waiting for", &seats(&self.waiting_for));
        }
        if self.attempt > 1 {
            page.field("signing attempt", &self.attempt.to_string());
        }
        page.field_if("updates", self.updates.map(|n| n.to_string()));
        for own in &self.own {
            let proof = if own.proved {
                "proof stored"
            } else {
                "no proof yet"
            };
            page.field("own", &format!("{}: {}, {proof}", own.did, own.said));
        }
        page.field_if("signal", self.signal.map(|bytes| bytes.to_string()));
        page.field_if("transaction", self.txid.map(|txid| txid.to_string()));
        page.field_if("fee", self.fee_sat.map(sat));
        if self.txid.is_some() {
            page.field("confirmations", &self.confirmations.to_string());
        }
        signed(self, page);
        if let Some(end) = &self.end {
            end.render(page);
        }
    }
}

/// Past rounds, one line each.
pub(super) fn past_rounds(rounds: &[RoundView], page: &mut Page) {
    let mut table = Table::new([
        ("round", Align::Right),
        ("state", Align::Left),
        ("opened", Align::Left),
        ("updates", Align::Right),
        ("fee", Align::Right),
        ("conf.", Align::Right),
        ("transaction or cause", Align::Left),
    ]);
    for round in rounds {
        let outcome = match (&round.end, round.txid) {
            (Some(end), _) => format!("{}: {}", end.cause, end.text),
            (None, Some(txid)) => txid.to_string(),
            (None, None) => String::new(),
        };
        table.row([
            round.round.to_string(),
            round.state.to_string(),
            relative(page.now(), round.opened_at),
            round.updates.map(|n| n.to_string()).unwrap_or_default(),
            round.fee_sat.map(sat).unwrap_or_default(),
            round
                .txid
                .map(|_| round.confirmations.to_string())
                .unwrap_or_default(),
            outcome,
        ]);
    }
    page.table(&table);
    for round in rounds {
        signed(round, page);
    }
}

/// Where each transaction of a round is, when the line of the round does not say it all.
fn signed(round: &RoundView, page: &mut Page) {
    let settled = |state: &RoundState| matches!(state, RoundState::Final | RoundState::Confirmed);
    // The rungs above the one that was sent are held back: that is how it should be.
    let whole = round.signed.iter().filter(|tx| tx.complete).count();
    let leaf = round.signed.iter().any(|tx| tx.through_leaf);
    let one = whole <= 1 && !leaf && round.state != RoundState::Conflicted;
    if settled(&round.state) || one {
        return;
    }
    for tx in &round.signed {
        let which = match tx.rung {
            Some(rung) => format!("rung {rung}, "),
            None if tx.through_leaf => "through the leaf, ".to_owned(),
            None => String::new(),
        };
        let kind = if tx.complete {
            "to be sent by this agent"
        } else {
            "held back, or not whole here"
        };
        // Whatever confirms, the others of its round give way to it.
        let fate = match &tx.state {
            WatchState::Conflicted { by, .. } if round.signed.iter().any(|tx| tx.txid == *by) => {
                format!("gives way to {by}")
            }
            state => format!("{state}, {kind}"),
        };
        page.line(&format!(
            "  round {}, {which}{}: {fate}",
            round.round, tx.txid
        ));
    }
}

/// Every message with its relays and acknowledgements, refusals and silences spelled out.
pub(super) fn delivery(messages: &[DeliveryView], page: &mut Page) {
    let mut table = Table::new([
        ("message", Align::Left),
        ("about", Align::Left),
        ("to", Align::Left),
        ("sent", Align::Left),
        ("relays", Align::Left),
        ("acknowledged", Align::Left),
    ]);
    let mut troubles: Vec<String> = Vec::new();
    for message in messages {
        let took = message
            .relays
            .iter()
            .filter(|relay| relay.receipt == RelayReceipt::Ok)
            .count();
        let acknowledged = if message.acknowledged.of == 0 {
            "not asked for".to_owned()
        } else if message.waiting_for.is_empty() {
            message.acknowledged.to_string()
        } else {
            format!(
                "{}, not {}",
                message.acknowledged,
                seats(&message.waiting_for)
            )
        };
        table.row([
            message.message.clone(),
            match (message.round, message.deposit) {
                (_, Some(deposit)) => format!("refund of deposit {deposit}"),
                (Some(round), None) => format!("round {round}"),
                (None, None) => String::new(),
            },
            recipient(message.to),
            relative(page.now(), message.sent_at),
            format!("{took}/{} ok", message.relays.len()),
            acknowledged,
        ]);
        for relay in &message.relays {
            let reason = relay.reason.as_ref().map(|reason| format!(": {reason}"));
            let trouble = format!(
                "  {} {}{}",
                relay.relay,
                relay.receipt,
                reason.unwrap_or_default()
            );
            if relay.receipt != RelayReceipt::Ok && !troubles.contains(&trouble) {
                troubles.push(trouble);
            }
        }
    }
    page.table(&table);
    for trouble in troubles {
        page.line(&trouble);
    }
}

fn recipient(to: Recipient) -> String {
    match to {
        Recipient::Channel => "all members".to_owned(),
        Recipient::Aggregator(_) => "aggregator".to_owned(),
        Recipient::Member { seat, .. } => format!("seat {seat}"),
        Recipient::Key(key) => super::short_npub(key),
        Recipient::Public => "everybody".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_read_as_a_sentence_and_stay_short() {
        let list = |n: u16| seats(&(0..n).map(Seat).collect::<Vec<_>>());
        assert_eq!(list(0), "nobody");
        assert_eq!(list(1), "seat 0");
        assert_eq!(list(2), "seats 0 and 1");
        assert_eq!(list(3), "seats 0, 1 and 2");
        assert_eq!(list(100), "seats 0, 1, 2, 3, 4, 5, 6, 7 and 92 more");
    }
}
