//! The money gate (rule 11): the kill switch of an agent is pulled, and let go with a restart, as `agent/money.rs` has
//! it. While it is pulled nothing is signed, nothing is sent to the chain, and nobody is asked to sign.

use btcr2_core::protocol::aggregator::AggregatorInput;
use btcr2_core::protocol::message::Message;

use super::process::Input;
use super::world::World;

impl World {
    /// The switch is pulled: an aggregator is told, a member just does not sign.
    pub fn stop_money(&mut self, i: usize) {
        self.count("switches pulled");
        self.line(40, i, 0, || "its money is stopped".into());
        self.processes[i].stopped = true;
        if self.processes[i].up {
            self.tell_money(i);
        }
    }

    /// The switch is gone; that counts from the next start on.
    pub fn allow_money(&mut self, i: usize) {
        self.line(41, i, 0, || "its money may move again".into());
        self.processes[i].stopped = false;
        if self.processes[i].up {
            self.stop(i, self.now + 1, true);
        }
    }

    /// Tells an aggregator what the gate says, where that is news: at once, and after each start.
    pub fn tell_money(&mut self, i: usize) {
        if i > 0 {
            return;
        }
        let permitted = !self.processes[0].stopped;
        if self.processes[0].core.aggregator().money_is_permitted() == permitted {
            return;
        }
        self.handle(0, |world| {
            let money = AggregatorInput::Money { permitted };
            world.feed(0, Input::Aggregator(money)).map(drop)
        });
    }

    /// Whether this run stops the money of somebody.
    pub fn is_stopped_once(&self, i: usize) -> bool {
        let stops = self.config.money_stops;
        stops.is_some_and(|stops| stops.who == i)
    }

    /// Whether the switch of somebody was pulled at any time since then.
    pub fn was_stopped_since(&self, i: usize, since: u64) -> bool {
        let stops = self.config.money_stops.filter(|stops| stops.who == i);
        stops.is_some_and(|stops| stops.from <= self.now && since <= stops.until)
    }

    /// Rule 11: who may not spend does not collect what would be spent.
    pub fn check_collects(&mut self, i: usize, message: &Message) {
        let collects = matches!(
            message,
            Message::SignRequest(_) | Message::FallbackRequest(_) | Message::RoundOpen(_)
        );
        if !collects || i > 0 || !self.is_stopped_once(0) {
            return;
        }
        // Until it is told, which a crash puts off to the next start.
        let log = self.processes[0].disk.log.iter().rev();
        let told = log.filter_map(|(_, input)| match input {
            Input::Aggregator(AggregatorInput::Money { permitted }) => Some(!permitted),
            _ => None,
        });
        if told.clone().next() == Some(true) {
            let why = format!("sends a {} while money is stopped", message.type_name());
            self.broken(i, "rule 11", &why);
        }
    }
}
