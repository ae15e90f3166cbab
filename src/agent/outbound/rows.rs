//! Rows of the outbox as the store has them.

use crate::agent::error::AgentError;
use crate::nostr::lanes::LaneId;
use crate::nostr::outbox::Row;
use crate::protocol::message::Message;
use crate::store::{Lane, NewOutboxRow, OutboxRow, Tx};

pub(super) fn insert_row(tx: &Tx<'_>, row: &Row) -> Result<(), AgentError> {
    let state = state_json(row)?;
    let json = row.event.to_json();
    tx.insert_outbox(&new_outbox_row(row, &json, &state))?;
    Ok(())
}

pub(super) fn new_outbox_row<'a>(row: &Row, json: &'a str, state: &'a str) -> NewOutboxRow<'a> {
    NewOutboxRow {
        event_id: row.event.id,
        event: json,
        cohort: row.lane.map(|lane| lane.cohort).or_else(|| {
            let advert = row.event.kind == crate::nostr::event::KIND_ADVERT;
            row.event.tag("d").filter(|_| advert)?.parse().ok()
        }),
        lane: row
            .lane
            .filter(|_| row.seq > 0)
            .map(|lane| (store_lane(lane), row.seq)),
        kind: kind_name(&row.kind),
        created: row.event.created_at,
        expires: row.expires,
        state,
    }
}

/// The name of a message type as it is stored: foreign words never get there.
pub(super) fn kind_name(kind: &str) -> &'static str {
    const OTHER: [&str; 5] = ["advert", "relay_list", "channel_key", "parts", "chunk"];
    Message::TYPES
        .iter()
        .chain(&OTHER)
        .find(|name| **name == kind)
        .copied()
        .unwrap_or("other")
}

/// The state of a row as it is stored: without the event, which has a column of its own.
pub(super) fn state_json(row: &Row) -> Result<String, AgentError> {
    let defect = |_| AgentError::Defect("an outbox row has no JSON");
    let mut state = serde_json::to_value(row).map_err(defect)?;
    if let Some(fields) = state.as_object_mut() {
        fields.remove("event");
    }
    serde_json::to_string(&state).map_err(defect)
}

/// A row as it is stored. Earlier releases stored the event with the state, too.
pub(in crate::agent) fn read_row(stored: &OutboxRow) -> Result<Row, serde_json::Error> {
    let mut state: serde_json::Value = serde_json::from_str(&stored.state)?;
    if let Some(fields) = state.as_object_mut()
        && !fields.contains_key("event")
    {
        fields.insert("event".to_owned(), serde_json::from_str(&stored.event)?);
    }
    serde_json::from_value(state)
}

pub(in crate::agent) const fn store_lane(lane: LaneId) -> Lane {
    Lane {
        author: lane.author,
        recipient: lane.recipient,
        cohort: lane.cohort,
    }
}

pub(super) const fn lane_id(lane: Lane) -> LaneId {
    LaneId {
        author: lane.author,
        recipient: lane.recipient,
        cohort: lane.cohort,
    }
}
