//! Names of inputs and of reasons, for the log's readers and for counting.

use super::node::NodeInput;
use crate::protocol::aggregator::AggregatorInput;
use crate::protocol::effect::Ignored;
use crate::protocol::participant::ParticipantInput;

/// A name for an input, for the log's readers.
pub(super) fn kind_of(input: &NodeInput) -> &'static str {
    match input {
        NodeInput::Aggregator(input) => match input {
            AggregatorInput::Advertise { .. } => "advertise",
            AggregatorInput::Message { message, .. } => message.type_name(),
            AggregatorInput::Tick => "tick",
            AggregatorInput::Chain(_) => "chain",
            AggregatorInput::Broadcast { .. } => "broadcast",
            AggregatorInput::Close => "close",
            AggregatorInput::Bump => "bump",
            AggregatorInput::OpenRound => "open_round",
            AggregatorInput::Protect { .. } => "protect",
            AggregatorInput::Release { .. } => "release",
            AggregatorInput::Decide(_) => "decide",
            AggregatorInput::Reform { .. } => "reform",
            AggregatorInput::Cancel => "cancel",
            AggregatorInput::Restored => "restored",
            AggregatorInput::Money { .. } => "money",
            AggregatorInput::MaxFee { .. } => "max_fee",
        },
        NodeInput::Participant(input) => match input {
            ParticipantInput::Ticket(_) => "ticket",
            ParticipantInput::Join { .. } => "join",
            ParticipantInput::Message { message, .. } => message.type_name(),
            ParticipantInput::Tick => "tick",
            ParticipantInput::Chain(_) => "chain",
            ParticipantInput::Broadcast { .. } => "broadcast",
            ParticipantInput::Prepared(_) => "prepared",
            ParticipantInput::Signed(_) => "signed",
            ParticipantInput::SignFailed { .. } => "sign_failed",
            ParticipantInput::FallbackSigned { .. } => "fallback_signed",
            ParticipantInput::Register { .. } => "register",
            ParticipantInput::Open { .. } => "open",
            ParticipantInput::Bound { .. } => "bound",
            ParticipantInput::Deposit(_) => "deposit",
            ParticipantInput::Queue { .. } => "queue",
            ParticipantInput::Withdraw { .. } => "withdraw",
            ParticipantInput::Leave { .. } => "leave",
            ParticipantInput::Recalled(_) => "recalled",
            ParticipantInput::Lost { .. } => "lost",
            ParticipantInput::Fetch { .. } => "fetch",
            ParticipantInput::Policy(_) => "policy",
            ParticipantInput::Restarted => "restarted",
            ParticipantInput::Recovered => "recovered",
            ParticipantInput::Reseat { .. } => "reseat",
            ParticipantInput::Regained { .. } => "regained",
        },
    }
}

pub(super) fn reason_name(reason: &Ignored) -> String {
    let json = serde_json::to_value(reason).unwrap_or_default();
    match json {
        serde_json::Value::String(name) => name,
        serde_json::Value::Object(map) => map.keys().next().cloned().unwrap_or_default(),
        _ => "unknown".into(),
    }
}
