//! How the program's values are written in columns.
//!
//! Keys and hashes are BLOBs of their raw bytes (`hex(…)` shows them in an SQLite shell); names are
//! TEXT; times are INTEGER seconds since 1970; transaction ids are TEXT as explorers show them. Values of the core
//! have their columns there (its feature `rusqlite`).

use std::str::FromStr;

use crate::nostr::{EventId, RelayUrl};
use bitcoin::Txid;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

use crate::network::Network;

/// The part an agent plays in a cohort. One agent may play both in the same cohort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Runs the cohort.
    Aggregator,
    /// Is, or wants to be, a member of it.
    Participant,
}

/// Defines the TEXT column form of an enum, and its inverse.
macro_rules! text_enum {
    ($type:ty { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $type {
            /// The name in the store.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }

        impl rusqlite::types::ToSql for $type {
            fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
                Ok(rusqlite::types::ToSqlOutput::from(self.name()))
            }
        }

        impl rusqlite::types::FromSql for $type {
            fn column_result(
                value: rusqlite::types::ValueRef<'_>,
            ) -> rusqlite::types::FromSqlResult<Self> {
                match value.as_str()? {
                    $($name => Ok(Self::$variant),)+
                    other => Err($crate::store::value::unreadable(&format!("unknown name {other:?}"))),
                }
            }
        }
    };
}
pub(super) use text_enum;

text_enum!(Role {
    Aggregator => "aggregator",
    Participant => "participant",
});

/// An error for a column that does not hold what was written there.
pub(super) fn unreadable(why: &str) -> FromSqlError {
    FromSqlError::Other(why.to_owned().into())
}

/// A column of a type of another crate or of a list as JSON: rusqlite's traits can not be
/// implemented for those directly.
pub(super) struct Column<T>(pub(super) T);

impl ToSql for Column<u64> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        i64::try_from(self.0)
            .map(ToSqlOutput::from)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
    }
}

impl FromSql for Column<u64> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let value = value.as_i64()?;
        u64::try_from(value)
            .map(Self)
            .map_err(|_| FromSqlError::OutOfRange(value))
    }
}

impl ToSql for Column<EventId> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Blob(self.0.as_bytes())))
    }
}

impl FromSql for Column<EventId> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        <[u8; 32]>::column_result(value).map(|bytes| Self(EventId::from_bytes(bytes)))
    }
}

impl ToSql for Column<Txid> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.0.to_string()))
    }
}

impl FromSql for Column<Txid> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Txid::from_str(value.as_str()?)
            .map(Self)
            .map_err(|error| FromSqlError::Other(Box::new(error)))
    }
}

impl ToSql for Column<RelayUrl> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        // One spelling per relay, so that the same relay is never two rows.
        Ok(ToSqlOutput::from(self.0.as_str().to_owned()))
    }
}

impl FromSql for Column<RelayUrl> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        RelayUrl::parse(value.as_str()?)
            .map(Self)
            .map_err(|error| FromSqlError::Other(Box::new(error)))
    }
}

impl ToSql for Column<Vec<RelayUrl>> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let urls: Vec<&str> = self.0.iter().map(RelayUrl::as_str).collect();
        to_json(&urls)
    }
}

impl FromSql for Column<Vec<RelayUrl>> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let urls: Vec<String> = from_json(value)?;
        urls.iter()
            .map(|url| RelayUrl::parse(url))
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(|error| FromSqlError::Other(Box::new(error)))
    }
}

impl ToSql for Column<Vec<Network>> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        to_json(&self.0)
    }
}

impl FromSql for Column<Vec<Network>> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        from_json(value).map(Self)
    }
}

fn to_json<T: serde::Serialize>(value: &T) -> rusqlite::Result<ToSqlOutput<'static>> {
    serde_json::to_string(value)
        .map(ToSqlOutput::from)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn from_json<T: serde::de::DeserializeOwned>(value: ValueRef<'_>) -> FromSqlResult<T> {
    serde_json::from_str(value.as_str()?).map_err(|error| FromSqlError::Other(error.into()))
}
